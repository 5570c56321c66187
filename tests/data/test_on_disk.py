"""Cells left on disk, from end to end: fits, and what is told of stores that are not whole."""

import html
import re
import warnings

import anndata as ad
import h5py
import keras
import numpy as np
import pandas as pd
import pytest

import vaexprs as vx
from commands import run as command
from vaexprs.comparison import subsample as comparison
from vaexprs.data import backed
from vaexprs.data.backed import BackedMatrix
from vaexprs.io import stores
from vaexprs.io.open import open_cells
from vaexprs.nn import batches
from vaexprs.plotting import embedding as plotting


@pytest.fixture
def large(monkeypatch):
    """Matrices of more than 10 kB on disk are large, and few of their rows are in memory at a time."""
    monkeypatch.setattr(stores, "IN_MEMORY", 10_000)
    monkeypatch.setattr(backed, "BLOCK_BYTES", 40_000)
    monkeypatch.setattr(batches, "BUFFER_BYTES", 200_000)


@pytest.fixture(scope="module")
def some_cells(cells):
    """600 of the cells x 100 of the genes, those of a label after each other."""
    genes = np.argsort(-np.asarray(cells.X.sum(axis=0)).ravel())[:100]
    rows = np.argsort(cells.obs["cell_type"].to_numpy(str), kind="stable")[:600]
    return cells[rows, genes].copy()


def write_as(cells, path):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        cells.write_h5ad(path, compression="gzip") if path.suffix == ".h5ad" else cells.write_zarr(path)
    return path


def fit(given, **more):
    settings = {"label_key": "cell_type", "epochs": 2, "batch_size": 64, "verbose": 0, "seed": 3}
    return vx.fit_vae(given, **(settings | more))


# ---- fits


@pytest.mark.seconds(20)
def test_a_small_fit_from_disk(tmp_path, some_cells, large):
    found = fit(write_as(some_cells[::3].copy(), tmp_path / "cells.h5ad"), epochs=1)
    assert isinstance(found.preprocessing.x_train, BackedMatrix)
    assert np.isfinite(found.history["loss"]).all()
    assert vx.gen_exprs(found, 20).adata.shape == (20, 100)


@pytest.fixture
def rows_read(monkeypatch):
    """Numbers of rows that were read from disk at once."""
    found, read = [], BackedMatrix._read

    def recorded(self, first, stop):
        found.append(stop - first)
        return read(self, first, stop)

    monkeypatch.setattr(BackedMatrix, "_read", recorded)
    return found


@pytest.mark.slow
@pytest.mark.parametrize(
    ("likelihood", "form", "suffix"),
    [
        ("nb", "csr", ".zarr"),
        ("zinb", "csr", ".h5ad"),
        ("poisson", "dense", ".h5ad"),
        ("gaussian", "csr", ".h5ad"),
        ("gaussian", "dense", ".zarr"),
    ],
)
def test_fit_from_disk_is_like_one_from_memory(
    tmp_path, some_cells, large, rows_read, likelihood, form, suffix
):
    cells = some_cells.copy()
    if likelihood == "gaussian":
        cells.X = cells.X.log1p()
    if form == "dense":
        cells.X = cells.X.toarray()
    wanted = fit(cells, likelihood=likelihood, validation_split=0.2)
    assert not rows_read
    found = fit(write_as(cells, tmp_path / f"cells{suffix}"), likelihood=likelihood, validation_split=0.2)
    assert isinstance(found.preprocessing.x_train, BackedMatrix)
    assert found.preprocessing.scaling.kind == wanted.preprocessing.scaling.kind
    assert list(found.genes) == list(wanted.genes)
    assert found.preprocessing.conditions == wanted.preprocessing.conditions
    # the weights start alike, the cells come in another order
    for name, values in wanted.history.items():
        np.testing.assert_allclose(found.history[name], values, rtol=0.5 if "kl" in name else 0.05)
    assert max(rows_read) < 300
    np.testing.assert_allclose(found.density.cells, wanted.density.cells)
    assert vx.gen_exprs(found, 20).adata.shape == (20, 100)


