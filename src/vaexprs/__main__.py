"""``python -m vaexprs`` is the command ``vaexprs``."""

from vaexprs.cli import main

if __name__ == "__main__":
    main()
