"""Seconds from the start of `vaexprs demo` to its first epoch, beside those of `import scvi` alone.

    python benchmarks/first_epoch.py --scvi PYTHON [--runs 5]

PYTHON is an interpreter with scvi-tools. The two take turns; the first run of each, which fills caches of
files and of compiled programs, does not count. Also printed: `import vaexprs` and `vaexprs --help` beside
a bare Python.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

HELP = "import sys; sys.argv = ['vaexprs', '--help']; from vaexprs.cli import main; main()"


def process(python: str, code: str) -> float:
    """Return the seconds that a process takes."""
    start = time.perf_counter()
    subprocess.run([python, "-c", code], check=True, capture_output=True)
    return time.perf_counter() - start


def first_epoch() -> float:
    """Return the seconds from the start of the demo to the line that shows its first epoch."""
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        words = [sys.executable, "-m", "vaexprs", "demo", "--out", str(Path(folder, "demo"))]
        demo = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
        assert demo.stderr is not None
        seen = b""
        while b"epoch=" not in seen:
            part = demo.stderr.read1(4_096)
            if not part:
                raise SystemExit(f"the demo ended early:\n{seen.decode()[-2000:]}")
            seen += part
        taken = time.perf_counter() - start
        demo.kill()
        demo.communicate()
    return taken


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--scvi", required=True, metavar="PYTHON")
    parser.add_argument("--runs", type=int, default=5)
    asked = parser.parse_args()
    sides = {
        "vaexprs demo, to its first epoch": first_epoch,
        "import scvi": lambda: process(asked.scvi, "import scvi"),
        "bare Python": lambda: process(sys.executable, "pass"),
        "import vaexprs": lambda: process(sys.executable, "import vaexprs"),
        "vaexprs --help": lambda: process(sys.executable, HELP),
    }
    times: dict[str, list[float]] = {side: [] for side in sides}
    for run in range(asked.runs + 1):
        for side, measure in sides.items():
            taken = measure()
            if run:
                times[side].append(taken)
    for side, values in times.items():
        print(f"{side}: median {median(values):.2f} s ({min(values):.2f} to {max(values):.2f})")


if __name__ == "__main__":
    main()
