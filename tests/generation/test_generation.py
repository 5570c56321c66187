"""gen_exprs: generated cells match the request."""

import json
import re
import signal
import subprocess
import sys
import time
import tracemalloc
from contextlib import nullcontext

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import scanpy as sc
import scipy.sparse as sp

import vaexprs as vx
from vaexprs.data.matrix import stacked_values
from vaexprs.generation import requests as generation
from vaexprs.io import write as writing
from vaexprs.io.write import write


def same(a, b):
    return (a.adata.X != b.adata.X).nnz == 0 and a.adata.obs.equals(b.adata.obs)


def test_generated_values_are_floats_and_exact():
    """R has no sparse integers, and float32 no odd number above 2^24."""
    for largest, kind in ((2**24, np.float32), (2**24 + 1, np.float64)):
        blocks = [sp.csr_matrix(np.array([[1, 0, n]], np.int32)) for n in (3, largest)]
        made = stacked_values(blocks)
        assert made.dtype == kind
        assert made.toarray().tolist() == [[1, 0, 3], [1, 0, largest]]


def test_augment_keeps_float32(few):
    for x in (few.X.astype(np.float32), few.X.toarray().astype(np.float32)):
        real = few.copy()
        real.X = x
        fit = vx.fit_vae(real, label_key="cell_type", epochs=1, verbose=0)
        assert vx.augment(real, "cell_type", 32, fit=fit, progress=False).X.dtype == np.float32


def test_generated_cells_are_labelled_counts_with_real_names(cells, conditional, generated):
    made = generated.adata
    assert made.shape == (400, 765)
    assert sp.issparse(made.X)
    assert made.X.dtype == np.float32
    assert made.X.min() == 0
    assert list(made.var_names) == list(cells.var_names)
    assert made.obs_names.is_unique
    assert set(made.obs.columns) == {"cell_type", "phase"}
    assert set(made.obs["phase"]) <= set(cells.obs["phase"])


def test_rs_five_fields(cells, generated):
    assert generated.x_gen.shape == (400, 765)
    assert generated.y_gen.shape == (400,)
    assert (
        (generated.x_train != cells.X).nnz == 0
        if sp.issparse(generated.x_train)
        else np.array_equal(generated.x_train, cells.X.toarray())
    )
    np.testing.assert_array_equal(generated.y_train, cells.obs["cell_type"].astype(str))
    assert generated.latent_vector.shape == (700, 10)


def test_x_train_and_generated_values_are_in_the_users_units(simulated, r_fit):
    made = vx.gen_exprs(r_fit, 100)
    np.testing.assert_allclose(made.x_train, simulated["x_train"], atol=1e-4)
    assert made.adata.X.min() >= 0
    assert np.corrcoef(made.x_gen.mean(axis=0), simulated["x_train"].mean(axis=0))[0, 1] > 0.97


def test_the_recipe_is_in_uns_and_goes_to_disk(generated, tmp_path):
    recipe = generated.adata.uns["vaexprs"]
    assert (recipe["seed"], recipe["n_cells"], recipe["likelihood"]) == (1, 400, "nb")
    write(generated.adata, tmp_path / "g.h5ad")
    assert ad.read_h5ad(tmp_path / "g.h5ad").uns["vaexprs"]["label_key"] == "cell_type"


def test_labels_come_in_the_training_proportions(cells, generated):
    real = cells.obs["cell_type"].value_counts() * 400 / 700
    made = generated.adata.obs["cell_type"].value_counts()
    assert (real - made[real.index]).abs().max() < 2.5


def test_one_label(conditional):
    made = vx.gen_exprs(conditional, 30, labels="CD34+")
    assert set(made.y_gen) == {"CD34+"}
    assert len(made.y_gen) == 30


def test_numbers_by_label_in_the_requested_order(conditional):
    made = vx.gen_exprs(conditional, labels={"CD56+ NK": 7, "CD34+": 5})
    assert made.y_gen.tolist() == ["CD56+ NK"] * 7 + ["CD34+"] * 5


def test_requested_covariates(conditional):
    made = vx.gen_exprs(conditional, 20, labels="Dendritic", covariates={"phase": "S"})
    assert set(made.adata.obs["phase"]) == {"S"}


