"""Mutation testing: which small mistakes in a module do its tests not notice?

    python benchmarks/mutants.py MODULE [--lines 100-200] [--again FILE] [--sample 200] [--budget 3]

Cosmic-ray makes the mistakes (`pip install -e ".[test,mutants]"`), one at a time: an operator for another, a
number one larger or smaller, a condition turned round, a loop left out, a decorator taken away. Importing
Keras and JAX takes seconds, so all that is not vaexprs is imported once; each mutant is a fork that imports
the module from its changed text (no file is touched) and runs the tests that come by its line, the fastest
first, until one fails or those that `--budget` seconds are enough for have passed.

It prints the survivors as changed lines, and a row for `benchmarks/mutants.md`. `--again` takes what was
printed before and tries its survivors only. A module takes some minutes on an idle core.

The functions of `sampling` that numba compiles are run as Python (NUMBA_DISABLE_JIT=1), without the tests
that draw millions of counts.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import importlib
import importlib.machinery
import importlib.util
import io
import json
import os
import random
import re
import resource
import signal
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from types import CodeType
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
SOURCES = ROOT / "src" / "vaexprs"
# tests of each module, and which of them take too long to run for each of hundreds of mutants
TESTS = {
    "covariances": ("test_mixture.py", "not_below_those_of_mclust or two_thousand or million or trouble"),
    "density": ("test_density.py", "nothing"),
    "likelihoods": ("test_likelihoods.py", "a_million"),
    "metrics": (
        "test_metrics.py",
        "separate_samples or integral or known_distance or two_gaussians or forest_does",
    ),
    "mixture": ("test_mixture.py", "not_below_those_of_mclust or two_thousand or million or trouble"),
    "sampling": (
        "test_sampling.py",
        "million or kolmogorov or spread_draws or own_mean or dispersions_of_their_own",
    ),
}
# The others of cosmic-ray's operators are like these: whatever notices a - for a + notices a << for it.
OPERATORS = re.compile(
    r"core/(ReplaceBinaryOperator_(Add_Sub|Sub_Add|Mul_Div|Div_Mul|FloorDiv_Mul|Mod_Mul|Pow_Mul|BitAnd_BitOr)"
    r"|ReplaceComparisonOperator_(Lt_LtE|Lt_GtE|LtE_Lt|LtE_Gt|Gt_GtE|Gt_LtE|GtE_Gt|GtE_Lt|Eq_NotEq|NotEq_Eq"
    r"|Is_IsNot|IsNot_Is)|ReplaceUnaryOperator_Delete_\w+|ReplaceTrueWithFalse|ReplaceFalseWithTrue"
    r"|ReplaceAndWithOr|ReplaceOrWithAnd|AddNot|NumberReplacer|ZeroIterationForLoop"
    r"|Replace(Break|Continue)With\w+|ExceptionReplacer|RemoveDecorator)"
)
ONE_THREAD = ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS")
MEMORY = 6 << 30  # bytes that a mutant may take
# one process, without what takes longer than most tests: assertions explained, garbage looked for
FLAGS = ["-x", "-q", "-o", "addopts=", "--hypothesis-seed=0", "--assert=plain"]
FLAGS += [f"-pno:{name}" for name in ("xdist", "cacheprovider", "unraisableexception", "cov")]


@dataclass(frozen=True)
class Mutant:
    """A module with one change."""

    operator: str
    line: int
    text: str
    before: str
    after: str

    def __str__(self) -> str:
        return f"{self.line}: {self.operator}: {self.before} -> {self.after}"


def mutants(module: str) -> list[Mutant]:
    """Return the mutants of a module in the order of their lines; those that are no Python are left out."""
    from cosmic_ray.ast import ast_nodes, get_ast
    from cosmic_ray.mutating import mutate_code
    from cosmic_ray.plugins import get_operator, operator_names

    source = (SOURCES / f"{module}.py").read_text()
    tree, found = get_ast(source), []
    for name in filter(OPERATORS.fullmatch, operator_names()):
        operator = get_operator(name)()
        places = [start for node in ast_nodes(tree) for start, _ in operator.mutation_positions(node)]
        for i, (line, _) in enumerate(places):
            if "@njit" in source.splitlines()[line - 1]:
                continue  # not there in a run without numba's compiler
            text = mutate_code(source, operator, i)
            with contextlib.suppress(SyntaxError):
                compile(text, module, "exec")
                found.append(Mutant(name.split("/")[1], line, text, *_changed(source, text)))
    return sorted(found, key=lambda mutant: mutant.line)


def _changed(before: str, after: str) -> tuple[str, str]:
    """Return the lines that differ."""
    old, new = before.splitlines(), after.splitlines()
    start = next((i for i, (a, b) in enumerate(zip(old, new, strict=False)) if a != b), 0)
    same = next(
        (i for i, (a, b) in enumerate(zip(old[::-1], new[::-1], strict=False)) if a != b), 0
    )  # lines at the end
    return tuple(" / ".join(map(str.strip, part[start : len(part) - same])) for part in (old, new))


class Changed(importlib.machinery.SourceFileLoader):
    """Loads a module from changed text."""

    def __init__(self, name: str, path: str, text: str) -> None:
        super().__init__(name, path)
        self.text = text

    def get_code(self, fullname: str) -> CodeType:
        return compile(self.text, self.path, "exec", dont_inherit=True)


class Finder:
    """Finds the changed module before the others look for it."""

    def __init__(self, module: str, text: str) -> None:
        self.name, self.path, self.text = (
            f"vaexprs.{module}",
            str(SOURCES / f"{module.replace(chr(46), chr(47))}.py"),
            text,
        )

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> Any:
        if name != self.name:
            return None
        return importlib.util.spec_from_file_location(
            name, self.path, loader=Changed(name, self.path, self.text)
        )


class Watch:
    """Notes the seconds of the processor that each test takes, and which lines of the module it comes by."""

    def __init__(self, coverage: Any) -> None:
        self.coverage, self.seconds = coverage, {}

    def pytest_runtest_logstart(self, nodeid: str) -> None:
        self.coverage.switch_context(nodeid)
        self.start = time.process_time()

    def pytest_runtest_logfinish(self, nodeid: str) -> None:
        self.seconds[nodeid] = time.process_time() - self.start


def in_fork(work: Any, limit: int) -> int:
    """Return the exit status of a function in a fork; negative if it was stopped, as after `limit` seconds.

    They are those of the processor, or ten times as many by the clock.
    """
    child = os.fork()
    if child:
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    try:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        signal.alarm(10 * limit)
        resource.setrlimit(resource.RLIMIT_CPU, (limit, limit))
        resource.setrlimit(resource.RLIMIT_DATA, (MEMORY, MEMORY))
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        os.dup2(1, 2)
        os._exit(int(work()))
    finally:
        os._exit(3)


def baseline(module: str, folder: Path) -> tuple[dict[str, float], dict[int, list[str]]]:
    """Return the seconds of each test, and the tests that come by each line; "" is the import."""
    name, slow = TESTS[module]
    path = str(SOURCES / f"{module}.py")

    def work() -> int:
        import coverage
        import pytest

        watched = coverage.Coverage(data_file=None, include=[path])
        watch = Watch(watched)
        watched.start()
        status = pytest.main([*FLAGS, f"tests/{name}", "-k", f"not ({slow})"], plugins=[watch])
        watched.stop()
        lines = watched.get_data().contexts_by_lineno(path)
        (folder / "baseline.json").write_text(json.dumps([watch.seconds, lines, list(sys.modules)]))
        return status

    if in_fork(work, 1_200):
        sys.exit(f"The tests in {name} fail without any mutant: run pytest tests/{name} first.")
    seconds, lines, imported = json.loads((folder / "baseline.json").read_text())
    ours = re.compile(r"(vaexprs|tests?_|conftest|__main__|coverage)")
    for other in imported:  # so that no fork has to
        if not ours.match(other):
            with contextlib.suppress(Exception):
                importlib.import_module(other)
    gc.freeze()
    return seconds, {int(line): tests for line, tests in lines.items()}


class Witness:
    """Notes which test failed."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def pytest_runtest_logreport(self, report: Any) -> None:
        if report.failed:
            self.file.write_text(report.nodeid)


