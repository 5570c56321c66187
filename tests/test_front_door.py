"""The public names, lazy imports, and imports that go one way."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import vaexprs

SRC = Path(vaexprs.__file__).parent
# from the bottom of the house to its top: a room may import those before it
ROOMS = (
    "_checks",
    "disk",
    "matrices",
    "counts",
    "heaps",
    "chunks",
    "ondisk",
    "packed",
    "tables",
    "tenx",
    "rds",
    "writing",
    "io",
    "preprocessing",
    "batches",
    "sampling",
    "likelihoods",
    "networks",
    "architecture",
    "covariances",
    "hierarchical",
    "mixture",
    "density",
    "markup",
    "progress",
    "guarantee",
    "result",
    "cluster",
    "checkpoints",
    "training",
    "processes",
    "releases",
    "dpsgd",
    "private_fitting",
    "fitting",
    "drawing",
    "generation",
    "transport",
    "counterfactual",
    "interpolation",
    "augmentation",
    "matching",
    "comparison",
    "metrics",
    "scorecard",
    "evaluation",
    "privacy",
    "plotting",
    "report.figures",
    "report.page",
    "report.gathering",
    "report",
    "demo",
    "doctor",
    "cli.options",
    "cli.making",
    "cli.judging",
    "cli.trying",
    "cli",
    "__main__",
)


def test_every_public_name_is_there_and_says_what_it_does():
    assert vaexprs.__all__ == sorted(vaexprs.__all__)
    for name in vaexprs.__all__:
        assert getattr(vaexprs, name).__doc__
    assert set(vaexprs.__all__) < set(dir(vaexprs))
    assert vaexprs.__version__


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="'vaexprs' has no attribute 'fit_vea'"):
        _ = vaexprs.fit_vea


@pytest.mark.parametrize("code", ["import vaexprs", "import vaexprs.cli"])
def test_opening_the_front_door_does_not_pay_for_the_engine(code):
    heavy = "keras jax scanpy anndata sklearn matplotlib umap pandas numba"
    asked = f"{code}, sys; print([m for m in {heavy.split()} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", asked], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_imports_go_one_way():
    files = {}
    for path in SRC.rglob("*.py"):
        parts = path.relative_to(SRC).with_suffix("").parts
        files[".".join(part for part in parts if part != "__init__")] = path
    assert set(files) - {""} == set(ROOMS)
    for i, room in enumerate(ROOMS):
        tree = ast.parse(files[room].read_text())
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("vaexprs"):
                base = node.module.partition(".")[2]
                named = [f"{base}.{alias.name}".strip(".") for alias in node.names]
                names = [name if name in ROOMS else base for name in named]
                assert set(names) <= set(ROOMS[:i]), f"{room} imports {names}"


def test_the_package_is_typed():
    assert (SRC / "py.typed").exists()
