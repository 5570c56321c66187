"""Training in several processes on the loopback interface."""

import json
import os
import re
import socket
import subprocess
import sys
import time

import numpy as np
import pytest

from vaexprs.training.multiprocess import agree, in_slurm_step, join, place

WORDS = ["--label-key", "cell_type", "--batch-size", "40", "-q"]


@pytest.fixture(scope="module")
def folder(few, tmp_path_factory):
    """A folder with 120 cells and a model fitted by one process in 12 epochs."""
    folder = tmp_path_factory.mktemp("processes")
    few.write_h5ad(folder / "few.h5ad")
    alone = start(folder, "few.h5ad", *WORDS, "--epochs", "12", "--out", "alone")
    assert alone.wait(120) == 0, alone.stderr.read()
    return folder


def start(folder, *words, **env):
    return subprocess.Popen(
        [sys.executable, "-m", "vaexprs", "fit", *map(str, words)],
        cwd=folder,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, **env},
    )


def several(folder, out, *words, count=2, port=None, each=()):
    """Start `count` processes of one fit; `each` has further arguments by process."""
    port = port or free_port()
    return [
        start(
            folder,
            *["few.h5ad", *WORDS, "--out", out, *words, *(each[i] if each else ())],
            *["--processes", count, "--coordinator", f"127.0.0.1:{port}", "--process-id", i],
        )
        for i in range(count)
    ]


def free_port():
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


def ended(processes, seconds=150):
    """Return exit status and stderr of each process."""
    said = [process.communicate(timeout=seconds)[1] for process in processes]
    return [(process.returncode, text) for process, text in zip(processes, said, strict=True)]


def history(folder, name):
    return json.loads((folder / name / "meta.json").read_text())["history"]


@pytest.mark.multiprocess
@pytest.mark.parametrize("count", [2, 4])
def test_processes_give_the_losses_of_one_with_the_same_batches(folder, count):
    out = f"by{count}"
    for status, text in ended(several(folder, out, "--epochs", 12, count=count)):
        assert status == 0, text
    alone, together = history(folder, "alone"), history(folder, out)
    assert len(together["loss"]) == 12
    for name in ("loss", "reconstruction", "kl"):
        np.testing.assert_allclose(together[name], alone[name], rtol=1e-3)
    assert not list(folder.glob(f"{out}.checkpoint"))


@pytest.mark.multiprocess
@pytest.mark.parametrize("victim", [0, 1])
def test_a_process_that_is_killed_ends_the_other_and_a_resumed_run_completes(folder, victim):
    out = f"killed{victim}"
    state = folder / f"{out}.checkpoint"
    processes = several(folder, out, "--epochs", 40, "--checkpoint-steps", 3)
    end = time.monotonic() + 120
    while not state.exists() and time.monotonic() < end:
        time.sleep(0.02)
    assert state.exists()
    processes[victim].kill()
    ((status, text),) = ended([processes[1 - victim]], 60)
    ours = f"Process {1 - victim} of 2"
    if victim:
        assert status == 2, text
        assert ours in text
        assert "checkpoint" in text
    else:  # JAX may be faster than we are to end a process whose coordinator is gone
        assert status != 0
        assert ours in text or "the leader task was preempted/died" in text
    assert "Traceback" not in text
    assert not (folder / out).exists()
    for status, text in ended(several(folder, out, "--epochs", 40, "--checkpoint-steps", 300, "--resume")):
        assert status == 0, text
    assert len(history(folder, out)["loss"]) == 40
    assert not state.exists()


@pytest.mark.multiprocess
@pytest.mark.parametrize(
    ("each", "words"),
    [
        ([["--epochs", 2], ["--epochs", 3]], r"'epochs'.*\b2\b.*\b3\b"),
        ([["--seed", 1], ["--seed", 2]], r"'seed'.*\b1\b.*\b2\b"),
        ([["--layer", "double"], []], r"'data', 'layer'"),
    ],
)
def test_different_settings_between_processes_are_reported(folder, few, each, words):
    cells = few.copy()
    cells.layers["double"] = cells.X * 2
    cells.write_h5ad(folder / "few.h5ad")
    more = [] if "--epochs" in each[0] else ["--epochs", 2]
    for status, text in ended(several(folder, "never", *more, each=each)):
        assert status == 2
        assert re.search(r"(?i)processes.*\bdata\b.*settings", text), text
        assert re.search(words, text) or "'data'" in words, text
    assert not list(folder.glob("never*"))


@pytest.mark.multiprocess
def test_an_unreachable_coordinator_is_reported(folder):
    port = free_port()
    process = start(
        folder,
        *["few.h5ad", *WORDS, "--out", "never", "--epochs", 1, "--processes", 2],
        *["--coordinator", f"127.0.0.1:{port}", "--process-id", 1],
        VAEXPRS_CONNECT_SECONDS="2",
    )
    ((status, text),) = ended([process], 100)
    assert status == 2
    assert re.search(rf"coordinator.*127\.0\.0\.1:{port}\b.*\b2 s\b.*process 0\b", text), text
    assert "Traceback" not in text
    assert not list(folder.glob("never*"))


