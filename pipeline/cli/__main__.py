"""``python -m pipeline.cli``: the `sward` command."""

import sys

from pipeline.cli.main import main

sys.exit(main())
