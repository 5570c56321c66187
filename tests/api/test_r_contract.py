"""The original package's own tests, its known bad cases, and parity with its results.

Each row of docs/differences-from-R.md names a test, here or elsewhere; the last test checks that.
"""

import json
import re
import warnings
from pathlib import Path

import keras
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
from biocframe import BiocFrame
from singlecellexperiment import SingleCellExperiment

import vaexprs as vx
from layers import spread

HERE = Path(__file__).parents[1]
R_CASES = json.loads((HERE / "reference" / "edge_cases.json").read_text())


def layers(genes, units=16):
    """Return encoder and decoder layers as the original's examples have them."""
    dense = keras.layers.Dense
    return {
        "encoder_layers": [keras.Input((genes,)), dense(units, "relu")],
        "decoder_layers": [dense(units, "relu"), dense(genes, "sigmoid")],
    }


def fit(x=None, *, genes=50, epochs=2, batch_size=32, **kwargs):
    return vx.fit_vae(x_train=x, epochs=epochs, batch_size=batch_size, verbose=0, **layers(genes), **kwargs)


@pytest.fixture(scope="module")
def x(simulated):
    """120 cells x 50 genes of the original's example, 40 of each group."""
    rows = np.r_[0:40, 100:140, 200:240]
    return np.ascontiguousarray(simulated["x_train"][rows][:, np.r_[0:20, 100:115, 200:215]])


@pytest.fixture(scope="module")
def group():
    return np.repeat(["a", "b", "c"], 40)


# --- parity -------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_scaling_is_the_originals(simulated):
    scaled = fit(simulated["x_train"], genes=1000, epochs=1).preprocessing.x_train
    np.testing.assert_allclose(scaled, simulated["x_train_scaled"], atol=1e-6)


@pytest.mark.slow
@pytest.mark.seconds(90)
@pytest.mark.parametrize("seed", spread([0, 1, 2], 1, pytest.mark.r))
def test_parity_with_the_original_on_its_own_example(simulated, seed):
    """Cross-entropy summed over genes at the posterior mean; the original's final losses are 577.4-578.3."""
    result = vx.fit_vae(
        x_train=simulated["x_train"],
        x_val=simulated["x_train"],
        **layers(1000, 512),
        epochs=100,
        batch_size=32,
        seed=seed,
        verbose=0,
        callbacks=[keras.callbacks.EarlyStopping(monitor="val_loss", patience=10, restore_best_weights=True)],
    )
    scaled = result.preprocessing.x_train
    p = result.decoder.predict(result.encoder.predict(scaled, verbose=0), verbose=0).astype(np.float64)
    entropy = -(scaled * np.log(p) + (1 - scaled) * np.log1p(-p)).sum(axis=1).mean()
    assert entropy <= 576.6


@pytest.mark.r
def test_generated_genes_vary_more_than_the_originals(simulated, r_fit):
    """The original's have a median standard deviation 0.11 of the real ones: it decodes fitted means."""
    real = simulated["x_train"]
    made = vx.gen_exprs(r_fit, 300).x_gen
    assert np.corrcoef(made.mean(axis=0), real.mean(axis=0))[0, 1] > 0.98
    default = vx.gen_exprs(vx.fit_vae(x_train=real, verbose=0, epochs=60), 300).x_gen
    assert np.median(default.std(axis=0) / real.std(axis=0)) == pytest.approx(1, abs=0.1)
    assert (default == 0).mean() == pytest.approx((real == 0).mean(), abs=0.03)


# --- its own test file --------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_fit_has_a_model_an_encoder_and_a_decoder(x):
    result = fit(x, validation_split=0.5)
    for part in (result.model, result.encoder, result.decoder):
        assert isinstance(part, keras.Model)
    assert result.decoder.predict(np.zeros((3, 2)), verbose=0).shape == (3, 50)
    assert result.encoder.predict(result.preprocessing.x_train, verbose=0).shape == (60, 2)
    again = vx.fit_vae(preprocessing=result.preprocessing, epochs=2, batch_size=32, verbose=0, **layers(50))
    assert again.preprocessing.x_val is result.preprocessing.x_val


@pytest.mark.slow
def test_two_hidden_layers_and_three_latent_dimensions(x):
    deep = layers(50) | {"encoder_layers": [keras.Input((50,)), *[keras.layers.Dense(16, "relu")] * 2]}
    result = vx.fit_vae(x_train=x, latent_dim=3, epochs=2, batch_size=32, verbose=0, **deep)
    assert result.encoder.output.shape == (None, 3)


