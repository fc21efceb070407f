"""python -m ferkit: the `ferkit` command."""

import sys

from ferkit.cli import main

sys.exit(main())