@pytest.mark.multiprocess
@pytest.mark.parametrize(
    ("env", "words"),
    [
        (
            {"KERAS_BACKEND": "numpy"},
            r"Error: .*Keras.*JAX.*'numpy'.*KERAS_BACKEND",
        ),
        (
            {"SLURM_STEP_NUM_TASKS": "2"},  # and none of the others that srun sets
            r"Error: .*SLURM.*\b60 s\b.*'SLURM_JOB_ID'.*srun",
        ),
    ],
)
def test_an_unsuitable_environment_is_reported(folder, env, words):
    here = ["--processes", 1, "--coordinator", f"127.0.0.1:{free_port()}", "--process-id", 0]
    given = [] if "SLURM_STEP_NUM_TASKS" in env else here
    ((status, text),) = ended([start(folder, "few.h5ad", *WORDS, "--out", "never", *given, **env)], 100)
    assert status == 2
    assert re.match(words, text.splitlines()[-1]), text  # JAX may have printed lines before it
    assert "Traceback" not in text
    assert not list(folder.glob("never*"))
    assert not list(folder.glob(".never*"))


def test_a_used_port_is_reported():
    with socket.create_server(("", 0)) as other:
        port = other.getsockname()[1]
        with pytest.raises(
            ConnectionError,
            match=rf"\bport {port}\b.* in use",
        ):
            join(2, f"127.0.0.1:{port}", 0)


@pytest.mark.parametrize("told", ["soon", "0", "-1", "2.5", ""])
def test_an_invalid_connection_timeout_is_reported(monkeypatch, told):
    monkeypatch.setenv("VAEXPRS_CONNECT_SECONDS", told)
    with pytest.raises(ValueError, match=rf"whole number.*seconds.*\b1\b.*'{told}'.*\b60\b"):
        join(2, "127.0.0.1:9", 1)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"processes": 2}, r"processes.*coordinator.*process_id.*coordinator.*SLURM"),
        ({}, r"processes"),
        ({"processes": 2, "coordinator": "here", "process_id": 0}, r"'HOST:PORT'.*'here'"),
        ({"processes": 2, "coordinator": "h:70000", "process_id": 0}, r"'HOST:PORT'.*'h:70000'"),
        ({"processes": 2, "coordinator": "here:1", "process_id": 2}, r"processes\b.*\b2\b.*\b2\b"),
        ({"processes": 0, "coordinator": "here:1", "process_id": 0}, r"^processes\b.*\b1\b.*\b0\b"),
        (
            {"processes": 2, "coordinator": "here:1", "process_id": -1},
            r"^process_id\b.*\b0\b.*-1\b",
        ),
    ],
)
def test_wrong_settings(given, words):
    with pytest.raises(ValueError, match=words):
        join(**given)


def test_batches_that_cannot_be_shared_are_refused(few, tmp_path, monkeypatch):
    import vaexprs as vx
    from vaexprs.io import stores as ondisk
    from vaexprs.nn.batches import CellBatches

    monkeypatch.setattr(ondisk, "IN_MEMORY", 10)
    few.write_h5ad(tmp_path / "few.h5ad")
    stored = ondisk.open_store(tmp_path / "few.h5ad")
    on_disk = ondisk.back_layer(stored, layer=None, keys=["cell_type"])
    settings = {"codes": None, "shuffle": True, "seed": 0, "share": (0, 3)}
    with pytest.raises(ValueError, match=r"\b3 processes\b.*\b40\b"):
        CellBatches(on_disk.X, batch_size=40, **settings)
    assert vx.read(tmp_path / "few.h5ad").n_obs == 120


def test_slurm_is_recognised_by_its_steps(monkeypatch):
    monkeypatch.delenv("SLURM_STEP_NUM_TASKS", raising=False)
    assert not in_slurm_step()
    monkeypatch.setenv("SLURM_STEP_NUM_TASKS", "1")
    assert not in_slurm_step()
    monkeypatch.setenv("SLURM_STEP_NUM_TASKS", "4")
    assert in_slurm_step()


def test_one_process_agrees_with_itself():
    assert place() == (0, 1)
    agree({"seed": 0})


@pytest.mark.multiprocess
def test_slurm_step_trains_together(folder):
    """The processes find each other with the variables of srun only."""
    port = free_port()
    jobs = [
        start(
            folder,
            *["few.h5ad", *WORDS, "--epochs", 12, "--out", "by_slurm"],
            SLURM_JOB_ID=str(port),
            SLURM_STEP_NODELIST="127.0.0.1",
            SLURM_NTASKS="2",
            SLURM_STEP_NUM_TASKS="2",
            SLURM_PROCID=str(i),
            SLURM_LOCALID=str(i),
        )
        for i in range(2)
    ]
    for status, text in ended(jobs):
        assert status == 0, text
    np.testing.assert_allclose(
        history(folder, "by_slurm")["loss"], history(folder, "alone")["loss"], rtol=1e-3
    )