@pytest.mark.slow
def test_what_the_original_refuses_has_a_default_or_an_error(x):
    """It stops without encoder, epochs or batch_size, where we have defaults, and without data, as we do."""
    assert vx.fit_vae(x_train=x[:40], epochs=1, verbose=0)
    with pytest.raises(ValueError, match=r"regularization.*\b0\b.*-1\b"):
        fit(x, regularization=-1)
    with pytest.raises(ValueError, match=r"num_samples"):
        vx.gen_exprs(fit(x, epochs=1))
    with pytest.raises(TypeError, match="plot_fun"):
        vx.plot_aug(vx.gen_exprs(fit(x, epochs=1), 5))


# --- its bad cases ------------------------------------------------------------------------------------


def biocpy(x, labels=None, sparse=False):
    values = sp.csc_matrix(x.T) if sparse else x.T
    if labels is None:
        return SingleCellExperiment(assays={"counts": values})
    return SingleCellExperiment(assays={"counts": values}, column_data=BiocFrame({"group": list(labels)}))


def wide(x, n):
    """Labels 1..n of the cells as text, so that '10' sorts before '2'."""
    return np.array([str(i % n + 1) for i in range(len(x))])


def generates(result, n=60, **kwargs):
    made = vx.gen_exprs(result, n, **kwargs)
    assert made.adata.shape == (n, 50)
    assert np.isfinite(made.x_gen).all()
    return made


