"""Numerical stability: extreme data, divergence, and identical results for the same seed."""

import itertools
import json
import os
import re
import subprocess
import sys
import zipfile

import vaexprs as vx

# isort: split
import h5py
import keras
import numpy as np
import pytest
import scipy.sparse as sp

from commands import run
from vaexprs.training import callbacks as training
from vaexprs.training.checkpoint import read_state

NIGHTLY = bool(os.environ.get("VAEXPRS_NIGHTLY"))  # fits of the default length
SGD = keras.optimizers.SGD


def one_gene(rng):
    x = np.zeros((60, 20), np.float32)
    x[:, 7] = 1 + rng.poisson(5, 60)
    return x


def any_depth(rng):
    """Library sizes from 1 to a million."""
    library = np.geomspace(1, 1e6, 120)
    return rng.poisson(library[:, None] * rng.dirichlet(np.ones(30))).astype(np.float32) + np.eye(120, 30)


def hardly_any(rng):
    """One value in a thousand is not zero."""
    x = (rng.random((300, 2_000)) < 0.0005) * 1.0
    x[np.arange(300), rng.integers(0, 2_000, 300)] = 1
    assert (x == 0).mean() > 0.998
    return sp.csr_matrix(x)


def bulk(rng):
    """19,000 genes of 40 samples, with means over six orders of magnitude."""
    return rng.poisson(rng.gamma(2, size=(40, 19_000)) * np.geomspace(1e-2, 1e4, 19_000)).astype(np.float32)


QUICK = [(one_gene, "zinb"), (any_depth, "nb")]


def check_finite(fit, n=200):
    assert all(np.isfinite(values).all() for values in fit.history.values())
    assert all(np.isfinite(weight).all() for weight in fit.model.get_weights())
    assert all(
        np.isfinite(array).all() for array in fit.density.to_arrays().values() if array.dtype.kind == "f"
    )
    x = vx.gen_exprs(fit, n, seed=1, progress=False).adata.X
    values = x.data if sp.issparse(x) else x
    assert np.isfinite(values).all()
    return x


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # of genes that do not vary, and of doubts
@pytest.mark.parametrize(
    ("cells", "likelihood"),
    [
        pair if pair in QUICK else pytest.param(*pair, marks=pytest.mark.nightly)
        for pair in itertools.product([one_gene, any_depth], ["nb", "zinb", "poisson", "gaussian"])
    ],
)
def test_hard_data_end_finite(cells, likelihood):
    x = cells(np.random.default_rng(0))
    fit = vx.fit_vae(x_train=x, likelihood=likelihood, epochs=None if NIGHTLY else 40, verbose=0)
    assert "diverged" not in fit.recipe
    drawn = check_finite(fit)
    if likelihood != "gaussian" and cells is one_gene:
        totals = np.asarray(drawn.sum(axis=0)).ravel()
        assert totals[7] > 0.95 * totals.sum()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("cells", "epochs"), [(hardly_any, 10), (bulk, 3)])
def test_large_hard_data_end_finite(cells, epochs):
    x = cells(np.random.default_rng(0))
    check_finite(vx.fit_vae(x_train=x, epochs=None if NIGHTLY else epochs, verbose=0))


# ---- divergence


def diverging(few, good=3, **settings):
    """Fit with a learning rate that explodes after `good` epochs of 20 steps."""
    leap = keras.callbacks.LearningRateScheduler(lambda epoch, rate: rate if epoch < good else 1e9)
    given = {"optimizer": SGD(1e-5), "epochs": 8, "batch_size": 6, "callbacks": [leap]} | settings
    return vx.fit_vae(few, label_key="cell_type", verbose=0, **given)


@pytest.mark.parametrize("averaged", [False, True])
def test_a_fit_that_diverges_keeps_the_last_good_weights(few, averaged):
    optimizer = SGD(1e-5, use_ema=averaged, ema_momentum=0.9)
    said = r"diverged.*loss.*weights.*finite.*epoch 4\b.*weights.*epoch 3 \(loss [\d.]+\).*learning rate"
    with pytest.warns(UserWarning, match=said):
        fit = diverging(few, optimizer=optimizer)
    whole = diverging(few, optimizer=optimizer, epochs=3)
    assert whole.recipe.get("diverged") is None
    assert "diverged" in fit.recipe["diverged"]
    assert fit.history == whole.history
    assert len(fit.history["loss"]) == 3
    for a, b in zip(fit.model.get_weights(), whole.model.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)
    check_finite(fit)


@pytest.mark.slow
def test_training_stops_when_it_diverges(few):
    class Seen(keras.callbacks.Callback):
        epochs = 0

        def on_epoch_end(self, epoch, logs=None):
            self.epochs += 1

    seen = Seen()
    with pytest.raises(ValueError, match=r"epoch \d\b"):
        vx.fit_vae(few, epochs=50, verbose=0, optimizer=SGD(1e6), callbacks=[seen])
    assert seen.epochs < 5


