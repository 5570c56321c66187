"""Time from the start of `vaexprs demo` to its first epoch, compared with `import scvi`.

    python benchmarks/first_epoch.py --scvi PYTHON [--runs 5]

PYTHON is an interpreter with scvi-tools. The commands alternate; the first run of each does not count,
because it fills caches of files and of compiled programs.

Prints the median, minimum and maximum in seconds for both, and for `import vaexprs`, `vaexprs --help` and a
bare Python.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from pathlib import Path

from harness import parser, print_seconds, run_code, timed

HELP = "import sys; sys.argv = ['vaexprs', '--help']; from vaexprs.cli import main; main()"


def first_epoch() -> float:
    """Return the seconds from the start of the demo to the line that reports its first epoch."""
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        words = [sys.executable, "-m", "vaexprs", "demo", "--out", str(Path(folder, "demo"))]
        demo = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
        assert demo.stderr is not None
        output = b""
        while b"epoch=" not in output:
            part = demo.stderr.read1(4_096)
            if not part:
                raise SystemExit(f"the demo ended before its first epoch:\n{output.decode()[-2000:]}")
            output += part
        seconds = time.perf_counter() - start
        demo.kill()
        demo.communicate()
    return seconds


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--scvi", required=True, metavar="PYTHON", help="interpreter with scvi-tools")
    options.add_argument("--runs", type=int, default=5, help="runs of each command")
    args = options.parse_args()
    sides = {
        "vaexprs demo, to its first epoch": first_epoch,
        "import scvi": lambda: timed(run_code, args.scvi, "import scvi")[0],
        "bare Python": lambda: timed(run_code, sys.executable, "pass")[0],
        "import vaexprs": lambda: timed(run_code, sys.executable, "import vaexprs")[0],
        "vaexprs --help": lambda: timed(run_code, sys.executable, HELP)[0],
    }
    print_seconds(sides, args.runs)


if __name__ == "__main__":
    main()
