"""Counts are found where they are, and recovered from their logarithms."""

import warnings

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import scanpy as sc
import scipy.sparse as sp

import vaexprs as vx
from vaexprs.data.count_detection import count_layers, holds_counts, recovered
from vaexprs.data.matrix import densify
from vaexprs.io import stores as ondisk
from vaexprs.io.open import load_layer, open_cells
from vaexprs.io.stores import back_layer

RECOVERED = r"^X\b.*logarithms.*counts.*recovered.*layer='X'"


def from_object(cells, layer=None, **names):
    return load_layer(open_cells(cells, **names), layer)


def open_large(cells, *, layer, keys):
    return back_layer(open_cells(cells), layer=layer, keys=keys)


def logarithms(cells, target=1e4, base=None):
    """What scanpy makes of counts."""
    logs = cells.copy()
    sc.pp.normalize_total(logs, target_sum=target)
    sc.pp.log1p(logs, base=base)
    return logs


# ---- recovered


@pytest.mark.parametrize("form", ["csr", "dense"])
@pytest.mark.parametrize(("target", "base"), [(1e4, None), (None, None), (1e6, 2), (1e4, 10)])
def test_counts_come_back_exactly(cells, target, base, form):
    x = logarithms(cells, target, base).X
    found = recovered(x if form == "csr" else x.toarray())
    assert sp.issparse(found) == (form == "csr")
    np.testing.assert_array_equal(densify(found), cells.X.toarray())


@pytest.mark.parametrize("name", ["kang_muscat", "pbmc_facs", "tabulamuris_actinn", "zeisel550"])
def test_counts_of_real_sets_come_back_exactly(real_data, name):
    cells = real_data(name)
    assert (recovered(logarithms(cells).X) != cells.X).nnz == 0
    # after genes were chosen the totals are not those that were divided by
    assert (recovered(logarithms(cells)[:, ::7].X) != cells[:, ::7].X).nnz == 0


def test_rpkm_and_bulk_are_left_as_they_are(real_data):
    rpkm = real_data("yan")
    for x in (
        rpkm.X.log1p(),
        logarithms(rpkm).X,
        np.log2(rpkm.X.toarray() + 1),
        np.log1p(1.37 * rpkm.X.toarray()),
    ):
        assert recovered(x) is None
    # of counts in the ten thousands logarithms of 32 bits do not have the last digits
    assert recovered(logarithms(real_data("gtex_brain40_damirseq")).X) is None


def test_other_values_are_left_as_they_are(cells):
    x = logarithms(cells).X.toarray()
    rng = np.random.default_rng(0)
    near = np.where(x > 0, x + rng.normal(0, 1e-3, x.shape), 0)
    one_wrong = x.copy()
    one_wrong[99][one_wrong[99] > 0] *= 1.01  # not in the sample of cells that is looked at first
    scaled = (x - x.mean(axis=0)) / x.std(axis=0).clip(1e-3)
    for other in (near, one_wrong, scaled, np.abs(scaled), rng.gamma(1, 1, (50, 20)), np.zeros((3, 4))):
        assert recovered(other) is None
    for odd in (np.nan, np.inf, -1.0):
        with_odd = x.copy()
        with_odd[5, 5] = odd
        assert recovered(with_odd) is None


def test_a_lowest_count_of_two_is_seen():
    counts = np.array([[2, 3, 0, 7], [1, 1, 2, 0], [0, 3, 4, 5], [1, 0, 0, 1]], float)
    logs = np.log1p(1e4 * counts / counts.sum(axis=1, keepdims=True)).astype(np.float32)
    np.testing.assert_array_equal(recovered(logs), counts)


def test_cells_without_counts_stay_so(cells):
    logs = logarithms(cells)
    x = logs.X.tolil()
    x[3] = 0
    found = recovered(x.tocsr())
    assert found[3].nnz == 0
    assert (found[4:] != cells.X[4:]).nnz == 0


# ---- found


def test_names_of_counts():
    assert count_layers(["log", "Counts", "raw", "spliced", "UMI"]) == ["Counts", "UMI", "raw"]
    assert holds_counts(np.array([[0, 2.0]]))
    assert not holds_counts(np.array([[0, 2.5]]))
    assert not holds_counts(np.array([[0, -1.0]]))


