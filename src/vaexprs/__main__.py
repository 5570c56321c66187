"""``python -m vaexprs`` is the command ``vaexprs``."""

import sys

from vaexprs.cli import main

if __name__ == "__main__":
    sys.argv[0] = "vaexprs"
    main()