@pytest.mark.slow
def test_a_combination_without_training_cells(cells):
    some = cells[~((cells.obs["cell_type"] == "CD56+ NK") & (cells.obs["phase"] == "S"))]
    fit = vx.fit_vae(some, label_key="cell_type", covariate_keys=["phase"], epochs=30, verbose=0)
    made = vx.gen_exprs(fit, 60, labels="CD56+ NK", covariates={"phase": "S"}).adata
    assert set(made.obs["phase"]) == {"S"}
    found = sc.AnnData(sp.vstack([cells.X, made.X]).toarray())
    sc.pp.normalize_total(found)
    sc.pp.log1p(found)
    marker = found.X[:, cells.var_names.get_loc("NKG7")]
    others = (cells.obs["cell_type"].isin(["CD19+ B", "CD14+ Monocyte"])).to_numpy()
    assert marker[700:].mean() > 3 * marker[:700][others].mean()


def test_library_sizes_are_like_the_real_ones_by_default(cells, conditional):
    made = np.log(vx.gen_exprs(conditional, 2000).adata.X.sum(axis=1))
    real = np.log(cells.X.sum(axis=1))
    assert made.mean() == pytest.approx(real.mean(), abs=0.05)
    assert made.std() == pytest.approx(real.std(), rel=0.15)


def test_requested_library_size(conditional):
    totals = [vx.gen_exprs(conditional, 300, library_size=n).adata.X.sum(axis=1).mean() for n in (300, 3000)]
    assert totals[0] == pytest.approx(300, rel=0.03)
    assert totals[1] == pytest.approx(3000, rel=0.03)
    assert same(vx.gen_exprs(conditional, 50, library_size="real"), vx.gen_exprs(conditional, 50))


def test_same_seed_same_cells_whatever_the_batch(conditional):
    whole = vx.gen_exprs(conditional, 700, seed=5)
    for size in (1, 128, 300, 10_000):
        assert same(whole, vx.gen_exprs(conditional, 700, size, use_generator=True, seed=5))
    assert not same(whole, vx.gen_exprs(conditional, 700, seed=6))


def test_more_cells_begin_with_the_same_ones(conditional):
    asked = {"labels": "Dendritic", "covariates": {"phase": "S"}}
    few, many = (vx.gen_exprs(conditional, n, **asked).adata.X for n in (256, 500))
    assert (few != many[:256]).nnz == 0


def test_the_memory_is_that_of_the_result_whatever_the_batch_size(conditional):
    def peak(**kwargs):
        tracemalloc.start()
        try:
            x = vx.gen_exprs(conditional, 6000, progress=False, **kwargs).x_gen
            return tracemalloc.get_traced_memory()[1], x.data.nbytes + x.indices.nbytes + x.indptr.nbytes
        finally:
            tracemalloc.stop()

    vx.gen_exprs(conditional, 6000, progress=False)
    for kwargs in (
        {},
        {"batch_size": 256, "use_generator": True},
        {"batch_size": 3000, "use_generator": True},
    ):
        most, result = peak(**kwargs)
        assert most < 2.2 * result + 10e6  # the blocks and the whole of them
        assert most < 6000 * 765 * 8  # all cells are never dense at once


@pytest.mark.parametrize("suffix", [".h5ad", ".zarr"])
def test_cells_written_during_generation_are_the_same(conditional, tmp_path, monkeypatch, suffix):
    monkeypatch.setitem(writing.CELLS_A_WRITE, suffix, 200)  # several writes
    kwargs = {"seed": 3, "covariates": {"phase": "S"}, "progress": False}
    whole = vx.gen_exprs(conditional, 700, **kwargs).adata
    made = vx.gen_exprs(conditional, 700, out=tmp_path / f"g{suffix}", **kwargs)
    read = vx.read(tmp_path / f"g{suffix}")
    assert (read.X != whole.X).nnz == 0
    assert (read.X.dtype, whole.X.dtype) == (np.int32, np.float32)
    pd.testing.assert_frame_equal(read.obs, whole.obs)
    assert list(read.var_names) == list(whole.var_names)
    assert read.uns["vaexprs"]["n_cells"] == 700
    # what is returned leaves X on disk
    assert not sp.issparse(made.x_gen)
    assert (made.x_gen[650:] != whole.X[650:]).nnz == 0
    assert list(made.y_gen) == list(whole.obs["cell_type"])
    assert [path.name for path in tmp_path.iterdir()] == [f"g{suffix}"]


