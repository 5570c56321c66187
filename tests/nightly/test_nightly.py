"""Small samples of mutation testing and of fault injection; the scripts in this folder run all of them."""

import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
pytestmark = pytest.mark.nightly


def output_of(script, *words):
    done = subprocess.run([sys.executable, HERE / script, *words], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_a_sample_of_mutants_is_detected():
    pytest.importorskip("cosmic_ray")
    pytest.importorskip("coverage")
    words = output_of("mutants.py", "mixture.covariances", "--sample", "20")
    _, _, tried, killed, *_ = [cell.strip() for cell in words.splitlines()[-1].strip("|").split("|")]
    assert int(tried) == 20, words
    assert int(killed) >= 15, words  # fewer than with all tests: a slow machine runs fewer in the budget


@pytest.mark.skipif(sys.platform != "linux", reason="faults are injected on Linux")
def test_output_is_complete_after_a_few_faults():
    words = ("--times", "4", "--only", "kill,permission,rivals", "--verbs", "save,h5ad")
    assert "WRONG" not in output_of("faults.py", *words)
