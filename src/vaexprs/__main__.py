"""``python -m vaexprs`` is the command ``vaexprs``."""

from __future__ import annotations

from vaexprs.cli import main

if __name__ == "__main__":
    main()
