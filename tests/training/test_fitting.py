"""fit_vae: effect of each argument, and errors for invalid input."""

import json
import os
import re
import signal
import subprocess
import sys
import time
import tracemalloc
import warnings

import anndata as ad
import keras
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
from biocframe import BiocFrame
from singlecellexperiment import SingleCellExperiment
from summarizedexperiment import SummarizedExperiment

import vaexprs as vx
from layers import spread
from vaexprs.io.convert import fingerprint
from vaexprs.training.callbacks import ProgressBar
from vaexprs.training.schedule import Schedule, _batch_size


def quick(*args, **kwargs):
    return vx.fit_vae(*args, **({"epochs": 2, "verbose": 0, "batch_size": 40} | kwargs))


def dense(cells):
    return cells.X.toarray()


class Watch(keras.callbacks.Callback):
    """Counts batches and epochs."""

    def __init__(self):
        super().__init__()
        self.batches = 0
        self.epochs = []

    def on_train_batch_end(self, batch, logs=None):
        self.batches += 1

    def on_epoch_end(self, epoch, logs=None):
        self.epochs.append(epoch)


# --- R's arguments, one by one ------------------------------------------------------------------------


@pytest.mark.slow
def test_object_takes_an_anndata_of_any_kind_of_matrix(few):
    kinds = [few, few[np.arange(120)], ad.AnnData(dense(few), obs=few.obs, var=few.var)]
    kinds.append(ad.AnnData(sp.csc_matrix(few.X), obs=few.obs, var=few.var))
    losses = {round(quick(kind, label_key="cell_type").history["loss"][-1], 3) for kind in kinds}
    assert len(losses) == 1


@pytest.mark.parametrize("kind", [SummarizedExperiment, SingleCellExperiment])
def test_object_takes_biocpy_experiments(few, kind):
    experiment = kind(
        assays={"counts": dense(few).T.astype(int)},
        row_data=BiocFrame({"symbol": list(few.var_names)}, row_names=list(few.var_names)),
        column_data=BiocFrame(
            {"type": list(few.obs["cell_type"].astype(str))}, row_names=list(few.obs_names)
        ),
        row_names=list(few.var_names),
        column_names=list(few.obs_names),
    )
    fit = quick(experiment, label_key="type")
    assert list(fit.genes) == list(few.var_names)
    assert fit.preprocessing.x_train.shape == (120, 50)
    assert set(fit.preprocessing.conditions.labels) == set(few.obs["cell_type"])


@pytest.mark.slow
def test_object_takes_a_path(few, tmp_path):
    few.write_h5ad(tmp_path / "few.h5ad")
    assert len(quick(tmp_path / "few.h5ad").genes) == 50


@pytest.mark.slow
def test_x_train_takes_arrays_frames_and_sparse_matrices(few):
    frame = few.to_df()
    fits = [quick(x_train=x) for x in (dense(few), frame, few.X, sp.csr_array(few.X), dense(few).astype(int))]
    assert len({round(fit.history["loss"][-1], 3) for fit in fits}) == 1
    assert list(fits[1].genes) == list(few.var_names)
    assert list(fits[0].genes[:2]) == ["gene1", "gene2"]


def test_x_val_is_scaled_by_the_training_limits(few):
    x = dense(few)
    fit = quick(x_train=x, x_val=3 * x[:30], likelihood="bernoulli")
    low, high = x.min(axis=0), x.max(axis=0)
    np.testing.assert_allclose(
        fit.preprocessing.x_val, (3 * x[:30] - low) / (high - low), rtol=1e-5, atol=1e-6
    )
    assert fit.preprocessing.x_val.max() > 2
    assert set(fit.history) == {"loss", "reconstruction", "kl", "val_loss", "val_reconstruction", "val_kl"}


@pytest.mark.slow
def test_x_val_may_be_an_anndata_with_its_own_labels(few):
    fit = quick(few[:90], x_val=few[90:], label_key="cell_type")
    assert fit.preprocessing.y_val.shape == (30, 4)


def test_y_train_makes_the_model_conditional(few):
    labels = few.obs["cell_type"].astype(str).to_numpy()
    fit = quick(x_train=few.X, y_train=labels)
    assert len(fit.model.inputs) == 2
    assert fit.preprocessing.conditions.label_key == "label"
    assert len(quick(x_train=few.X).model.inputs) == 1


def test_y_train_may_be_a_series_or_a_categorical_which_keeps_its_order(few):
    order = ["Dendritic", "CD56+ NK", "CD19+ B", "CD14+ Monocyte"]
    ordered = pd.Categorical(few.obs["cell_type"].astype(str), categories=order)
    for labels in (ordered, pd.Series(ordered, index=few.obs_names)):
        assert quick(x_train=few.X, y_train=labels).preprocessing.conditions.labels == tuple(order)


