"""``python -m pipeline.cli``: the `sward` command."""

from pipeline.cli import run_process

run_process()
