"""``python -m pipeline.cli``: the `sward` command."""

import sys

from pipeline.cli import main

sys.exit(main())