def tens(x):
    return np.repeat([10, 20, 30], len(x) // 3)


def same_codes(result):
    return np.array_equal(result.preprocessing.y_train, result.preprocessing.y_val)


CASES = {
    "v1": lambda x, g: generates(fit(x, x_val=x), 10),
    "v2": lambda x, g: generates(fit(x, x_val=x, use_generator=True), 70, use_generator=True, batch_size=32),
    "v3": lambda x, g: [
        len(cells) == n
        for result in [fit(x, validation_split=0.25)]
        for cells, n in ((result.preprocessing.train, 90), (result.preprocessing.val, 30))
    ],
    "v4": lambda x, g: generates(fit(x), 1),
    "v5": lambda x, g: generates(fit(x, latent_dim=1), 10),
    "v6": lambda x, g: generates(fit(x, latent_dim=10), 10),
    "v7": lambda x, g: np.isfinite(fit(np.c_[np.ones(len(x)), x[:, 1:]]).history["loss"]).all(),
    "v7b": lambda x, g: generates(fit(np.c_[np.ones(len(x)), x[:, 1:]])),
    "v8": lambda x, g: fit(x),
    "v9": lambda x, g: fit(x).history["loss"][0] > 20,
    "v10": lambda x, g: 0.3 < fit(x, x_val=x / 3).preprocessing.x_val.max() < 0.4,
    "v11": lambda x, g: generates(fit(sp.csr_matrix(x))),
    "v12": lambda x, g: fit(None, preprocessing=fit(x).preprocessing).preprocessing.x_train.max() == 1,
    "v13": lambda x, g: len(vx.fit_vae(biocpy(x, g), epochs=1, verbose=0).model.inputs) == 1,
    "v14": lambda x, g: vx.fit_vae(
        biocpy(np.round(x), g, sparse=True), label_key="group", epochs=1, verbose=0
    ),
    "v15": lambda x, g: fit(x),
    "c1": lambda x, g: fit(x, y_train=g),
    "c1g": lambda x, g: generates(fit(x, y_train=g)),
    "c1h": lambda x, g: generates(fit(x, y_train=g), use_generator=True),
    "c2": lambda x, g: fit(x, y_train=g),
    "c3": lambda x, g: fit(x, y_train=g, x_val=x, y_val=g),
    "c3g": lambda x, g: fit(x, y_train=g, x_val=x, y_val=g, use_generator=True),
    "c4": lambda x, g: fit(x, y_train=g, x_val=x, y_val=g),
    "c4g": lambda x, g: fit(x, y_train=g, x_val=x, y_val=g, use_generator=True),
    "c5": lambda x, g: same_codes(fit(x, y_train=tens(x), x_val=x, y_val=tens(x))),
    "c6": lambda x, g: vx.fit_vae(
        biocpy(x, g), label_key="group", validation_split=0.25, epochs=1, verbose=0
    ),
    "c7": lambda x, g: vx.fit_vae(
        biocpy(x, g), label_key="group", validation_split=0.25, epochs=1, verbose=0
    ),
    "c8": lambda x, g: vx.fit_vae(
        biocpy(x, g), label_key="group", validation_split=0.25, epochs=1, verbose=0, use_generator=True
    ),
    "c8b": lambda x, g: vx.fit_vae(
        biocpy(x, g), label_key="group", validation_split=0.25, epochs=1, verbose=0, use_generator=True
    ),
    "c9": lambda x, g: len(set(generates(fit(x, y_train=wide(x, 12)), 200, use_generator=True).y_gen)) == 12,
    "c10": lambda x, g: generates(fit(x, y_train=np.r_[["rare"], np.repeat("common", 119)]), 5),
    "c11": lambda x, g: generates(fit(x, y_train=np.r_[["rare"], g[1:]]), labels="rare"),
    "c12": lambda x, g: generates(fit(x, y_train=np.r_[["rare"] * 2, g[2:]]), labels="rare"),
    "c13": lambda x, g: fit(x, y_train=g),
    **{
        f"p_{method}": lambda x, g, m=method: vx.plot_aug(
            vx.gen_exprs(fit(x, y_train=g, likelihood="gaussian"), 40), m
        )
        for method in ("MDS", "TSNE", "UMAP", "NMF", "DiffusionMap")
    },
    "c14": lambda x, g: vx.plot_aug(vx.gen_exprs(fit(x, y_train=g), 40), "PCA"),
    "r1": lambda x, g: fit(x, regularization=0),
}


@pytest.mark.parametrize("case", spread(R_CASES, 6, pytest.mark.r))
def test_each_case_of_the_original_works_here(case, x, group):
    """What the original did with it is in reference/edge_cases.json."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "1 genes have the same value")
        result = CASES[case](x, group)
    assert result is not False
    assert result != [False]


@pytest.mark.slow
def test_ten_labels_or_more_keep_their_own_cells(x):
    """Twelve labels whose names sort '1', '10', '11', '12', '2': each keeps its own level of gene 1."""
    level = np.arange(120) % 12
    marked = np.c_[level.astype(float), x[:, 1:]]
    result = vx.fit_vae(x_train=marked, y_train=wide(x, 12), epochs=150, likelihood="gaussian", verbose=0)
    made = vx.gen_exprs(result, 600)
    means = [made.x_gen[made.y_gen == str(k + 1), 0].mean() for k in range(12)]
    assert np.corrcoef(means, np.arange(12))[0, 1] > 0.9


@pytest.mark.slow
def test_gene_names_stay_as_they_are(x):
    frame = pd.DataFrame(x, columns=["HLA-A", *[f"g{i}" for i in range(49)]])
    result = vx.fit_vae(x_train=frame, epochs=1, verbose=0)
    assert vx.gen_exprs(result, 3).adata.var_names[0] == "HLA-A"


def test_the_label_is_named_and_not_the_first_column(x, group):
    experiment = SingleCellExperiment(
        assays={"counts": x.T},
        column_data=BiocFrame({"barcode": [f"b{i}" for i in range(120)], "group": list(group)}),
    )
    result = vx.fit_vae(experiment, label_key="group", epochs=1, verbose=0)
    assert result.preprocessing.conditions.labels == ("a", "b", "c")


def test_eager_execution_and_history_are_left_to_the_user(x):
    result = fit(x)
    assert not keras.config.is_interactive_logging_enabled() or keras.backend.backend() == "jax"
    assert set(result.history) == {"loss", "reconstruction", "kl"}
    assert result.history["loss"][0] == pytest.approx(
        result.history["reconstruction"][0] + result.history["kl"][0], rel=1e-4
    )


def test_every_difference_from_r_names_a_test_that_exists():
    rows = [
        line.split("|")
        for line in (HERE.parent / "docs" / "differences-from-R.md").read_text().splitlines()
        if line.startswith("| ") and ".py::test_" in line
    ]
    assert len(rows) >= 15
    for row in rows:
        named = re.findall(r"`(\w+/test_\w+\.py)::(\w+)`", row[3])
        assert named
        for file, name in named:
            assert f"def {name}(" in (HERE / file).read_text(), name