@pytest.mark.slow
def test_y_val_has_the_codes_of_the_training_labels(few):
    """The validation cells lack the first of labels 10, 20 and 30; codes must not shift."""
    y = np.repeat([10, 20, 30], 40)
    fit = quick(x_train=few.X, y_train=y, x_val=few.X[60:], y_val=y[60:])
    assert fit.preprocessing.conditions.labels == ("10", "20", "30")
    np.testing.assert_array_equal(fit.preprocessing.y_val.argmax(axis=1), (y[60:] - 10) // 10)


@pytest.mark.slow
def test_encoder_layers_are_the_encoder(few):
    fit = quick(few, encoder_layers=[keras.layers.Dense(11, "tanh"), keras.layers.Dense(5)])
    units = [layer.units for layer in fit.encoder.layers if isinstance(layer, keras.layers.Dense)]
    assert units == [11, 5, 10]


@pytest.mark.slow
def test_decoder_layers_are_the_decoder(few):
    fit = quick(few, decoder_layers=[keras.layers.Dense(11, "tanh"), keras.layers.Dense(5)])
    units = [layer.units for layer in fit.decoder.layers if isinstance(layer, keras.layers.Dense)]
    assert units == [11, 5]
    assert fit.likelihood.name == "nb"


@pytest.mark.parametrize("size", [2, *spread([1, 7], 0)])
def test_latent_dim_is_the_size_of_the_latent_vector(few, size):
    fit = quick(few, latent_dim=size)
    assert fit.encoder.output.shape == (None, size)
    assert fit.latent_dim == size


def test_latent_dim_is_2_under_rs_contract_and_10_otherwise(few):
    assert quick(few, likelihood="bernoulli").latent_dim == 2
    assert quick(few).latent_dim == 10


@pytest.mark.slow
def test_regularization_weighs_the_kl_divergence(few):
    kl = [quick(few, regularization=weight, epochs=30).history["kl"][-1] for weight in (0, 1, 20)]
    assert kl[0] > kl[1] > kl[2]


@pytest.mark.slow
def test_epochs_and_batch_size_set_the_number_of_steps(few):
    watch = Watch()
    quick(few, epochs=3, batch_size=50, callbacks=[watch])
    assert watch.epochs == [0, 1, 2]
    assert watch.batches == 3 * 3


def test_epochs_by_default_follow_the_number_of_cells(few):
    fit = vx.fit_vae(few, verbose=0)
    assert len(fit.history["loss"]) == 150  # 300 steps of 60 cells at 120 cells


@pytest.mark.slow
def test_preprocessing_is_reused_and_not_recomputed(few):
    first = quick(few[:60], label_key="cell_type", likelihood="bernoulli")
    again = quick(preprocessing=first.preprocessing)
    assert again.preprocessing.x_train is first.preprocessing.x_train
    assert again.likelihood.name == "bernoulli"
    other = quick(few, preprocessing=first.preprocessing)
    np.testing.assert_array_equal(other.preprocessing.scaling.low, first.preprocessing.scaling.low)
    np.testing.assert_array_equal(other.preprocessing.scaling.range, first.preprocessing.scaling.range)
    assert other.preprocessing.x_train.shape == (120, 50)
    assert other.preprocessing.conditions.labels == first.preprocessing.conditions.labels


@pytest.mark.slow
def test_reused_preprocessing_takes_new_validation_cells(few):
    first = quick(few[:60], label_key="cell_type")
    again = quick(preprocessing=first.preprocessing, x_val=few[60:80])
    assert again.preprocessing.x_train is first.preprocessing.x_train
    assert again.preprocessing.x_val.shape == (20, 50)
    assert "val_loss" in again.history


@pytest.mark.slow
def test_use_generator_never_makes_a_dense_copy_of_a_sparse_matrix():
    rng = np.random.default_rng(0)
    x = sp.random(
        12_000, 2000, 0.01, "csr", np.float32, random_state=rng, data_rvs=lambda n: rng.integers(1, 9, n)
    )
    x = sp.csr_matrix(x + sp.csr_matrix((np.ones(12_000), (range(12_000), [0] * 12_000)), x.shape))
    size = x.shape[0] * x.shape[1] * 4

    def peak(use_generator):
        tracemalloc.start()
        try:
            fit = quick(
                x_train=x,
                use_generator=use_generator,
                epochs=1,
                steps_per_epoch=2,
                batch_size=128,
                encoder_layers=[keras.layers.Dense(4)],
                decoder_layers=[keras.layers.Dense(4)],
                latent_dim=10,  # choosing it makes the values of 5,000 cells and 2,000 genes dense
            )
            return fit, tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    peak(True)  # the first fit also loads numba and compiled code
    streamed, low = peak(True)
    _, high = peak(False)
    assert sp.issparse(streamed.preprocessing.x_train)
    assert low < 0.5 * size
    assert high > size


@pytest.mark.parametrize("likelihood", ["nb", "gaussian", "bernoulli"])
def test_use_generator_gives_the_same_fit(few, likelihood):
    losses = [
        quick(few, label_key="cell_type", likelihood=likelihood, use_generator=flag).history["loss"]
        for flag in (True, False)
    ]
    np.testing.assert_allclose(*losses, rtol=1e-5)


@pytest.mark.slow
def test_optimizer_is_a_name_or_an_optimizer_which_is_copied(few):
    mine = keras.optimizers.SGD(1e-6)
    slow = quick(few, optimizer=mine, epochs=5).history["loss"]
    fast = quick(few, optimizer="adam", epochs=5).history["loss"]
    assert slow[0] - slow[-1] < 0.2 * (fast[0] - fast[-1])
    assert not mine.built
    quick(few, optimizer=mine)


def test_validation_split_is_in_proportion_within_each_label(few):
    fit = quick(few, label_key="cell_type", validation_split=0.2)
    assert fit.preprocessing.val.obs["cell_type"].value_counts().unique().tolist() == [6]
    assert len(fit.preprocessing.train) == 96
    assert "val_loss" in fit.history


def test_validation_split_is_ignored_where_there_are_validation_cells(few):
    fit = quick(few, x_val=few[:10], validation_split=0.5)
    assert len(fit.preprocessing.train) == 120
    assert len(fit.preprocessing.val) == 10


class Slow(keras.callbacks.Callback):
    """Makes each step take at least 0.4 s, and ends the fit after 12 steps."""

    n = 0

    def on_train_batch_end(self, batch, logs=None):
        time.sleep(0.4)
        self.n += 1
        self.model.stop_training = self.n == 12


@pytest.mark.slow
def test_a_long_fit_estimates_its_time_at_the_start_and_when_resumed(few, capsys, tmp_path, monkeypatch):
    """600 steps of at least 0.4 s take at least 4 minutes, of which compilation is no part."""
    settings = {"epochs": 100, "batch_size": 20, "checkpoint": tmp_path / "state", "checkpoint_steps": 1}
    estimate = r"The fit takes about (\d+) minutes more \((\d+) of 600 steps are left\)\.(.*)"
    monkeypatch.setattr("vaexprs.training.callbacks.MANY_GENES", 49)
    vx.fit_vae(few, callbacks=[Slow()], **settings)
    (first,) = re.findall(estimate, capsys.readouterr().err)
    assert int(first[0]) >= 4
    assert 588 <= int(first[1]) < 600
    assert "With fewer than 50 genes it is faster: n_top_genes=2000" in first[2]
    monkeypatch.setattr("vaexprs.training.callbacks.MANY_GENES", 50)
    vx.fit_vae(few, callbacks=[Slow()], resume=True, **settings)
    (second,) = re.findall(estimate, capsys.readouterr().err)
    assert int(second[0]) >= 3
    assert 576 <= int(second[1]) < 588
    assert second[2] == ""


@pytest.mark.slow
def test_steps_that_are_skipped_when_a_fit_is_resumed_take_no_time(capsys):
    """Keras passes them to callbacks too: at once, so that the rest seemed to take no time."""
    bar = ProgressBar(Schedule(batch_size=1, steps=10_000, epochs=1, steps_at_once=20), 1_000, 10)
    bar.on_train_begin()
    bar.on_epoch_begin(0)
    for batch in (399, 799, 999):
        bar.on_train_batch_end(batch)
    for batch in (1_019, 1_039, 1_059, 1_079):  # 9,000 steps in about 8 minutes
        bar.on_train_batch_end(batch)
        time.sleep(1.05)
    bar.on_train_end()
    text = capsys.readouterr().err
    assert re.search(r"takes about \d minutes more \(8,9\d\d of 10,000", text), text
    assert int(re.findall(r"(\d+):\d\d left", text)[-1]) >= 5


def test_a_short_fit_prints_no_estimate(few, capsys):
    vx.fit_vae(few, epochs=30)
    assert "takes about" not in capsys.readouterr().err


@pytest.mark.slow
def test_further_arguments_reach_keras_fit(few, capsys):
    stop = keras.callbacks.EarlyStopping(monitor="loss", min_delta=1e9, patience=1)
    assert len(quick(few, epochs=9, callbacks=stop).history["loss"]) == 2
    assert len(quick(few, epochs=5, initial_epoch=3).history["loss"]) == 2
    quick(few, verbose=2)
    assert "Epoch 1/2" in capsys.readouterr().out


@pytest.mark.slow
def test_shuffle_and_sample_weight_reach_the_batches(few):
    one, two = (quick(few, shuffle=flag).history["loss"] for flag in (True, False))
    assert one != two
    weight = np.zeros(120)
    weight[:30] = 4
    assert quick(few, sample_weight=weight, shuffle=False).history["loss"] != two


# --- what Python adds ---------------------------------------------------------------------------------


@pytest.mark.slow
def test_covariates_get_columns_of_their_own(cells):
    fit = quick(cells[:200], label_key="cell_type", covariate_keys=["phase"])
    labels = cells[:200].obs["cell_type"].nunique()
    assert fit.preprocessing.conditions.width == labels + 3
    assert fit.preprocessing.y_train.sum(axis=1).tolist() == [2.0] * 200
    assert quick(cells[:200], covariate_keys=["phase"]).preprocessing.conditions.labels == ()


def test_layer_names_the_values(few):
    both = few.copy()
    both.layers["double"] = 2 * both.X
    fit = quick(both, layer="double")
    assert fit.preprocessing.x_train.sum() == 2 * few.X.sum()


@pytest.mark.slow
def test_likelihood_by_default_follows_values_and_layers(few):
    assert quick(few).likelihood.name == "nb"
    halves = few.copy()
    halves.X = few.X / 2
    assert quick(halves).likelihood.name == "gaussian"
    ends_in_genes = [keras.layers.Dense(8), keras.layers.Dense(50, "sigmoid")]
    assert quick(few, decoder_layers=ends_in_genes).likelihood.name == "bernoulli"


@pytest.mark.parametrize("likelihood", ["bernoulli", "nb", "zinb", "poisson", "gaussian"])
def test_every_likelihood_learns(few, likelihood):
    loss = quick(few, label_key="cell_type", likelihood=likelihood, epochs=20).history["loss"]
    assert loss[-1] < loss[0]
    assert np.isfinite(loss).all()


@pytest.mark.slow
def test_same_seed_same_fit_and_the_global_generators_are_left_alone(few):
    np.random.seed(1)  # noqa: NPY002 -- that it is left alone is what is tested
    expected = np.random.random()  # noqa: NPY002
    np.random.seed(1)  # noqa: NPY002
    runs = [quick(few, label_key="cell_type", seed=seed) for seed in (3, 3, 4)]
    assert np.random.random() == expected  # noqa: NPY002
    assert runs[0].history == runs[1].history
    assert runs[0].history != runs[2].history
    np.testing.assert_array_equal(runs[0].density.pooled, runs[1].density.pooled)


@pytest.mark.slow
def test_distribution_is_the_scope_of_model_and_training(tmp_path):
    """Two devices in a process of their own; each then holds half of a batch."""
    code = """
import keras, numpy as np, vaexprs as vx
x = np.random.default_rng(0).poisson(3.0, (64, 9))
spread = keras.distribution.DataParallel(auto_shard_dataset=False)
fits = [vx.fit_vae(x_train=x, epochs=3, batch_size=32, verbose=0, distribution=d) for d in (spread, None)]
kernel = fits[0].model.get_layer("encoder_1").kernel.value
print(len(kernel.sharding.device_set), max(abs(a - b) for a, b in zip(*[f.history["loss"] for f in fits])) < 0.01)
"""
    env = {**os.environ, "XLA_FLAGS": "--xla_force_host_platform_device_count=2"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=env, check=False)
    assert done.stdout.split() == ["2", "True"], done.stderr[-2000:]


def test_ctrl_c_keeps_the_weights(few):
    class Press(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            if epoch == 1:
                os.kill(os.getpid(), signal.SIGINT)

    before = signal.getsignal(signal.SIGINT)
    with pytest.warns(UserWarning, match=r"interrupted"):
        fit = quick(few, epochs=50, callbacks=[Press()])
    assert 2 <= len(fit.history["loss"]) < 10
    assert vx.gen_exprs(fit, 5).adata.n_obs == 5
    assert signal.getsignal(signal.SIGINT) is before


def test_repr_says_what_it_is(conditional):
    assert "765 genes, 700 cells, conditions: cell_type (10), phase (3)" in repr(conditional)
    dimensions = "10 latent dimensions (8 principal components above noise, at least 10)"
    assert f"likelihood 'nb', {dimensions}, 120 epochs" in repr(conditional)


# --- bad input ----------------------------------------------------------------------------------------


def changed(few, value, where=(0, 0)):
    x = dense(few)
    x[where] = value
    return ad.AnnData(x, obs=few.obs, var=few.var)


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (np.nan, r"object.*finite.*\b1 NaN\b"),
        (np.inf, r"object.*finite.*\b1 infinite\b"),
        (-1, r"(?i)counts.*negative.*likelihood.*'nb'.*-1\b.*likelihood='gaussian'"),
        (0.5, r"(?i)counts.*whole.*likelihood.*'nb'.*\b1 fraction"),
        (1e30, r"object.*-1e\+15\b.*\b1e\+15\b.*\b1e\+30\b"),
        (2**32, r"(?i)counts.*2,147,483,647.*likelihood.*'nb'.*\b4\.29497e\+09\b"),
    ],
)
def test_values_that_are_no_counts(few, value, words):
    with pytest.raises(ValueError, match=words):
        quick(changed(few, value), likelihood="nb")