def test_writing_cells_overwrites_nothing(conditional, tmp_path):
    (tmp_path / "g.h5ad").write_text("mine")
    with pytest.raises(FileExistsError, match=r"g\.h5ad'.*exists"):
        vx.gen_exprs(conditional, 5, out=tmp_path / "g.h5ad")
    with pytest.raises(ValueError, match=r"\.h5ad, \.zarr, .*'g\.loom'"):
        vx.gen_exprs(conditional, 5, out=tmp_path / "g.loom")
    assert (tmp_path / "g.h5ad").read_text() == "mine"


def generating(model, n, out, first=""):
    """Return a process that generates cells over what is at `out`, after a line of code."""
    code = f"{first}\nimport sys; sys.argv[0] = 'vaexprs'; from vaexprs.cli import main; main()"
    words = ["generate", model, "-n", n, "--out", out, "--overwrite", "--quiet"]
    return subprocess.Popen([sys.executable, "-c", code, *map(str, words)], stderr=subprocess.PIPE, text=True)


@pytest.mark.faults
@pytest.mark.parametrize(
    ("name", "n", "room"),
    [
        ("g.h5ad", 20_000, 3_000),  # the cells' names find none
        ("g.h5ad", 500, 60_000),  # what is written when the file is closed
        ("g.h5ad", 40_000, 2_000_000),  # the second lot of counts
        ("g.zarr", 2_000, 3_000),
    ],
)
def test_a_full_disk_is_reported_and_leaves_no_files(conditional, tmp_path, name, n, room):
    pytest.importorskip("resource", reason="files are limited in size where there is POSIX")
    model = conditional.save(tmp_path / "model")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / name).write_text("mine")
    limit = f"import resource; resource.setrlimit(resource.RLIMIT_FSIZE, ({room}, {room}))"
    process = generating(model, n, tmp_path / "out" / name, limit)
    said = process.communicate()[1]
    assert process.returncode == 2, said
    assert re.match(
        rf"Error: '{re.escape(str(tmp_path / 'out' / name))}'.*file too large", said.splitlines()[-1]
    )
    assert said.count("\n") == 1, said
    assert [path.name for path in (tmp_path / "out").iterdir()] == [name]
    assert (tmp_path / "out" / name).read_text() == "mine"


@pytest.mark.faults
@pytest.mark.parametrize(
    ("name", "sent", "status"),
    [("g.h5ad", signal.SIGINT, 130), ("g.zarr", signal.SIGINT, 130), ("g.zarr", signal.SIGTERM, 143)],
)
def test_ctrl_c_leaves_nothing_half_written(conditional, tmp_path, name, sent, status):
    model = conditional.save(tmp_path / "model")
    out = tmp_path / "out" / name
    out.parent.mkdir()
    out.write_text("mine")
    process = generating(model, 1_000_000, out)
    while not any("vaexprs-" in path.name for path in out.parent.iterdir()):  # until it has begun to write
        assert process.poll() is None
        time.sleep(0.05)
    time.sleep(1)
    process.send_signal(sent)
    said = process.communicate()[1]
    assert process.returncode == status, said
    assert out.read_text() == "mine"
    found = {path.name for path in out.parent.iterdir()} - {name}
    if sent == signal.SIGTERM:
        assert found == set()
        assert re.fullmatch(r"Terminated.*\n", said), said
    elif found:  # it had come to the counts
        (partial,) = found
        assert partial == f"g.partial{out.suffix}"
        kept = vx.read(out.with_name(partial))
        path = re.escape(str(out.with_name(partial)))
        assert re.fullmatch(rf"Interrupted.*\b{kept.n_obs:,} of 1,000,000 cells.*'{path}'.*\n", said), said
        assert kept.X.sum(axis=1).min() > 0
    else:
        assert re.fullmatch(r"Interrupted.*\n", said), said


def test_values_that_are_not_counts_are_written_too(few, tmp_path):
    logs = few.copy()
    logs.X = logs.X.log1p()
    fit = vx.fit_vae(logs, layer="X", label_key="cell_type", epochs=2, verbose=0)
    vx.gen_exprs(fit, 30, out=tmp_path / "g.h5ad", progress=False)
    assert np.array_equal(vx.read(tmp_path / "g.h5ad").X, vx.gen_exprs(fit, 30, progress=False).x_gen)