@pytest.mark.parametrize("name", ["counts", "raw_counts", "UMI"])
def test_a_layer(cells, name):
    logs = logarithms(cells)
    logs.layers[name] = cells.X
    with pytest.warns(UserWarning, match=rf"^X\b.*counts.*layers\['{name}'\]"):
        assert (from_object(logs).X != cells.X).nnz == 0


def test_raw_with_more_genes_than_x(cells):
    logs = cells.copy()
    logs.raw = cells.copy()
    logs = logarithms(logs)[:, :100].copy()
    sc.pp.scale(logs)
    with pytest.warns(UserWarning, match=r"^X\b.*counts.*\braw\b"):
        found = from_object(logs)
    assert list(found.var_names) == list(cells.var_names)
    assert (found.X != cells.X).nnz == 0
    assert list(found.obs["cell_type"]) == list(cells.obs["cell_type"])


def test_logarithms_in_raw_beside_scaled_values(cells):
    """What scanpy's tutorial leaves: scaled values of few genes in X, logarithms of all in raw."""
    logs = logarithms(cells)
    logs.raw = logs.copy()
    logs = logs[:, :50].copy()
    sc.pp.scale(logs)
    with pytest.warns(UserWarning, match=r"^raw\b.*logarithms.*counts"):
        found = from_object(logs)
    assert (found.X != cells.X).nnz == 0