@pytest.mark.filterwarnings("error::RuntimeWarning")
def test_a_value_beyond_32_bits_is_infinite(few):
    x = dense(few).astype(np.float64)
    x[0, 0] = 1e300
    with pytest.raises(ValueError, match=r"x_train.*finite.*\b1 infinite\b"):
        quick(x_train=x)


def test_values_in_too_large_a_unit(few):
    words = r"value.*\b1e-30\b.*\b9e-34\b"
    values = np.random.default_rng(0).integers(0, 10, (60, 4)) * 1e-34
    with pytest.raises(ValueError, match=words):
        quick(x_train=values)
    fit = quick(x_train=values * 1e5)
    assert np.isfinite(fit.history["loss"]).all()
    assert fit.preprocessing.scaling.unit == pytest.approx(1e-29)


@pytest.mark.slow
@pytest.mark.parametrize(("size", "low"), [(0.3, 0), (0.06, -0.1)])
def test_values_in_a_small_unit_are_fitted_as_in_a_large_one(tmp_path, size, low):
    """Near 0, log(1 + x) is linear: without a unit the encoder could not use values below 1e-6."""
    rng = np.random.default_rng(0)
    types = np.arange(200) % 2
    values = rng.lognormal(types[:, None] * np.array([1, 0, -1, 0.5]), 0.5, (200, 4)) * size + low
    obs = pd.DataFrame({"type": types.astype(str)}, index=[f"c{i}" for i in range(200)])
    made = {}
    for unit in (1, 1e-4, 1e-10):
        fit = quick(ad.AnnData(values * unit, obs=obs), label_key="type", epochs=30, seed=0)
        assert str(fit.preprocessing.scaling).endswith(f", in units of {unit / 10:g}")
        made[unit] = vx.gen_exprs(fit, num_samples=400, seed=1)
        np.testing.assert_allclose(made[unit].x_gen / unit, made[1].x_gen, rtol=0.05, atol=0.02)
        np.testing.assert_allclose(made[unit].x_train / unit, values, rtol=1e-4)
        assert made[unit].adata.uns["vaexprs"]["unit"] == fit.preprocessing.scaling.unit
    again = vx.load_vae(fit.save(tmp_path / "model"))
    assert again.preprocessing.scaling.unit == fit.preprocessing.scaling.unit
    np.testing.assert_array_equal(vx.gen_exprs(again, num_samples=400, seed=1).x_gen, made[1e-10].x_gen)
    about = json.loads((tmp_path / "model" / "meta.json").read_text())
    del about["unit"]
    (tmp_path / "model" / "meta.json").write_text(json.dumps(about))
    assert vx.load_vae(tmp_path / "model").preprocessing.scaling.unit == 1


