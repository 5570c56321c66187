"""`vaexprs doctor` on working and on broken installations; shell completion."""

import json
import os
import re
import subprocess
import sys
from importlib.metadata import requires, version

import h5py
import pytest

from commands import run as run_here
from vaexprs.cli import diagnostics as doctor
from vaexprs.cli.commands import fit, plot
from vaexprs.likelihoods import LIKELIHOODS
from vaexprs.plotting.reductions import REDUCTIONS


def run(*words, **environment):
    return subprocess.run(
        [sys.executable, "-m", "vaexprs", *words],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "COLUMNS": "200", **environment},
    )


def findings(done):
    found = json.loads(done.stdout)
    return found, {finding["part"]: finding for finding in found["findings"]}


@pytest.mark.slow
def test_a_sound_installation_works(tmp_path):
    done = run("doctor", "--json", JAX_COMPILATION_CACHE_DIR=str(tmp_path / "cache"))
    assert done.returncode == 0, done.stderr
    found, parts = findings(done)
    assert found["works"] is True
    assert found["versions"]["keras"] == version("keras")
    assert parts["packages"]["state"] == "good"
    assert re.search(r"Keras.*JAX", parts["keras"]["message"])
    assert re.search(r"JAX.*\bcpu\b", parts["devices"]["message"])
    assert str(tmp_path / "cache") in parts["cache"]["message"]
    assert parts["graphviz"]["state"] == "good"
    assert parts["trial"]["state"] == "good"
    assert any("[dask]" in f["message"] for f in found["findings"])


def test_requirements_are_those_of_the_installed_distribution():
    always = {str(r) for r in doctor.requirements()}
    assert always == {text for text in requires("vaexprs") if "extra ==" not in text}
    assert [r.name for r in doctor.requirements("dask")] == ["distributed"]
    assert [r.extras for r in doctor.requirements("cuda")] == [{"cuda12"}]


def test_an_unusable_backend_is_reported():
    done = run("doctor", KERAS_BACKEND="nonsense")
    assert done.returncode == 1
    assert re.search(r"Keras.*backend.*'nonsense'", done.stdout), done.stdout
    assert "unset KERAS_BACKEND" in done.stdout
    assert "Traceback" not in done.stdout + done.stderr


@pytest.mark.slow
def test_missing_platforms_are_reported():
    done = run("doctor", "--json", JAX_PLATFORMS="cuda")
    assert done.returncode == 1
    _, parts = findings(done)
    assert parts["devices"]["state"] == "poor"
    assert "unset JAX_PLATFORMS" in parts["devices"]["advice"]


@pytest.mark.slow
def test_a_cache_that_cannot_be_written_is_no_reason_to_stop():
    code = "from vaexprs.cli import diagnostics as doctor; (found,) = doctor.CHECKS['cache'](); print(found, doctor.works([found]))"
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        env=os.environ | {"JAX_COMPILATION_CACHE_DIR": os.devnull},
    )
    assert os.devnull in done.stdout
    assert "export JAX_COMPILATION_CACHE_DIR=" in done.stdout
    assert done.stdout.strip().endswith("True")


@pytest.mark.slow
def test_old_and_broken_packages_are_reported(tmp_path):
    # shadow the installed packages: metadata of an old h5py, and a pygraphviz whose library is missing
    metadata = tmp_path / "h5py-1.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: h5py\nVersion: 1.0\n")
    (tmp_path / "pygraphviz.py").write_text(
        "raise ImportError('libcgraph.so.6: cannot open shared object file')"
    )
    done = run("doctor", "--json", PYTHONPATH=str(tmp_path))
    assert done.returncode == 1
    _, parts = findings(done)
    assert re.search(r"h5py.*>=3\.11\b.*\b1\.0\b", parts["packages"]["message"])
    assert "pip install --upgrade vaexprs" in parts["packages"]["advice"]
    assert parts["graphviz"]["state"] == "fair"
    assert "libcgraph.so.6" in parts["graphviz"]["message"]
    assert "force-reinstall pygraphviz" in parts["graphviz"]["advice"]
    assert "trial" not in parts


@pytest.mark.slow
def test_cells_read_back_with_other_values_are_reported(monkeypatch):
    read = h5py.Dataset.__getitem__

    def misread(dataset, *given):
        values = read(dataset, *given)
        return values + 1 if dataset.name == "/X/data" else values

    monkeypatch.setattr(h5py.Dataset, "__getitem__", misread)
    monkeypatch.setattr(doctor, "CHECKS", {"trial": doctor.CHECKS["trial"]})
    _, (found,) = doctor.examine()
    assert ".h5ad" in found.message
    assert "pip install --upgrade --force-reinstall h5py" in found.advice
    assert not doctor.works([found])


def test_an_extra_that_is_missing_says_what_it_is_for():
    absent = [finding for finding in doctor.CHECKS["extras"]() if "[cuda]" in finding.message]
    (cuda,) = absent
    if cuda.state == "good":
        pytest.skip("JAX's CUDA packages are installed")
    assert 'pip install "vaexprs[cuda]"' in cuda.advice
    assert doctor.works([cuda])


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("vaexprs eval", ["evaluate"]),
        ("vaexprs fit cells.h5ad --likelihood z", ["zinb"]),
        ("vaexprs plot model --method Dif", ["DiffusionMap"]),
        ("vaexprs fit --n-top", ["--n-top-genes"]),
        ("vaexprs fit cel", []),  # no option or command: the shell completes file names
    ],
)
def test_bash_completes(words, expected):
    number = len(words.split()) - 1
    done = run_here(_VAEXPRS_COMPLETE="complete_bash", COMP_WORDS=words, COMP_CWORD=str(number))
    assert done.stdout.split() == expected, done.stderr


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_is_written_for_each_shell(shell):
    done = run_here(_VAEXPRS_COMPLETE=f"source_{shell}")
    assert "_VAEXPRS_COMPLETE=complete_" in done.stdout
    assert "vaexprs" in done.stdout


def test_completed_names_are_those_of_the_package():
    assert set(fit.LIKELIHOODS) == set(LIKELIHOODS)
    assert list(REDUCTIONS) == plot.METHODS