def test_a_table_of_conditions(conditional):
    table = pd.DataFrame(
        {"phase": ["S", None, "G2M"], "cell_type": ["CD34+", "CD56+ NK", None], "n": [5, 3, 4]}
    )
    made = vx.gen_exprs(conditional, conditions=table).adata
    assert made.obs["cell_type"].tolist()[:8] == ["CD34+"] * 5 + ["CD56+ NK"] * 3
    assert made.obs["phase"].tolist()[:5] == ["S"] * 5
    assert made.obs["phase"].tolist()[8:] == ["G2M"] * 4
    assert json.loads(made.uns["vaexprs"]["conditions"])[0] == {"phase": "S", "cell_type": "CD34+", "n": 5}
    gaps = pd.DataFrame({"donor": [101.0, None], "n": [2, 3]})  # as pandas reads a file with a gap
    assert generation._whole(gaps["donor"][0]) == 101
    listed = [{"phase": "S", "cell_type": "CD34+", "n": 5.0}, {"cell_type": "CD56+ NK", "n": 3}]
    assert vx.gen_exprs(conditional, conditions=listed).adata.obs.equals(made.obs[:8])


@pytest.mark.parametrize(
    ("table", "error", "words"),
    [
        ({"cell_type": ["CD34+"]}, ValueError, r"column 'n'.*'cell_type'"),
        ({"celltype": ["CD34+"], "n": [1]}, ValueError, r"'celltype'.*'cell_type'"),
        ({"cell_type": ["CD34"], "n": [1]}, ValueError, r"cell_type.*'CD34'"),
        ({"cell_type": ["CD34+"], "n": [1.5]}, TypeError, r"\bn in row 1 of conditions\b.*whole number.*\b1\.5"),
        ({"cell_type": ["CD34+"], "n": [-1]}, ValueError, r"\bn in row 1 of conditions\b.*\b0\b.*-1\b"),
        ({"cell_type": ["CD34+"], "n": [0]}, ValueError, r"\bcell"),
        ({"cell_type": [], "n": []}, ValueError, r"conditions.*\brow\b"),
        ("CD34+", TypeError, r"conditions.*DataFrame.*column 'n'"),
    ],
)  # fmt: skip
def test_invalid_tables_of_conditions(conditional, table, error, words):
    with pytest.raises(error, match=words):
        vx.gen_exprs(conditional, conditions=table)
    with pytest.raises(ValueError, match=r"num_samples.*labels.*covariates"):
        vx.gen_exprs(conditional, 5, conditions={"n": [3]})


def test_real_and_generated_cells_together(cells, generated):
    both = generated.to_anndata(real=True)
    assert both.shape == (1100, 765)
    assert both.obs["group"].value_counts().to_dict() == {"real": 700, "generated": 400}
    assert (sp.csr_matrix(both.X[:700]) != cells.X).nnz == 0
    assert both.obs_names.is_unique
    assert generated.to_anndata().shape == (400, 765)


@pytest.mark.slow
def test_generated_cells_work_in_scanpy(generated):
    both = generated.to_anndata(real=True)
    sc.pp.normalize_total(both, target_sum=1e4)
    sc.pp.log1p(both)
    sc.pp.pca(both, n_comps=10)
    sc.pp.neighbors(both)
    sc.tl.rank_genes_groups(both, "cell_type", method="wilcoxon")
    top = [str(names["CD19+ B"]) for names in both.uns["rank_genes_groups"]["names"][:10]]
    assert "CD79A" in top


def test_marker_genes_are_up_in_their_type_as_in_the_real_ones(cells, conditional):
    folds = []
    for group in (cells.copy(), vx.gen_exprs(conditional, 3_000, progress=False).adata):
        sc.pp.normalize_total(group, target_sum=1e4)
        x = group.to_df()
        here = (group.obs["cell_type"] == "CD19+ B").to_numpy()
        folds.append(np.log2((x[here].mean() + 1) / (x[~here].mean() + 1)))
    real, made = folds
    markers = real.nlargest(15).index
    found = made[markers] / real[markers]
    assert found.min() > 0.5
    assert 0.85 < found.median() < 1.15