@pytest.mark.slow
def test_a_cell_without_counts(few):
    bad = changed(few, 0, (7, slice(None)))
    with pytest.warns(UserWarning, match=rf"1 of 120 cells have no counts.*'{few.obs_names[7]}'"):
        assert len(quick(bad).preprocessing.train) == len(few) - 1
    assert np.isfinite(quick(bad, likelihood="gaussian").history["loss"][-1])


@pytest.mark.parametrize("likelihood", ["nb", "gaussian", "bernoulli"])
def test_a_constant_gene_gives_a_warning_and_a_finite_fit(few, likelihood):
    bad = changed(few, 3, (slice(None), 4))
    name = few.var_names[4]
    with pytest.warns(UserWarning, match=rf"\b1 gene.*'{name}'"):
        fit = quick(bad, likelihood=likelihood)
    assert np.isfinite(fit.history["loss"]).all()
    made = vx.gen_exprs(fit, 20).adata.to_df()
    assert np.isfinite(made.to_numpy()).all()
    if likelihood != "nb":
        np.testing.assert_allclose(made[name], 3, atol=0.05)


def test_duplicate_gene_names(few):
    bad = few.copy()
    bad.var_names = ["CD3E", "CD3E", *few.var_names[2:]]
    with pytest.warns(UserWarning, match=r"(?s)CD3E"):
        fit = quick(bad)
    assert fit.genes.is_unique
    assert list(fit.genes[:2]) == ["CD3E", "CD3E-1"]


