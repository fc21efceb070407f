"""python -m ferkit: the `ferkit` command."""

import os
import sys
import threading

from ferkit.cli import main


def _end_with_stdin() -> None:
    """End at once when the process that holds the other end of stdin is gone, and locks with it (jobs.py)."""
    while os.read(0, 1024):
        pass
    os._exit(1)


if os.environ.pop("FERKIT_ENDS_WITH_STDIN", ""):  # ours alone: not for processes that we start
    threading.Thread(target=_end_with_stdin, daemon=True).start()
status = main()
if "TORCHELASTIC_RUN_ID" in os.environ and "ferkit.parallel" in sys.modules:  # one of torchrun's
    sys.modules["ferkit.parallel"].leave(status)
sys.exit(status)
