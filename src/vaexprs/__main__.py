"""The command ``vaexprs``, and ``python -m vaexprs``."""

from __future__ import annotations

import atexit
import gc

# New objects between two searches for garbage. Libraries and compiled programs are about 400,000 objects that
# last; with Python's default of 700, searching them takes a fifth of a short command.
COLLECT_AFTER = 50_000


def main() -> None:
    """Run the command line; Ctrl-C while it is imported ends the process without a traceback."""
    gc.set_threshold(COLLECT_AFTER, 20, 50)
    atexit.register(gc.freeze)  # what is left ends with the process: searching it takes a second
    try:
        from vaexprs.cli import main as run
    except KeyboardInterrupt:
        raise SystemExit(130) from None
    run()


if __name__ == "__main__":
    main()
