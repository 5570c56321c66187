"""Checkpoints: an interrupted fit resumes to the same result; checkpoints of other fits are refused."""

import json
import re
import subprocess
import sys
import time

import numpy as np
import pytest

import vaexprs as vx
from layers import spread
from vaexprs.training.checkpoint import State, read_state

ABOUT = {"seed": 0, "epochs": 3}


def fit(cells, path=None, **settings):
    settings = {"label_key": "cell_type", "epochs": 6, "batch_size": 24, "verbose": 0} | settings
    return vx.fit_vae(cells, checkpoint=path, **settings)


def same(a, b):
    """Whether two fits have the same weights, densities and losses."""
    weights = [fit.model.get_weights() for fit in (a, b)]
    alike = all(np.array_equal(x, y) for x, y in zip(*weights, strict=True))
    densities = [fit.density.to_arrays() for fit in (a, b)]
    return (
        alike
        and a.history == b.history
        and all(np.array_equal(densities[0][k], densities[1][k]) for k in densities[0])
    )


@pytest.fixture(scope="module")
def whole(few):
    """120 cells, 6 epochs of 5 steps, without interruption."""
    return fit(few)


class Killed(Exception):
    pass


class KillAfter:
    """Raise after the given number of checkpoints."""

    def __init__(self, monkeypatch, times):
        from vaexprs.training.checkpoint import Checkpoint

        write, self.left = Checkpoint._write, times

        def counted(checkpoint, epoch, step):
            write(checkpoint, epoch, step)
            self.left -= 1
            if not self.left:
                raise Killed

        monkeypatch.setattr(Checkpoint, "_write", counted)


@pytest.mark.parametrize("steps_at_once", [1, pytest.param(16, marks=pytest.mark.slow)])
@pytest.mark.parametrize(
    ("every", "times", "place"), spread([(1, 7, (1, 2)), (3, 1, (0, 3)), (5, 2, (2, 0))], 2)
)
def test_a_resumed_fit_gives_the_same_result(
    few, whole, tmp_path, monkeypatch, steps_at_once, every, times, place
):
    monkeypatch.setattr("vaexprs.training.schedule.STEPS_AT_ONCE", steps_at_once)
    path = tmp_path / "state"
    with monkeypatch.context() as patched:
        KillAfter(patched, min(times, 4 if steps_at_once > 1 else times))
        with pytest.raises(Killed):
            fit(few, path, checkpoint_steps=every)
    with np.load(path, allow_pickle=False) as file:
        told = json.loads(str(file["about"]))
    if steps_at_once == 1:
        assert (told["epoch"], told["step"]) == place
    assert same(fit(few, path, resume=True), whole)


def test_the_final_checkpoint_restores_the_finished_fit(few, whole, tmp_path):
    path = tmp_path / "state"
    assert same(fit(few, path), whole)
    before = path.read_bytes()
    assert same(fit(few, path, resume=True), whole)
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["state"]


@pytest.mark.slow
def test_validation_history_is_resumed(few, tmp_path, monkeypatch):
    path = tmp_path / "state"
    expected = fit(few, validation_split=0.2)
    with monkeypatch.context() as patched:
        KillAfter(patched, 3)
        with pytest.raises(Killed):
            fit(few, path, checkpoint_steps=4, validation_split=0.2)
    assert fit(few, path, resume=True, validation_split=0.2).history == expected.history


@pytest.mark.parametrize(("every", "times"), spread([(5, 2), (3, 3)], 1))
def test_a_learning_rate_schedule_is_not_applied_twice_after_resuming(
    few, tmp_path, monkeypatch, every, times
):
    """With checkpoints at the end of an epoch and within an epoch."""
    import keras

    monkeypatch.setattr("vaexprs.training.schedule.STEPS_AT_ONCE", 1)

    def schedule():
        return {"callbacks": [keras.callbacks.LearningRateScheduler(lambda epoch, rate: 0.7 * rate)]}

    path = tmp_path / "state"
    with monkeypatch.context() as patched:
        KillAfter(patched, times)
        with pytest.raises(Killed):
            fit(few, path, checkpoint_steps=every, **schedule())
    assert same(fit(few, path, resume=True, **schedule()), fit(few, **schedule()))