def test_genes_that_differ_between_training_and_validation(few):
    with pytest.raises(ValueError, match=rf"\b50\b.*\b49\b.*'{few.var_names[3]}'"):
        quick(few, x_val=few[:10, few.var_names != few.var_names[3]])
    turned = few[:10, ::-1]
    fit = quick(few, x_val=turned)
    np.testing.assert_array_equal(fit.preprocessing.x_val, dense(few)[:10])


def test_an_unknown_label_among_the_validation_cells(few):
    y = few.obs["cell_type"].astype(str).to_numpy()
    with pytest.raises(ValueError, match=r"^label\b.*'CD19 B'.*'CD19. B'"):
        quick(x_train=few.X, y_train=y, x_val=few.X[:2], y_val=["CD19 B", y[0]])


def test_a_missing_label_key(few):
    with pytest.raises(ValueError, match=r"label_key.*\bobs\b.*'celltype'.*'cell_type'"):
        quick(few, label_key="celltype")
    with pytest.raises(ValueError, match=r"covariate_keys.*\bobs\b.*'phase'"):
        quick(few, covariate_keys=["fase"])


def test_labels_that_are_missing_or_too_many(few):
    y = few.obs["cell_type"].astype(str).tolist()
    with pytest.raises(ValueError, match=r"label.*\b120 cells.*x_train.*\b121\b"):
        quick(x_train=few.X, y_train=[*y, y[0]])
    with pytest.raises(ValueError, match=r"\b120 cells"):
        quick(x_train=few.X, y_train=np.arange(120))
    with pytest.raises(ValueError, match=r"'label'.*value.*\bcell\b.*\b1\b"):
        quick(x_train=few.X, y_train=[None, *y[1:]])
    with pytest.raises(ValueError, match=r"y_val.*x_val"):
        quick(x_train=few.X, y_train=y, x_val=few.X)
    with pytest.raises(TypeError, match=r"y_train.*label.*\bstr\b"):
        quick(x_train=few.X, y_train="B cell")
    with pytest.raises(ValueError, match=r"y_train.*\bdimension.*\(120, 2\)"):
        quick(x_train=few.X, y_train=np.zeros((120, 2)))


@pytest.mark.parametrize("shape", [(0, 5), (5, 0)])
def test_an_empty_matrix(shape):
    with pytest.raises(ValueError, match=rf"cell.*gene.*\b{shape[0]} cells x {shape[1]} genes"):
        quick(x_train=np.zeros(shape))