@pytest.mark.slow
def test_a_label_with_one_or_two_cells(cells):
    rows = np.r_[
        np.flatnonzero(cells.obs["cell_type"] == "CD19+ B"),
        np.flatnonzero(cells.obs["cell_type"] == "CD34+")[:1],
        np.flatnonzero(cells.obs["cell_type"] == "CD56+ NK")[:2],
    ]
    with pytest.warns(UserWarning, match="same value"):
        fit = vx.fit_vae(cells[rows], label_key="cell_type", epochs=20, verbose=0)
    summary = fit.density.summary().set_index("cell_type")
    assert summary.loc[["CD34+", "CD56+ NK"], "model"].tolist() == ["pooled", "pooled"]
    made = vx.gen_exprs(fit, labels={"CD34+": 50, "CD56+ NK": 50}).adata
    assert len(np.unique(made.X.toarray(), axis=0)) == 100


def test_a_fit_without_labels(few):
    made = vx.gen_exprs(vx.fit_vae(few, epochs=2, verbose=0), 10)
    assert made.y_gen is None
    assert made.y_train is None
    assert made.adata.obs.shape == (10, 0)


def test_repr(generated):
    assert repr(generated) == "Generated: 400 cells x 765 genes"


@pytest.mark.parametrize(
    ("arguments", "kind", "words"),
    [
        ({}, ValueError, r"num_samples"),
        ({"num_samples": 0}, ValueError, r"num_samples.*\b1\b.*\b0\b"),
        ({"num_samples": -5}, ValueError, r"num_samples.*\b1\b.*-5\b"),
        ({"num_samples": 2.5}, TypeError, r"num_samples.*whole number.*\b2\.5"),
        ({"num_samples": 5, "labels": "CD34"}, ValueError, r"'CD34'.*'CD34.'"),
        ({"labels": {"CD34+": 0}}, ValueError, r"labels\['CD34\+'\].*\b1\b.*\b0\b"),
        ({"labels": {"CD34+": "x"}}, TypeError, r"whole number.*'x'"),
        ({"num_samples": 3, "labels": ["CD34+"]}, TypeError, r"label.*\['CD34\+'\]"),
        ({"num_samples": 3, "covariates": "S"}, TypeError, r"covariates.*levels.*'S'"),
        ({"labels": {}}, ValueError, r"labels.*\bdict\b"),
        ({"num_samples": 3, "labels": {"CD34+": 3}}, ValueError, r"num_samples"),
        ({"num_samples": 3, "covariates": {"fase": "S"}}, ValueError, r"'fase'.*'phase'"),
        ({"num_samples": 3, "covariates": {"phase": "G3"}}, ValueError, r"phase.*'G3'"),
        ({"num_samples": 3, "library_size": 0}, ValueError, r"library_size.*\b0\b"),
        ({"num_samples": 3, "library_size": "big"}, ValueError, r"number.*'real'.*'big'"),
        ({"num_samples": 3, "batch_size": 0}, ValueError, r"batch_size.*\b1\b.*\b0\b"),
        ({"num_samples": 3, "seed": -1}, ValueError, r"seed.*\b0\b.*-1\b"),
    ],
)
def test_invalid_requests(conditional, arguments, kind, words):
    with pytest.raises(kind, match=words):
        vx.gen_exprs(conditional, **arguments)
    assert vx.gen_exprs(conditional, 1).adata.n_obs == 1


def test_requests_that_do_not_apply_to_the_fit(r_fit, few):
    with pytest.raises(ValueError, match=r"labels.*label_key"):
        vx.gen_exprs(r_fit, 5, labels="B")
    with pytest.raises(ValueError, match=r"library_size.*counts.*likelihood.*'bernoulli'"):
        vx.gen_exprs(r_fit, 5, library_size=100)
    with pytest.raises(ValueError, match=r"covariates.*\bfit\b.*'phase'"):
        vx.gen_exprs(r_fit, 5, covariates={"phase": "S"})
    with pytest.raises(TypeError, match=r"^x\b.*fit_vae.*load_vae.*\bAnnData\b"):
        vx.gen_exprs(few, 5)


def test_stratified_is_ignored_and_true_raises_a_warning(conditional):
    cells = vx.gen_exprs(conditional, 3).adata
    assert not cells.uns["vaexprs"]["stratified"]
    for stratified in (None, False, True):
        expected = pytest.warns(FutureWarning, match=r"^stratified=True is ignored.*independent")
        with expected if stratified else nullcontext():
            made = vx.gen_exprs(conditional, 3, stratified=stratified).adata
        assert made.uns["vaexprs"]["stratified"] is False
        assert (made.X != cells.X).nnz == 0