@pytest.mark.slow
def test_divergence_in_the_last_step_is_found(few):
    """The loss of the last step is computed with the weights before it."""

    class Leap(keras.callbacks.Callback):
        def on_train_batch_begin(self, batch, logs=None):
            if (self.epoch, batch) == (3, 19):
                self.model.optimizer.learning_rate = float("inf")

        def on_epoch_begin(self, epoch, logs=None):
            self.epoch = epoch

    with pytest.warns(UserWarning, match=r"epoch 4\b.*weights.*epoch 3\b"):
        fit = diverging(few, epochs=4, callbacks=[Leap()])
    assert len(fit.history["loss"]) == 3
    check_finite(fit)


def test_copies_are_not_made_at_each_epoch_of_few_steps(few, monkeypatch):
    made = []
    keep = training._to_keep
    monkeypatch.setattr(training, "_to_keep", lambda model: made.append(1) or keep(model))
    vx.fit_vae(few, epochs=40, batch_size=60, verbose=0)  # of 2 steps each
    assert len(made) == 5  # after epochs 1, 9, 17, 25, 33


@pytest.mark.slow
def test_no_checkpoint_holds_what_diverged(few, tmp_path):
    path = tmp_path / "state"
    with pytest.warns(UserWarning, match="diverged"):
        fit = diverging(few, checkpoint=path, checkpoint_steps=1)
    with np.load(path, allow_pickle=False) as file:
        about = json.loads(str(file["about"]))
        assert not any(np.isnan(file[name]).any() for name in file.files if name != "about")
    assert about["epoch"] == 3
    state = read_state(path, {})
    assert list(state.history["loss"]) == fit.history["loss"]
    with pytest.warns(UserWarning, match=r"epoch 4\b.*weights.*epoch 3\b"):
        again = diverging(few, checkpoint=path, resume=True)
    assert again.history == fit.history
    for a, b in zip(fit.model.get_weights(), again.model.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.slow
def test_the_command_line_reports_divergence(few, tmp_path):
    few.write_h5ad(tmp_path / "few.h5ad")
    words = ["fit", "few.h5ad", "--epochs", "3", "--regularization", "1e38", "--out", "model"]
    done = run(*words, cwd=tmp_path)
    assert done.returncode == 2
    assert re.search(r"Error: .*diverged.*finite.*epoch 1\b", done.stderr), done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "model").exists()


# ---- the same seed


MAKE = """
import sys
import vaexprs as vx
cells = vx.demo_cells()[:150, :80].copy()
cells = cells[cells.X.sum(axis=1) > 0].copy()
fit = vx.fit_vae(cells, label_key="cell_type", covariate_keys=["phase"], epochs=5, seed=7, verbose=0)
fit.save(sys.argv[1] + "/model")
vx.gen_exprs(fit, 600, seed=3, out=sys.argv[1] + "/cells.h5ad")
"""


def contents(folder):
    """Every number and word of a saved model and of cells."""
    found = {}

    def visit(name, item):
        found[f"attributes of {name}"] = {key: str(value) for key, value in item.attrs.items()}
        if isinstance(item, h5py.Dataset):
            found[name] = (item.dtype, item.shape, np.asarray(item[()]).tolist())

    with h5py.File(folder / "cells.h5ad") as file:
        file.visititems(visit)
    for name in ("arrays.npz", "model.keras"):
        with zipfile.ZipFile(folder / "model" / name) as file:
            for part in file.namelist():
                if part.endswith(".h5"):
                    with file.open(part) as inside, h5py.File(inside) as weights:
                        weights.visititems(visit)
                elif part != "metadata.json":  # which has the date
                    # Keras numbers what several layers share by where it is in memory
                    found[f"{name}/{part}"] = re.sub(rb'"shared_object_id": \d+', b"", file.read(part))
    return found | {"meta": (folder / "model" / "meta.json").read_bytes()}


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_the_same_seed_gives_the_same_bytes_twice_and_in_two_processes(tmp_path):
    made = []
    for name in ("here", "here again", "there", "elsewhere"):
        (tmp_path / name).mkdir()
        command = [sys.executable, "-W", "ignore", "-c", MAKE, str(tmp_path / name)]
        if name.startswith("here"):
            argv, sys.argv = sys.argv, ["", str(tmp_path / name)]
            try:
                exec(MAKE, {})  # noqa: S102
            finally:
                sys.argv = argv
        else:
            subprocess.run(command, check=True, env={**os.environ, "PYTHONHASHSEED": str(len(made))})
        made.append(contents(tmp_path / name))
    assert len(made[0]) > 30
    for other in made[1:]:
        assert other.keys() == made[0].keys()
        assert [key for key in other if other[key] != made[0][key]] == []