@pytest.mark.parametrize(
    ("argument", "value", "kind", "words"),
    [
        ("regularization", -1, ValueError, r"regularization.*\b0\b.*-1\b"),
        ("regularization", "1", TypeError, r"regularization.*number.*'1'"),
        ("epochs", 0, ValueError, r"epochs.*\b1\b.*\b0\b"),
        ("epochs", 2.5, TypeError, r"epochs.*whole number.*\b2\.5"),
        ("batch_size", -3, ValueError, r"batch_size.*\b1\b.*-3\b"),
        ("latent_dim", 0, ValueError, r"latent_dim.*\b1\b.*\b0\b"),
        ("seed", -1, ValueError, r"seed.*\b0\b.*-1\b"),
        ("validation_split", 1, ValueError, r"validation_split.*\b0\b.*\b1\b.* 1\b"),
        ("validation_split", 0.001, ValueError, r"\b0\.001\b.*\b120 cells"),
        ("likelihood", "negbin", ValueError, r"likelihood.*'bernoulli', 'nb',.*'negbin'"),
        ("optimizer", "adamm", ValueError, r"optimizer.*Keras optimizer.*'adam"),
        ("optimizer", 3, ValueError, r"optimizer.*Keras optimizer.*\b3\b"),
        ("label_key", ["phase"], TypeError, r"label_key.*\bobs\b.*\['phase'\]"),
        ("layer", "raw", ValueError, r"^layer\b.*layers.*'raw'"),
        (
            "label_keys",
            "x",
            TypeError,
            r"'label_keys'.*'label_key'",
        ),
        ("validation_data", (), TypeError, r"validation_data.*x_val.*y_val"),
        ("sample_weight", [1.0], ValueError, r"sample_weight.*shape.*\(120,\).*\(1,\)"),
        (
            "preprocessing",
            {},
            TypeError,
            r"preprocessing.*\bfit\.preprocessing\b.*\bdict\b",
        ),
        ("y_train", ["a"], ValueError, r"\bobs\b.*label_key.*y_train"),
        ("y_val", ["a"], ValueError, r"y_val.*x_val"),
        ("x_train", [[1]], ValueError, r"object.*x_train"),
    ],
)
def test_arguments_out_of_bounds(few, argument, value, kind, words):
    with pytest.raises(kind, match=words):
        quick(few, **{argument: value})


@pytest.mark.slow
def test_boundary_values_are_accepted(few):
    fit = quick(few, regularization=0, epochs=1, batch_size=1000, latent_dim=1, seed=0, validation_split=0)
    assert len(fit.history["loss"]) == 1


def test_no_cells_at_all():
    with pytest.raises(ValueError, match=r"AnnData.*object.*matrix.*x_train"):
        vx.fit_vae()
    with pytest.raises(ValueError, match=r"y_train.*x_train"):
        vx.fit_vae(y_train=["a"])


def test_an_object_of_another_kind(few):
    with pytest.raises(TypeError, match=r"object.*AnnData.*\bndarray\b.*x_train"):
        quick(dense(few))
    with pytest.raises(TypeError, match=r"x_train.*array.*numbers"):
        quick(x_train=np.array([["a", "b"]]))


def test_layers_of_the_wrong_width(few):
    with pytest.raises(ValueError, match=r"sigmoid.*\b49\b.*\b50 genes"):
        quick(few, decoder_layers=[keras.layers.Dense(49, "sigmoid")])
    with pytest.raises(ValueError, match=r"units.*genes.*'bernoulli'.*\b50\b.*\b9\b"):
        quick(few, decoder_layers=[keras.layers.Dense(9)], likelihood="bernoulli")


@pytest.mark.slow
def test_preprocessing_of_another_likelihood_or_without_cells(few, tmp_path):
    fit = quick(few)
    with pytest.raises(ValueError, match=r"likelihood.*'nb'.*'gaussian'"):
        quick(preprocessing=fit.preprocessing, likelihood="gaussian")
    fit.save(tmp_path / "m")
    loaded = vx.load_vae(tmp_path / "m").preprocessing
    with pytest.raises(ValueError, match=r"\bcells.*disk"):
        quick(preprocessing=loaded)
    assert quick(few, preprocessing=loaded).preprocessing.x_train.shape == (120, 50)


@pytest.mark.slow
def test_divergence_is_reported(few):
    with pytest.raises(ValueError, match=r"diverged.*learning rate"):
        quick(few, optimizer=keras.optimizers.SGD(1e12), epochs=5)
    # a single step to weights that are large, but finite: no loss has seen them
    with pytest.raises(ValueError, match=r"diverged.*encoder.*finite"):
        quick(few, optimizer=keras.optimizers.Adam(1e25), epochs=1, batch_size=120)


def test_frames_with_text_are_refused(few):
    with pytest.raises(TypeError, match=r"x_train.*numbers.*columns.*'kind'"):
        quick(x_train=few.to_df().assign(kind="a"))
    assert isinstance(few.to_df(), pd.DataFrame)