@pytest.mark.slow
def test_bernoulli_fit_from_disk_is_like_one_from_memory(tmp_path, some_cells, large, rows_read):
    layers = {
        "encoder_layers": [keras.layers.Dense(16, "relu")],
        "decoder_layers": [keras.layers.Dense(16, "relu"), keras.layers.Dense(100, "sigmoid")],
    }
    wanted = fit(some_cells, **layers)
    found = fit(write_as(some_cells, tmp_path / "cells.h5ad"), **layers)
    np.testing.assert_array_equal(found.preprocessing.scaling.range, wanted.preprocessing.scaling.range)
    np.testing.assert_allclose(found.history["loss"], wanted.history["loss"], rtol=0.05)
    assert 0 < max(rows_read) < 300


@pytest.mark.slow
def test_layers_backed_objects_and_views_are_left_on_disk(tmp_path, some_cells, large, rows_read):
    cells = some_cells.copy()
    cells.layers["counts"], cells.X = cells.X, cells.X * 0.5
    path = write_as(cells, tmp_path / "cells.h5ad")
    wanted = fit(path, layer="counts", epochs=1)
    path = write_as(some_cells, tmp_path / "plain.h5ad")
    backed = ad.read_h5ad(path, backed="r")
    for given in (backed, backed[::-1, :], str(path)):
        found = fit(given, epochs=1)
        assert isinstance(found.preprocessing.x_train, BackedMatrix)
        assert found.history == wanted.history
    assert max(rows_read) < 300


@pytest.mark.slow
def test_fit_of_one_seed_is_the_same_from_disk(tmp_path, some_cells, large):
    path = write_as(some_cells, tmp_path / "cells.h5ad")
    first, again, other = fit(path), fit(path), fit(path, seed=4)
    assert first.history == again.history != other.history
    np.testing.assert_array_equal(
        vx.gen_exprs(first, 9).x_gen.toarray(), vx.gen_exprs(again, 9).x_gen.toarray()
    )


@pytest.mark.slow
@pytest.mark.parametrize("batch_size", [64, 61])
def test_loss_from_disk_falls_as_with_full_shuffling_where_the_file_is_sorted(
    tmp_path, some_cells, large, monkeypatch, batch_size
):
    monkeypatch.setattr(batches, "BUFFER_BYTES", 400_000)
    path = write_as(some_cells, tmp_path / "cells.h5ad")
    monkeypatch.setattr(stores, "IN_MEMORY", 2**40)
    held = {"epochs": 8, "batch_size": batch_size, "validation_split": 0.2}
    full = fit(path, **held).history
    monkeypatch.setattr(stores, "IN_MEMORY", 10_000)
    disk = fit(path, **held).history
    for name in ("loss", "val_loss"):  # cells in the order of the file end 6% off
        np.testing.assert_allclose(disk[name][2:], full[name][2:], rtol=0.02)


# ---- what is wrong with a file


