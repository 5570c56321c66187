"""Mutation testing: which small changes of a module do its tests not detect?

    python tests/nightly/mutants.py MODULE [--lines 100-200] [--again FILE] [--sample 200] [--budget 3]

Mutants are made by cosmic-ray (`pip install -e ".[test,mutants]"`), one change each: another operator, a number
one larger or smaller, a negated condition, a skipped loop, a removed decorator. Importing Keras and JAX takes
seconds, so everything outside vaexprs is imported once; each mutant is a fork that imports the module from its
changed text (no file is modified) and runs the tests that cover the changed line, fastest first, until one
fails or the tests that fit into `--budget` seconds have passed.

Prints the surviving mutants as changed lines, and a row for `benchmarks/mutants.md`. `--again` takes an earlier
output and repeats its survivors only. A module takes some minutes on an idle core.

The functions of `likelihoods.count_sampling` that numba compiles run as Python (NUMBA_DISABLE_JIT=1), without
the tests that sample millions of counts.
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

ROOT = Path(__file__).resolve().parents[2]
SOURCES = ROOT / "src" / "vaexprs"
MIXTURE = "tests/mixture/test_mixture.py", "not_below_those_of_mclust or two_thousand or million or trouble"
LIKELIHOODS = "tests/likelihoods/test_likelihoods.py", "a_million"
# by module: file with its tests, and those (pytest -k) that are too slow to run for each of hundreds of mutants
TESTS = {
    "latent.density": ("tests/latent/test_density.py", "nothing"),
    "likelihoods.base": LIKELIHOODS,
    "likelihoods.continuous": LIKELIHOODS,
    "likelihoods.count_sampling": (
        "tests/likelihoods/test_sampling.py",
        "million or kolmogorov or binomial or own_mean or dispersions_of_their_own",
    ),
    "likelihoods.counts": LIKELIHOODS,
    "likelihoods.log_prob": LIKELIHOODS,
    "metrics.functions": (
        "tests/metrics/test_metrics.py",
        "separate_samples or integral or known_distance or two_gaussians or forest_does",
    ),
    "mixture.covariances": MIXTURE,
    "mixture.em": MIXTURE,
    "mixture.gaussian_mixture": MIXTURE,
    "mixture.selection": MIXTURE,
}
# One operator per kind: a test that detects - instead of + also detects << instead of +.
OPERATORS = re.compile(
    r"core/(ReplaceBinaryOperator_(Add_Sub|Sub_Add|Mul_Div|Div_Mul|FloorDiv_Mul|Mod_Mul|Pow_Mul|BitAnd_BitOr)"
    r"|ReplaceComparisonOperator_(Lt_LtE|Lt_GtE|LtE_Lt|LtE_Gt|Gt_GtE|Gt_LtE|GtE_Gt|GtE_Lt|Eq_NotEq|NotEq_Eq"
    r"|Is_IsNot|IsNot_Is)|ReplaceUnaryOperator_Delete_\w+|ReplaceTrueWithFalse|ReplaceFalseWithTrue"
    r"|ReplaceAndWithOr|ReplaceOrWithAnd|AddNot|NumberReplacer|ZeroIterationForLoop"
    r"|Replace(Break|Continue)With\w+|ExceptionReplacer|RemoveDecorator)"
)
ONE_THREAD = ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS")
MAX_MEMORY = 6 << 30  # bytes per mutant
# one process, without features of pytest that take longer than most tests
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


def path_of(module: str) -> Path:
    """Return the source file of a module of vaexprs."""
    return SOURCES.joinpath(*module.split(".")).with_suffix(".py")


def mutants(module: str) -> list[Mutant]:
    """Return the mutants of a module in the order of their lines, without those with syntax errors."""
    from cosmic_ray.ast import ast_nodes, get_ast
    from cosmic_ray.mutating import mutate_code
    from cosmic_ray.plugins import get_operator, operator_names

    source = path_of(module).read_text()
    tree, found = get_ast(source), []
    for name in filter(OPERATORS.fullmatch, operator_names()):
        operator = get_operator(name)()
        places = [start for node in ast_nodes(tree) for start, _ in operator.mutation_positions(node)]
        for i, (line, _) in enumerate(places):
            if "@njit" in source.splitlines()[line - 1]:
                continue  # without effect when numba's compiler is disabled
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
    """Loader of a module from changed text."""

    def __init__(self, name: str, path: str, text: str) -> None:
        super().__init__(name, path)
        self.text = text

    def get_code(self, fullname: str) -> CodeType:
        return compile(self.text, self.path, "exec", dont_inherit=True)


class Finder:
    """Import finder that returns the changed module."""

    def __init__(self, module: str, text: str) -> None:
        self.name, self.path, self.text = f"vaexprs.{module}", str(path_of(module)), text

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> Any:
        if name != self.name:
            return None
        return importlib.util.spec_from_file_location(
            name, self.path, loader=Changed(name, self.path, self.text)
        )


class Watch:
    """pytest plugin: records the processor time of each test and the lines of the module that it covers."""

    def __init__(self, coverage: Any) -> None:
        self.coverage, self.seconds = coverage, {}

    def pytest_runtest_logstart(self, nodeid: str) -> None:
        self.coverage.switch_context(nodeid)
        self.start = time.process_time()

    def pytest_runtest_logfinish(self, nodeid: str) -> None:
        self.seconds[nodeid] = time.process_time() - self.start


def in_fork(work: Any, limit: int) -> int:
    """Return the exit status of a function in a fork; negative if it was killed.

    It is killed after `limit` seconds of processor time, or ten times as much wall time.
    """
    child = os.fork()
    if child:
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    try:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        signal.alarm(10 * limit)
        resource.setrlimit(resource.RLIMIT_CPU, (limit, limit))
        resource.setrlimit(resource.RLIMIT_DATA, (MAX_MEMORY, MAX_MEMORY))
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        os.dup2(1, 2)
        os._exit(int(work()))
    finally:
        os._exit(3)


def baseline(module: str, folder: Path) -> tuple[dict[str, float], dict[int, list[str]]]:
    """Return the seconds of each test, and the tests that cover each line; "" is the import."""
    name, slow = TESTS[module]
    path = str(path_of(module))

    def work() -> int:
        import coverage
        import pytest

        watched = coverage.Coverage(data_file=None, include=[path])
        watch = Watch(watched)
        watched.start()
        status = pytest.main([*FLAGS, name, "-k", f"not ({slow})"], plugins=[watch])
        watched.stop()
        lines = watched.get_data().contexts_by_lineno(path)
        (folder / "baseline.json").write_text(json.dumps([watch.seconds, lines, list(sys.modules)]))
        return status

    if in_fork(work, 1_200):
        sys.exit(f"{name} fails without any mutant. Run pytest {name} first.")
    seconds, lines, imported = json.loads((folder / "baseline.json").read_text())
    ours = re.compile(r"(vaexprs|tests?_|conftest|__main__|coverage)")
    for other in imported:  # once, instead of in each fork
        if not ours.match(other):
            with contextlib.suppress(Exception):
                importlib.import_module(other)
    gc.freeze()
    return seconds, {int(line): tests for line, tests in lines.items()}


class Witness:
    """pytest plugin: records which test failed."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def pytest_runtest_logreport(self, report: Any) -> None:
        if report.failed:
            self.file.write_text(report.nodeid)