class Remember(keras.callbacks.Callback):
    """Keeps the decoder's bias after each epoch."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def on_epoch_end(self, epoch, logs=None):
        self.seen.append(np.array(self.model.get_layer("output").bias.value))


@pytest.mark.slow
def test_averaged_weights_are_kept(few):
    """The model has the moving average with momentum 0.99, not the weights of the last step."""
    remember = Remember()
    fit = quick(few, epochs=20, batch_size=120, callbacks=[remember])  # an epoch is a step
    average = remember.seen[0]
    for weights in remember.seen[1:]:
        average = 0.99 * average + 0.01 * weights
    np.testing.assert_allclose(fit.model.get_layer("output").bias.value, average, rtol=1e-5)
    assert np.abs(average - remember.seen[-1]).max() > 1e-3


@pytest.mark.slow
def test_learning_rate_is_smaller_for_deep_counts_and_other_values(few):
    deep = few.copy()
    deep.X = deep.X * 1000
    rates = [
        float(quick(cells, **kwargs).model.optimizer.learning_rate)
        for cells, kwargs in (
            (few, {}),
            (deep, {}),
            (few, {"likelihood": "gaussian"}),
            (few, {"likelihood": "bernoulli"}),
        )
    ]
    assert rates == pytest.approx([0.003, 0.001, 0.001, 0.001])
    assert not quick(few, likelihood="bernoulli").model.optimizer.use_ema


@pytest.mark.parametrize(("cells", "size"), [(5, 5), (20, 20), (90, 45), (300, 75), (778, 112), (1937, 122)])
def test_batches_are_about_equal(cells, size):
    assert _batch_size(cells) == size


@pytest.mark.slow
def test_a_rising_validation_loss_gives_a_warning_with_the_best_epoch(cells):
    with pytest.warns(UserWarning, match=r"loss.*validation cells.*\b200 epochs.*epochs=\d+"):
        vx.fit_vae(
            cells[:100].copy(),
            label_key="cell_type",
            validation_split=0.5,
            epochs=200,
            latent_dim=10,
            verbose=0,
        )


@pytest.mark.slow
def test_dispersions_at_their_limit_and_an_unused_latent_vector_give_warnings(few):
    rng = np.random.default_rng(0)
    wild = few.copy()
    wild.X = (rng.random(few.shape) < 0.02) * rng.integers(1, 100_000, few.shape).astype(np.float32) + 1.0 * (
        np.arange(few.n_vars) == 0
    )
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        vx.fit_vae(
            x_train=wild.X.astype(np.float32),
            regularization=1e4,
            epochs=300,
            optimizer=keras.optimizers.Adam(0.01),
            verbose=0,
        )
    texts = " ".join(str(w.message) for w in said)
    assert "KL divergence 0.0" in texts
    assert "genes (" in texts
    assert "dispersion" in texts


@pytest.mark.slow
def test_a_gene_with_most_of_the_counts_does_not_make_training_diverge(cells):
    """One gene replaces all but the first 50."""
    rest = np.asarray(cells.X[:, 50:].sum(axis=1))
    x = np.hstack([cells.X[:, :50].toarray(), rest]).astype(np.float32)
    assert x[:, -1].sum() / x.sum() > 0.9
    fit = vx.fit_vae(x_train=x, y_train=cells.obs["cell_type"], epochs=200, verbose=0)
    loss = np.array(fit.history["loss"])
    assert loss[-1] < loss.min() + 0.02 * (loss[0] - loss.min())
    assert max(fit.history["kl"]) < 30


@pytest.mark.slow
def test_many_genes_do_not_make_training_diverge():
    """Steps of the encoder grow with the number of its inputs unless they are scaled."""
    x = np.random.default_rng(0).poisson(0.2, (100, 15_000)).astype(np.float32)
    fit = vx.fit_vae(x_train=x, epochs=150, batch_size=50, verbose=0)
    assert np.isfinite(fit.history["loss"]).all()
    assert fit.history["loss"][-1] < fit.history["loss"][0]


@pytest.mark.slow
def test_the_recipe_has_arguments_that_differ_from_the_defaults(few):
    fit = vx.fit_vae(
        few, label_key="cell_type", covariate_keys=["phase"], epochs=2, validation_split=0, optimizer="adam",
        encoder_layers=[keras.layers.Dense(8, "relu")], seed=3, verbose=0, shuffle=False,
    )  # fmt: skip
    assert fit.recipe["arguments"] == {
        "label_key": "cell_type",
        "covariate_keys": ["phase"],
        "epochs": 2,
        "optimizer": "adam",
        "encoder_layers": ["Dense"],
        "seed": 3,
        "verbose": 0,
        "shuffle": False,
    }
    assert fit.recipe["data"]["cells"] == 120
    assert fit.recipe["data"]["sha256"] == fingerprint(few)
    assert fit.recipe["versions"]["keras"] == keras.version()


@pytest.mark.slow
def test_compiled_programs_are_cached_for_the_next_process(few, tmp_path):
    few.write_h5ad(tmp_path / "few.h5ad")
    code = (
        "import vaexprs as vx; cells = vx.read('few.h5ad'); "
        "vx.gen_exprs(vx.fit_vae(cells, label_key='cell_type', epochs=2, verbose=0), 5)"
    )
    own = {name: value for name, value in os.environ.items() if not name.startswith("JAX_")}
    for given, used in (
        ({"XDG_CACHE_HOME": str(tmp_path / "cache")}, True),
        ({"XDG_CACHE_HOME": str(tmp_path / "few.h5ad")}, False),
    ):
        kept = []
        for _ in range(2 if used else 1):
            done = subprocess.run(
                [sys.executable, "-c", code],
                cwd=tmp_path,
                env=own | given,
                capture_output=True,
                text=True,
                check=False,
            )
            assert done.returncode == 0, done.stderr
            kept.append({path.name for path in (tmp_path / "cache" / "vaexprs" / "jax").glob("*-cache")})
        if used:
            assert kept[0]  # the training step
            # Found again; what compiled faster than JAX cares to keep may be kept the second time.
            assert kept[0] <= kept[1]
            assert len(kept[1] - kept[0]) < len(kept[0]) / 2


@pytest.mark.slow
@pytest.mark.parametrize("counts", [True, False], ids=["counts", "logarithms"])
def test_the_most_variable_genes_are_those_of_scanpy(cells, counts):
    import scanpy as sc

    given, expected = cells.copy(), cells.copy()
    expected.X = expected.X.astype(np.float32)
    sc.pp.normalize_total(expected, target_sum=1e4)
    sc.pp.log1p(expected)
    if not counts:
        given.X = expected.X.copy()
    sc.pp.highly_variable_genes(expected, n_top_genes=80)
    fit = quick(given, label_key="cell_type", n_top_genes=80, x_val=given[:50])
    assert list(fit.genes) == list(expected.var_names[expected.var["highly_variable"]])
    assert fit.preprocessing.x_train.shape == (700, 80)
    assert fit.preprocessing.x_val.shape == (50, 80)
    assert fit.recipe["arguments"]["n_top_genes"] == 80
    assert vx.gen_exprs(fit, 3).adata.shape == (3, 80)


@pytest.mark.slow
@pytest.mark.filterwarnings("error::RuntimeWarning")
def test_variable_genes_of_large_values_are_those_of_their_logarithms(cells):
    """For example transcripts per million, which would overflow if they were taken for logarithms."""
    x = cells.X.toarray()
    x *= 1e6 / x.sum(axis=1, keepdims=True)
    genes = [
        quick(x_train=values, n_top_genes=80, epochs=1, likelihood="gaussian").genes
        for values in (x, np.log1p(x))
    ]
    assert list(genes[0]) == list(genes[1])


@pytest.mark.parametrize("x", [np.zeros((6, 4)), np.full((6, 4), 3), np.array([[5, 2, 7, 0]])])
def test_variable_genes_where_none_varies_are_refused(x):
    with pytest.raises(ValueError, match=rf"n_top_genes.*genes.*\b{len(x)} c"):
        quick(x_train=x, n_top_genes=2)


@pytest.mark.parametrize(("value", "other"), [(0, [1, 1]), (7, [1, 7])], ids=["zeros", "one that varies"])
def test_variable_genes_that_cannot_be_compared_are_refused(value, other):
    x = np.full((70, 4), value, float)
    x[0, :2] = other
    with pytest.raises(ValueError, match=r"n_top_genes.*genes.*\b70 cells"):
        quick(x_train=x, n_top_genes=2, likelihood="gaussian")


def test_n_top_genes_above_the_number_of_genes_selects_all(few):
    assert len(quick(few, n_top_genes=51).genes) == 50
    with pytest.raises(ValueError, match=r"n_top_genes.*\b1\b.*\b0\b"):
        quick(few, n_top_genes=0)


def test_a_large_sparse_matrix_is_left_sparse(few, monkeypatch):
    import scipy.sparse as sp

    sparse = few.copy()
    sparse.X = sp.csr_matrix(sparse.X)
    assert isinstance(quick(sparse).preprocessing.x_train, np.ndarray)
    monkeypatch.setattr("vaexprs.training.inputs.MAX_DENSE", 4 * few.n_obs * few.n_vars - 1)
    assert sp.issparse(quick(sparse).preprocessing.x_train)


@pytest.mark.slow
def test_labels_with_an_index_are_aligned_by_cell_name(few):
    frame = few.to_df()
    labels = few.obs["cell_type"].astype(str)
    shuffled = labels.sample(frac=1, random_state=1)
    kept = [
        vx.fit_vae(x_train=frame, y_train=y, epochs=1, verbose=0).preprocessing.train.obs["label"].tolist()
        for y in (labels, shuffled, labels.to_numpy())
    ]
    assert kept[0] == kept[1] == kept[2]
    with pytest.raises(ValueError, match=r"y_train.*cells.*x_train.*\b1 of\b.*\b120\b"):
        vx.fit_vae(x_train=frame, y_train=labels.rename({labels.index[0]: "other"}), epochs=1)
    with pytest.raises(ValueError, match=r"\b50 cells.*x_train.*\b120\b.*genes.*rows"):
        vx.fit_vae(x_train=frame.T, y_train=labels, epochs=1)


def test_library_sizes_are_right_beside_a_gene_with_rare_large_counts():
    """The variance of totals relative to their mean is far larger than the variance of their logarithm."""
    rng = np.random.default_rng(0)
    depth = np.exp(rng.normal(6, 0.3, 600))
    x = rng.poisson(depth[:, None] * rng.dirichlet(np.full(60, 5.0)))
    x[:, 0] = rng.poisson(0.3 * depth * rng.gamma(0.05, 1 / 0.05, 600))
    fit = vx.fit_vae(x_train=x, seed=0, verbose=0)
    made = np.ravel(vx.gen_exprs(fit, 2_000, seed=1).adata.X.sum(axis=1))
    log_real, log_made = np.log(x.sum(axis=1)), np.log(made)
    assert np.median(log_made) == pytest.approx(np.median(log_real), abs=0.08)
    assert log_made.std() == pytest.approx(log_real.std(), rel=0.25)