@pytest.mark.slow
def test_file_that_changes_in_the_middle_of_a_fit(tmp_path, some_cells, large):
    path = write_as(some_cells, tmp_path / "cells.h5ad")

    class Touch(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            if epoch == 2:
                with path.open("ab") as file:
                    file.write(b"more")

    with pytest.raises(ValueError, match=r"cells\.h5ad'.*changed"):
        fit(path, epochs=50, callbacks=[Touch()])


def run(*words, in_memory=10_000):
    """Run the command line with a size from which on matrices are left on disk."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(stores, "IN_MEMORY", in_memory)
        return command(*words)


def cut_off(path):
    with path.open("r+b") as file:
        file.truncate(path.stat().st_size // 2)
    return r"\.h5ad: Unable to synchronously open file"


def half_written(path):
    with h5py.File(path, "r+") as file:
        del file["X/indptr"]
    return r"'indptr'.*'X'"


def shortened(path):
    with h5py.File(path, "r+") as file:
        values = file["X/data"][:-100]
        del file["X/data"]
        file["X/data"] = values
    return r"'indptr', 'indices'.*'data'.*'X'"


def without_x(path):
    with h5py.File(path, "r+") as file:
        del file["X"]
    return r"AnnData.*\bX\b.*--layer counts"


def without_labels(path):
    with h5py.File(path, "r+") as file:
        del file["obs/cell_type"]
        file["obs"].attrs["column-order"] = [
            name for name in file["obs"].attrs["column-order"] if name != "cell_type"
        ]
    return r"--label-key.*\bobs\b.*'"


def scrambled(path):
    with h5py.File(path, "r+") as file:
        data = file["X/indices"]
        place = data.id.get_chunk_info(data.id.get_num_chunks() - 1)
    with path.open("r+b") as file:
        file.seek(place.byte_offset)
        file.write(b"\xff" * place.size)
    return r"\bcells\b" if data is not None else ""


def missing_chunk(path):
    next(file for file in (path / "X" / "data").rglob("0")).unlink()
    return r"\b1 of 1 chunks.*'X/data'"


def missing_metadata(path):
    (path / ".zmetadata").unlink(missing_ok=True)
    (path / "X" / "data" / ".zarray").unlink()
    return r"\.zarr: "


@pytest.mark.parametrize(
    "damage",
    [cut_off, half_written, shortened, without_x, without_labels, scrambled, missing_chunk, missing_metadata],
)
def test_damaged_files_end_in_one_line_and_leave_nothing(tmp_path, some_cells, damage):
    suffix = ".zarr" if damage in (missing_chunk, missing_metadata) else ".h5ad"
    path = write_as(some_cells, tmp_path / f"cells{suffix}")
    words = damage(path)
    done = run("fit", path, "--label-key", "cell_type", "--out", tmp_path / "model", "--epochs", 1)
    assert done.returncode == 2, done.stderr
    lines = done.stderr.strip().splitlines()
    assert [line for line in lines if line.startswith("Error: ")] == lines[-1:]
    assert re.search(words, lines[-1])
    assert "Traceback" not in done.stderr
    assert [file.name for file in tmp_path.iterdir()] == [path.name]


def test_layer_that_is_not_there_at_the_command_line(tmp_path, some_cells):
    path = write_as(some_cells, tmp_path / "cells.h5ad")
    done = run("fit", path, "--layer", "counts", "--out", tmp_path / "model")
    assert done.returncode == 2
    assert re.fullmatch(r"Error: --layer\b.*layers.*'counts'\.", done.stderr.strip()), done.stderr


# ---- what looks at a sample


@pytest.fixture(scope="module")
def fitted(some_cells):
    """A fit of half of the cells."""
    return vx.fit_vae(some_cells[::2].copy(), label_key="cell_type", epochs=3, verbose=0)


@pytest.fixture
def sampling(large, monkeypatch):
    """Of a set on disk 150 cells are looked at."""
    monkeypatch.setattr(comparison, "MAX_FROM_DISK", 150)
    monkeypatch.setattr(plotting, "MAX_FROM_DISK", 60)


def sampled(n, name, most=150):
    """Return a pattern of the note that says how many of the cells on disk were used."""
    return rf"\b{most}\b.*\b{n} {name} cells\b.*\bdisk\b"


def assert_sampled(notes, *expected):
    """Check that each note is of the set of cells expected in its place."""
    for note, pattern in zip(notes, expected, strict=True):
        assert re.search(pattern, note), note


@pytest.mark.parametrize("suffix", [".h5ad", ".zarr"])
@pytest.mark.parametrize("layer", [None, "counts"])
def test_sample_has_every_label_and_the_names_of_its_cells(tmp_path, some_cells, sampling, suffix, layer):
    cells = some_cells.copy()
    cells.layers["counts"] = cells.X
    cells.obs["rare"] = pd.Categorical(["rare"] * 2 + ["few"] * 9 + ["many"] * 589)
    path = write_as(cells, tmp_path / f"cells{suffix}")
    looked = comparison.load_cells(open_cells(path), keys=["rare", None], seed=0, layer=layer)
    found = looked.cells
    assert (looked.total, found.shape) == (600, (150, 100))
    numbers = found.obs["rare"].value_counts()
    assert numbers["rare"] == 2
    assert 2 <= numbers["few"] <= 9
    wanted = cells[found.obs_names]
    values = found.X if layer is None else found.layers["counts"]
    np.testing.assert_array_equal(values.toarray(), wanted.X.toarray())
    assert list(found.obs["rare"]) == list(wanted.obs["rare"])
    again, other = (
        comparison.load_cells(open_cells(path), keys=["rare"], seed=seed).cells for seed in (0, 1)
    )
    assert list(again.obs_names) == list(found.obs_names) != list(other.obs_names)
    backed = ad.read_h5ad(path, backed="r") if suffix == ".h5ad" else stores.open_backed(path)
    assert list(comparison.load_cells(open_cells(backed), keys=["rare"], seed=0).cells.obs_names) == list(
        found.obs_names
    )


def test_sample_is_bounded_in_bytes(tmp_path, some_cells, sampling, monkeypatch):
    path = write_as(some_cells, tmp_path / "cells.h5ad")
    monkeypatch.setattr(comparison, "BYTES_FROM_DISK", 8 * some_cells.X.nnz / 10)
    assert comparison.load_cells(open_cells(path), keys=[], seed=0).cells.n_obs == 60


def test_cells_in_memory_are_looked_at_as_they_are(some_cells, sampling):
    looked = comparison.load_cells(open_cells(some_cells), keys=["cell_type"], seed=0)
    assert looked.cells is some_cells
    assert looked.total is None
    assert looked.notes("real") == []


@pytest.mark.parametrize("suffix", [".h5ad", ".zarr"])
def test_evaluate_looks_at_samples_of_files(tmp_path, some_cells, fitted, sampling, rows_read, suffix):
    made = vx.gen_exprs(fitted, 400, out=tmp_path / f"made{suffix}", seed=0)
    train, real = (
        write_as(some_cells[i::2].copy(), tmp_path / f"{name}{suffix}")
        for i, name in enumerate(("train", "real"))
    )
    given = {"only": ["gene_means", "library_size_ratio"], "resamples": 3, "progress": False}
    table = vx.evaluate(made, real, train=train, **given)
    assert_sampled(
        table.attrs["notes"][:3], sampled(400, "generated"), sampled(300, "real"), sampled(300, "train")
    )
    assert set(table["metric"]) == {"gene_means", "library_size_ratio"}
    assert 50 < table.attrs["cells"] <= 150
    assert max(rows_read) < 200
    again = vx.evaluate(tmp_path / f"made{suffix}", real, train=train, **given)
    assert again.equals(table)
    of_files = vx.evaluate(
        comparison.load_cells(open_cells(made.adata), keys=["cell_type"], seed=0).cells,
        comparison.load_cells(open_cells(real), keys=["cell_type"], seed=0).cells,
        train=comparison.load_cells(open_cells(train), keys=["cell_type"], seed=0).cells,
        **given,
    )
    assert of_files.equals(table)
    assert not [note for note in of_files.attrs["notes"] if "on disk" in note]


def test_the_same_file_twice_is_noticed(tmp_path, some_cells, sampling):
    path = write_as(some_cells, tmp_path / "cells.h5ad")
    table = vx.evaluate(
        some_cells, path, train=path, label_key="cell_type", only=["gene_means"], resamples=3, progress=False
    )
    assert any(re.search(r"training cells.*real cells", note) for note in table.attrs["notes"])


@pytest.mark.slow
def test_audit_looks_at_samples_of_files(tmp_path, some_cells, fitted, sampling, rows_read):
    path = tmp_path / "made.h5ad"
    made = vx.gen_exprs(fitted, 400, out=path)
    cells = some_cells.copy()
    cells.layers["counts"], cells.X = cells.X, cells.X.copy()
    cells.X.data[:] = 1  # without the layer a copy is none
    train, held = (write_as(cells[i::2].copy(), tmp_path / f"{i}.h5ad") for i in range(2))
    table = vx.audit_privacy(made, train, held, layer="counts")
    expected = (sampled(400, "generated"), sampled(300, "train"), sampled(300, "holdout"), r"\bcells\b")
    assert_sampled(table.attrs["notes"][:4], *expected)
    assert max(rows_read) < 200
    assert vx.audit_privacy(path, train, held, layer="counts").equals(table)
    copies = vx.audit_privacy(some_cells[::2], train, held, layer="counts", label_key="cell_type")
    assert copies.set_index("metric").loc["membership_auc", "verdict"] == "fail"


def test_plot_shows_a_sample_of_files(tmp_path, some_cells, fitted, sampling):
    made = vx.gen_exprs(fitted, 300, out=tmp_path / "made.zarr")
    path = write_as(some_cells, tmp_path / "real.h5ad")
    expected = (sampled(300, "generated", 60), sampled(600, "real", 60))
    for given in (made, tmp_path / "made.zarr", made.adata):
        with pytest.warns(UserWarning, match=r"disk") as caught:
            figure = vx.plot_aug(given, "PCA", real=path)
        notes = [str(w.message) for w in caught if "disk" in str(w.message)]
        assert_sampled(notes, *expected)
        assert figure.get_supxlabel() == "\n".join(notes)
        assert [len(c.get_offsets()) for c in figure.axes[0].collections] == [60, 60]
        assert len(figure.axes) == 1 + some_cells.obs["cell_type"].nunique()
    with pytest.warns(UserWarning, match=r"\b60\b.*\b300 generated cells.*disk"):
        figure = vx.plot_aug(made, "PCA")  # with the training cells of the fit, which are in memory
    assert [len(c.get_offsets()) for c in figure.axes[0].collections] == [300, 60]
    both = ad.concat({"real": some_cells, "generated": some_cells}, label="group", index_unique="-")
    both = write_as(both, tmp_path / "both.h5ad")
    with pytest.warns(UserWarning, match=r"\b60\b.*\b1,200 given cells.*disk"):
        figure = vx.plot_aug(both, "PCA", label_key="cell_type")
    assert sum(len(c.get_offsets()) for c in figure.axes[0].collections) == 60


def test_plot_of_cells_in_memory_has_no_caption(fitted):
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        figure = vx.plot_aug(vx.gen_exprs(fitted, 30), "PCA")
    assert figure.get_supxlabel() == ""


@pytest.mark.slow
def test_everything_works_with_a_fit_that_left_its_cells_on_disk(tmp_path, some_cells, sampling, rows_read):
    path = write_as(some_cells[::2].copy(), tmp_path / "cells.h5ad")
    held = write_as(some_cells[1::2].copy(), tmp_path / "held.h5ad")
    found = fit(path)
    made = vx.gen_exprs(found, 200, out=tmp_path / "made.h5ad")
    assert isinstance(made.x_train, BackedMatrix)
    np.testing.assert_array_equal(made.x_train[:].toarray(), some_cells.X[::2].toarray())
    assert made.latent_vector.shape == (300, 10)
    assert len(made.y_train) == 300
    with pytest.warns(UserWarning, match=r"\b60\b.*\b300 training cells.*disk"):
        vx.plot_aug(made, "PCA")
    page = tmp_path / "page.html"
    rows_read.clear()
    vx.write_report(found, made, held, page, progress=False)
    assert max(rows_read) < 200
    text = html.unescape(page.read_text(encoding="utf-8"))
    assert "200 generated cells" in text
    for n, name in ((200, "generated"), (300, "real"), (300, "train")):
        assert re.search(sampled(n, name), text)
    assert re.search(r"disk.*cells\.h5ad", text)
    both = made.to_anndata(real=True)
    assert both.obs["group"].value_counts().to_dict() == {"real": 300, "generated": 200}
    assert made.to_anndata().X.shape == (200, 100)


@pytest.mark.slow
def test_commands_look_at_samples_of_files(tmp_path, some_cells, fitted, monkeypatch):
    fitted.save(tmp_path / "model")
    vx.gen_exprs(fitted, 300, out=tmp_path / "made.h5ad")
    train, real = (write_as(some_cells[i::2].copy(), tmp_path / f"{i}.h5ad") for i in range(2))
    made = tmp_path / "made.h5ad"
    monkeypatch.setattr(comparison, "BYTES_FROM_DISK", 30_000)

    def command(*words):
        done = run(*words)
        assert done.returncode == 0, done.stderr
        return done

    note = re.compile(r"\b300 generated cells\b.*\bdisk\b")
    assert note.search(command("audit", made, "--train", train, "--holdout", real).stdout)
    figure = tmp_path / "figure.png"
    assert note.search(command("plot", made, "--real", real, "--method", "PCA", "--out", figure).stderr)
    assert figure.read_bytes().startswith(b"\x89PNG")
    assert note.search(command("evaluate", made, "--real", real).stdout)