def survives(module: str, mutant: Mutant, tests: list[str], limit: int, failed: Path) -> bool:
    """Return whether all tests pass with the mutant; `failed` is to name the one that does not."""

    def work() -> int:
        import pytest

        sys.meta_path.insert(0, Finder(module, mutant.text))
        with contextlib.redirect_stdout(io.StringIO()):
            return pytest.main([*FLAGS, *tests], plugins=[Witness(failed)])

    return in_fork(work, limit) == 0


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("module", choices=sorted(TESTS))
    parser.add_argument("--again", type=Path, help="what was printed before: only its survivors")
    parser.add_argument("--lines", default="1-100000", help="only the mutants of these, as 100-200")
    parser.add_argument("--skip", type=int, default=0, help="the first so many, tried before")
    parser.add_argument("--sample", type=int, help="so many of them; by default all, in random order")
    parser.add_argument(
        "--budget", type=float, default=3, help="seconds of the tests of a mutant; the slowest are left out"
    )
    asked = parser.parse_args()
    os.chdir(ROOT)
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # as Ctrl-C: what was found so far is counted
    os.environ.update(dict.fromkeys(ONE_THREAD, "1"), KERAS_BACKEND="jax")
    if asked.module == "sampling":
        os.environ["NUMBA_DISABLE_JIT"] = "1"
    first, last = map(int, asked.lines.split("-"))
    tried = [mutant for mutant in mutants(asked.module) if first <= mutant.line <= last]
    if asked.again:
        before = set(asked.again.read_text().splitlines())
        tried = [mutant for mutant in tried if str(mutant) in before]
    random.Random(0).shuffle(tried)  # those of the first minutes are a fair sample of all
    tried = tried[asked.skip :][: asked.sample]
    with tempfile.TemporaryDirectory() as folder:
        seconds, lines = baseline(asked.module, Path(folder))
        total = sum(seconds.values())
        print(f"{asked.module}: {len(tried)} mutants, {len(seconds)} tests, {total:.0f} s", flush=True)
        done, survived, start = 0, 0, time.monotonic()
        order = sorted(seconds, key=seconds.__getitem__)
        failed = Path(folder, "failed")
        with contextlib.suppress(KeyboardInterrupt):
            for mutant in tried:
                by = set(lines.get(mutant.line, [""]))
                tests = [test for test in order if "" in by or test in by]
                taken = np.cumsum([seconds[test] for test in tests])
                tests = [test for test, total in zip(tests, taken, strict=True) if total < asked.budget]
                failed.write_text("")
                if survives(asked.module, mutant, tests, int(3 + 2 * asked.budget), failed):
                    survived += 1
                    print(mutant, flush=True)
                elif (test := failed.read_text()) in order:  # it may tell more: first
                    order.insert(0, order.pop(order.index(test)))
                done += 1
                sys.stderr.write(f"{done}/{len(tried)} {time.monotonic() - start:.0f} s \r")
    killed = done - survived
    print(f"| {asked.module} | {len(tried)} | {done} | {killed} | {survived} | {killed / max(done, 1):.1%} |")


if __name__ == "__main__":
    main()
