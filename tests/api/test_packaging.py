"""What is said of the package in more than one place is the same."""

import tomllib
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[2]
RECIPE = ROOT / "packaging" / "conda" / "recipe.yaml"
NAMES = {"matplotlib": "matplotlib-base"}  # on conda-forge


@pytest.fixture(scope="module")
def project():
    return tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def test_conda_needs_what_pip_needs(project):
    from packaging.requirements import Requirement

    recipe = yaml.safe_load(RECIPE.read_text())
    python, *run = recipe["requirements"]["run"]
    declared = [Requirement(text) for text in project["dependencies"]]
    assert run == [f"{NAMES.get(r.name, r.name)} {r.specifier}" for r in declared]
    assert python == "python >=${{ python_min }}"
    assert project["requires-python"] == f">={recipe['context']['python_min']}"
    assert recipe["context"]["version"] == project["version"]
    assert recipe["build"]["python"]["entry_points"] == [f"vaexprs = {project['scripts']['vaexprs']}"]
    assert recipe["about"]["summary"] == project["description"]


def test_the_image_copies_what_the_wheel_is_made_of():
    if not (ROOT / "Dockerfile").exists():
        pytest.skip("the Dockerfile is not part of the sdist")
    lines = (ROOT / "Dockerfile").read_text().splitlines()
    copied = [name for line in lines if line.startswith("COPY") for name in line.split()[1:-1]]
    assert sorted(copied) == ["LICENSE", "README.md", "pyproject.toml", "src"]
    ignored = (ROOT / ".dockerignore").read_text().splitlines()
    assert ignored[0] == "*"
    assert {f"!{name}" for name in copied} == {line for line in ignored if line.startswith("!")}
    assert all((ROOT / name).exists() for name in copied)
    assert "USER 1000" in lines