def survives(module: str, mutant: Mutant, tests: list[str], limit: int, failed: Path) -> bool:
    """Return whether all tests pass with the mutant; otherwise write the failed test to `failed`."""

    def work() -> int:
        import pytest

        sys.meta_path.insert(0, Finder(module, mutant.text))
        with contextlib.redirect_stdout(io.StringIO()):
            return pytest.main([*FLAGS, *tests], plugins=[Witness(failed)])

    return in_fork(work, limit) == 0


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("module", choices=sorted(TESTS))
    parser.add_argument("--again", type=Path, help="earlier output: repeat its survivors only")
    parser.add_argument("--lines", default="1-100000", help="lines to change, e.g. 100-200 (default: all)")
    parser.add_argument("--skip", type=int, default=0, help="number of mutants to skip (tried before)")
    parser.add_argument("--sample", type=int, help="number of mutants, in random order (default: all)")
    parser.add_argument("--budget", type=float, default=3, help="seconds of tests per mutant; fastest first")
    args = parser.parse_args()
    os.chdir(ROOT)
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # like Ctrl-C: report the results so far
    os.environ.update(dict.fromkeys(ONE_THREAD, "1"), KERAS_BACKEND="jax")
    if args.module == "likelihoods.count_sampling":
        os.environ["NUMBA_DISABLE_JIT"] = "1"
    first, last = map(int, args.lines.split("-"))
    tried = [mutant for mutant in mutants(args.module) if first <= mutant.line <= last]
    if args.again:
        before = set(args.again.read_text().splitlines())
        tried = [mutant for mutant in tried if str(mutant) in before]
    random.Random(0).shuffle(tried)  # an interrupted run is a random sample
    tried = tried[args.skip :][: args.sample]
    with tempfile.TemporaryDirectory() as folder:
        seconds, lines = baseline(args.module, Path(folder))
        total = sum(seconds.values())
        print(f"{args.module}: {len(tried)} mutants, {len(seconds)} tests, {total:.0f} s", flush=True)
        done, survived, start = 0, 0, time.monotonic()
        order = sorted(seconds, key=seconds.__getitem__)
        failed = Path(folder, "failed")
        with contextlib.suppress(KeyboardInterrupt):
            for mutant in tried:
                covering = set(lines.get(mutant.line, [""]))
                tests = [test for test in order if "" in covering or test in covering]
                taken = np.cumsum([seconds[test] for test in tests])
                tests = [test for test, total in zip(tests, taken, strict=True) if total < args.budget]
                failed.write_text("")
                if survives(args.module, mutant, tests, int(3 + 2 * args.budget), failed):
                    survived += 1
                    print(mutant, flush=True)
                elif (test := failed.read_text()) in order:  # try this test first from now on
                    order.insert(0, order.pop(order.index(test)))
                done += 1
                sys.stderr.write(f"{done}/{len(tried)} {time.monotonic() - start:.0f} s \r")
    killed = done - survived
    print(f"| {args.module} | {len(tried)} | {done} | {killed} | {survived} | {killed / max(done, 1):.1%} |")


if __name__ == "__main__":
    main()
