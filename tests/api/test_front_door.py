"""The public names, lazy imports, and layers."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import vaexprs

SRC = Path(vaexprs.__file__).parent
ROOT = Path(__file__).parents[2]


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


def test_every_subpackage_says_what_is_in_it_and_is_small():
    for folder in (path.parent for path in SRC.rglob("__init__.py")):
        modules = [path for path in folder.glob("*.py") if path.name not in ("__init__.py", "__main__.py")]
        assert ast.get_docstring(ast.parse((folder / "__init__.py").read_text())), folder
        assert len(modules) <= 12 or folder.name == "commands", folder  # one module per command


def test_imports_go_one_way():
    """The layers of pyproject.toml hold (`lint-imports` shows the chain of imports where they do not)."""
    from importlinter.cli import lint_imports

    assert lint_imports(config_filename=str(ROOT / "pyproject.toml"), no_cache=True) == 0


def test_the_package_is_typed():
    assert (SRC / "py.typed").exists()