@pytest.mark.slow
def test_an_interrupted_fit_is_resumed(few, whole, tmp_path):
    import keras

    class Stop(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            self.model.stop_training = epoch == 2

    path = tmp_path / "state"
    fit(few, path, callbacks=[Stop()])
    with np.load(path, allow_pickle=False) as file:
        assert json.loads(str(file["about"]))["epoch"] == 3
    assert same(fit(few, path, resume=True), whole)


def test_resume_without_a_checkpoint_starts_a_fit(few, whole, tmp_path):
    assert same(fit(few, tmp_path / "state", resume=True), whole)


def test_a_checkpoint_is_not_overwritten_without_resume(few, tmp_path):
    path = tmp_path / "state"
    path.write_text("mine")
    with pytest.raises(FileExistsError, match=r"state'.*exists.*resume=True"):
        fit(few, path)
    assert path.read_text() == "mine"


@pytest.mark.parametrize(
    ("change", "words"),
    spread(
        [
            ({"seed": 1}, r"'seed'.*\b0\b.*\b1\b"),
            ({"epochs": 7}, r"'epochs'.*\b6\b.*\b7\b"),
            ({"batch_size": 30}, r"'batch_size'"),
            ({"likelihood": "zinb"}, r"'likelihood'"),
            ({"x": 2}, r"'data'"),
        ],
        2,
    ),
)
def test_a_checkpoint_of_another_fit_is_refused(few, tmp_path, change, words):
    path = tmp_path / "state"
    fit(few, path)
    cells = few.copy()
    if "x" in change:
        cells.X = cells.X * 2
    settings = {name: value for name, value in change.items() if name != "x"}
    with pytest.raises(ValueError, match=rf"fit.*{words}"):
        fit(cells, path, resume=True, **settings)


def test_a_damaged_checkpoint_is_reported(tmp_path):
    path = tmp_path / "state"
    path.write_bytes(b"PK\x03\x04 cut off")
    with pytest.raises(ValueError, match=r"state'.*\bread\b"):
        read_state(path, ABOUT)
    assert read_state(tmp_path / "none", ABOUT) == State()


def test_a_checkpoint_of_another_format_is_refused(few, tmp_path):
    path = tmp_path / "state"
    fit(few, path)
    with np.load(path, allow_pickle=False) as file:
        arrays = dict(file)
    told = json.loads(str(arrays["about"]))
    np.savez(tmp_path / "newer.npz", **arrays | {"about": json.dumps(told | {"format": 99})})
    (tmp_path / "newer.npz").rename(path)
    before = path.read_bytes()
    words = r"state'.*format.*\b99\b.*vaexprs.*\b1\b"
    with pytest.raises(ValueError, match=words):
        fit(few, path, resume=True)
    assert path.read_bytes() == before


def test_a_checkpoint_with_a_pickle_is_refused(tmp_path):
    path = tmp_path / "state.npz"
    np.savez(path, about=np.array([{"a": 1}], dtype=object))
    with pytest.raises(ValueError, match=r"about\.npy.*Python objects"):
        read_state(path, ABOUT)


@pytest.mark.parametrize(
    ("settings", "error", "words"),
    [
        ({"resume": True}, ValueError, r"resume.*checkpoint"),
        ({"checkpoint_steps": 0}, ValueError, r"checkpoint_steps.*\b1\b.*\b0\b"),
        ({"checkpoint_minutes": -1}, ValueError, r"checkpoint_minutes.*\b0\b.*-1\b"),
        ({"checkpoint": "no/such/folder/state"}, FileNotFoundError, r"(?i)folder.*no/such/folder'"),
    ],
)
def test_wrong_settings(few, settings, error, words):
    with pytest.raises(error, match=words):
        vx.fit_vae(few, epochs=1, verbose=0, **settings)


@pytest.mark.faults
def test_a_killed_command_is_resumed(few, tmp_path):
    few.write_h5ad(tmp_path / "few.h5ad")
    words = ["fit", "few.h5ad", "--label-key", "cell_type", "--epochs", "20", "--checkpoint-steps", "1", "-q"]

    def command(out, *more):
        return [sys.executable, "-m", "vaexprs", *words, "--out", out, *more]

    def run(out, *more):
        return subprocess.run(command(out, *more), cwd=tmp_path, capture_output=True, text=True, check=False)

    state = tmp_path / "b.checkpoint"
    process = subprocess.Popen(command("b"), cwd=tmp_path, stderr=subprocess.DEVNULL)
    end = time.monotonic() + 120
    while not state.exists() and time.monotonic() < end:
        time.sleep(0.02)
    process.kill()
    process.wait()
    assert state.exists()
    assert not (tmp_path / "b").exists()
    refused = run("b")
    assert refused.returncode == 2
    assert re.search(r"--resume.*--overwrite", refused.stderr), refused.stderr
    assert run("b", "--resume").returncode == 0
    assert not state.exists()
    assert run("a").returncode == 0
    a, b = (json.loads((tmp_path / name / "meta.json").read_text()) for name in "ab")
    assert a["history"] == b["history"]
    assert len(a["history"]["loss"]) == 20
    arrays = [np.load(tmp_path / name / "arrays.npz") for name in "ab"]
    assert all(np.array_equal(arrays[0][name], arrays[1][name]) for name in arrays[0].files)