def test_rounded_logarithms_are_left_as_they_are():
    """scanpy's pbmc68k_reduced: scaled values in X, logarithms of three digits in raw."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        packaged = sc.datasets.pbmc68k_reduced()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        np.testing.assert_array_equal(from_object(packaged).X, packaged.X)


def test_nothing_is_said_or_done_where_x_has_counts_or_other_values(cells):
    scaled = cells.copy()
    sc.pp.scale(scaled)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert (from_object(cells).X != cells.X).nnz == 0
        np.testing.assert_array_equal(from_object(scaled).X, scaled.X)
        np.testing.assert_array_equal(
            from_object(logarithms(cells), layer="X").X.toarray(), logarithms(cells).X.toarray()
        )


def test_biocpy_and_data_frames(few):
    experiments = pytest.importorskip("singlecellexperiment")
    logs = logarithms(few)
    both = experiments.SingleCellExperiment({"logcounts": logs.X.T.tocsr(), "counts": few.X.T.tocsr()})
    with pytest.warns(UserWarning, match=r"^logcounts\b.*\bcounts\b.*layer='logcounts'"):
        assert (from_object(both).X != few.X).nnz == 0
    alone = experiments.SingleCellExperiment({"logcounts": logs.X.T.tocsr()})
    with pytest.warns(UserWarning, match=r"^logcounts\b.*logarithms.*recovered"):
        assert (from_object(alone).X != few.X).nnz == 0
    for layer in ("X", "logcounts"):
        np.testing.assert_array_equal(from_object(both, layer=layer).X.toarray(), logs.X.toarray())
    table = pd.DataFrame(few.X.toarray(), columns=few.var_names).assign(kind="a", other=["x", "y"] * 60)
    found = from_object(table)
    assert list(found.obs) == ["kind", "other"]
    np.testing.assert_array_equal(found.X, few.X.toarray())


# ---- from there on


@pytest.mark.slow
def test_a_fit_follows_the_likelihood_that_was_asked_for(few):
    logs = logarithms(few)
    quick = {"epochs": 1, "verbose": 0}
    with pytest.warns(UserWarning, match=RECOVERED):
        fit = vx.fit_vae(logs, **quick)
    assert fit.likelihood.name == "nb"
    np.testing.assert_array_equal(densify(fit.preprocessing.x_train), few.X.toarray())
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        values = vx.fit_vae(logs, likelihood="gaussian", **quick)
        again = vx.fit_vae(logs, preprocessing=values.preprocessing, **quick)
    assert values.likelihood.name == again.likelihood.name == "gaussian"
    with pytest.warns(UserWarning, match=RECOVERED):
        assert vx.fit_vae(logs, preprocessing=fit.preprocessing, **quick).likelihood.name == "nb"


@pytest.mark.slow
def test_cells_are_topped_up_and_moved_with_the_values_of_their_fit(few):
    logs = logarithms(few)
    quick = {"epochs": 1, "verbose": 0, "progress": False}
    with pytest.warns(UserWarning, match=RECOVERED):
        both = vx.augment(logs, "cell_type", to=40, **quick)
    assert (both[both.obs["group"] == "real"].X != few.X).nnz == 0
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        both = vx.augment(logs, "cell_type", to=40, likelihood="gaussian", **quick)
        np.testing.assert_array_equal(densify(both[both.obs["group"] == "real"].X), logs.X.toarray())
        fit = vx.fit_vae(logs, likelihood="gaussian", label_key="cell_type", epochs=1, verbose=0)
        moved = vx.transform(fit, logs, cell_type="CD19+ B", progress=False)
        assert vx.augment(logs, "cell_type", to=40, fit=fit, progress=False).n_obs == 160
    assert moved.shape == logs.shape


def test_real_cells_are_taken_like_the_generated_ones(few):
    logs = logarithms(few)
    settings = {"only": ["gene_means"], "progress": False}
    made = vx.gen_exprs(vx.fit_vae(few, epochs=1, verbose=0), 60)
    expected = vx.evaluate(made, few, **settings)
    with pytest.warns(UserWarning, match=RECOVERED):
        pd.testing.assert_frame_equal(vx.evaluate(made, logs, **settings), expected)
    # of values that are not counts they are left as they are, whatever else is there
    logs.layers["counts"] = few.X
    values = vx.gen_exprs(vx.fit_vae(logs, likelihood="gaussian", epochs=1, verbose=0), 60)
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        found = vx.evaluate(values, logs, **settings)
        pd.testing.assert_frame_equal(found, vx.evaluate(values, logs, layer="X", **settings))
        vx.plot_aug(values.adata, "PCA", real=logs)
        vx.audit_privacy(values, logs[::2], logs[1::2])


# ---- on disk


@pytest.mark.parametrize("suffix", [".h5ad", ".zarr"])
@pytest.mark.parametrize("place", ["layer", "raw"])
def test_counts_in_a_large_file_are_found(few, tmp_path, monkeypatch, suffix, place):
    monkeypatch.setattr(ondisk, "IN_MEMORY", 1_000)
    logs = few.copy()
    if place == "raw":
        logs.raw = few.copy()
    else:
        logs.layers["counts"] = few.X
    logs = logarithms(logs)
    if place == "raw":
        logs = logs[:, :40].copy()
    path = vx.write(logs, tmp_path / f"logs{suffix}")
    named = "raw" if place == "raw" else r"layers\['counts'\]"
    with pytest.warns(UserWarning, match=rf"^X\b.*counts.*{named}.*layer='X'"):
        found = open_large(path, layer=None, keys=["cell_type"])
    assert list(found.var_names) == list(few.var_names)
    np.testing.assert_array_equal(densify(found.X[:]), few.X.toarray())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        as_it_is = open_large(path, layer="X", keys=[])
    np.testing.assert_array_equal(densify(as_it_is.X[:]), logs.X.toarray())


def test_logarithms_in_a_large_file_are_told_of(few, tmp_path, monkeypatch):
    monkeypatch.setattr(ondisk, "IN_MEMORY", 1_000)
    path = vx.write(logarithms(few), tmp_path / "logs.h5ad")
    words = r"^X\b.*logarithms.*counts.*disk.*\bread\(path\)"
    backed = ad.read_h5ad(path, backed="r")
    for given in (path, backed):
        with pytest.warns(UserWarning, match=words):
            found = open_large(given, layer=None, keys=[])
        np.testing.assert_array_equal(densify(found.X[:]), logarithms(few).X.toarray())
    backed.file.close()
    with pytest.warns(UserWarning, match=RECOVERED):
        assert (from_object(vx.read(path)).X != few.X).nnz == 0


def test_a_backed_object_with_counts_elsewhere(few, tmp_path, monkeypatch):
    monkeypatch.setattr(ondisk, "IN_MEMORY", 1_000)
    logs = logarithms(few)
    logs.layers["counts"] = few.X
    backed = ad.read_h5ad(vx.write(logs, tmp_path / "logs.h5ad"), backed="r")
    assert open_large(backed, layer=None, keys=[]) is None
    with pytest.warns(UserWarning, match=r"layers\['counts'\]"):
        assert (from_object(backed).X != few.X).nnz == 0
    backed.file.close()


def test_tiny_values_are_not_logarithms_of_enormous_counts():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert recovered(np.array([[0.0, 0.0, 2.0, 1.17549435e-38]])) is None
