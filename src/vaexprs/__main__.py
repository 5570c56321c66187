"""The command ``vaexprs``, and ``python -m vaexprs``."""

from __future__ import annotations


def main() -> None:
    """Run the command line; Ctrl-C while it is imported ends the process without a traceback."""
    try:
        from vaexprs.cli import main as run
    except KeyboardInterrupt:
        raise SystemExit(130) from None
    run()


if __name__ == "__main__":
    main()
