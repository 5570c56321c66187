"""Reading, writing and converting: any accepted input becomes an AnnData of cells x genes."""

import re
import warnings

import anndata as ad
import biocutils
import h5py
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
from biocframe import BiocFrame
from singlecellexperiment import SingleCellExperiment
from summarizedexperiment import SummarizedExperiment

from vaexprs.data import backed
from vaexprs.data.backed import BackedMatrix, in_memory, row_blocks, stamp_of
from vaexprs.data.demo import demo_cells
from vaexprs.data.matrix import as_float, densify, limits, stored
from vaexprs.io import stores
from vaexprs.io import write as writing
from vaexprs.io.atomic import check_output, written_whole
from vaexprs.io.convert import from_matrix
from vaexprs.io.open import load_layer, open_cells
from vaexprs.io.read import read
from vaexprs.io.stores import back_layer, open_store
from vaexprs.io.write import write


def from_object(cells, layer=None, **names):
    return load_layer(open_cells(cells, **names), layer)


def open_large(cells, *, layer, keys):
    return back_layer(open_cells(cells), layer=layer, keys=keys)


COUNTS = np.arange(12.0).reshape(4, 3)  # cells x genes
CELLS, GENES = ["c1", "c2", "c3", "c4"], ["g1", "g2", "g3"]

zarr_chatter = pytest.mark.filterwarnings("ignore:Writing zarr v2 data")


@pytest.fixture(scope="module")
def cells():
    return demo_cells()


@pytest.fixture
def small():
    """Four cells with fractions in X and their counts in a layer."""
    obs = pd.DataFrame({"cell_type": ["T", "B", "T", "B"]}, index=CELLS)
    var = pd.DataFrame({"length": [1, 2, 3]}, index=GENES)
    return ad.AnnData(np.log1p(COUNTS), obs=obs, var=var, layers={"counts": COUNTS, "log": np.log1p(COUNTS)})


def names_in(folder):
    return sorted(path.name for path in folder.iterdir())


# ---- read


def test_missing_file_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"/cells\.h5ad'"):
        read(tmp_path / "cells.h5ad")


@pytest.mark.parametrize("name", ["cells.xlsx", "cells", "cells.H5AD", "cells.h5ad.gz"])
def test_other_suffixes_are_refused_with_those_that_can_be_read(tmp_path, name):
    (tmp_path / name).write_text("")
    words = (
        r"\.h5ad, \.zarr, \.h5mu, \.h5, \.loom, \.mtx, \.mtx\.gz, .*\bmatrix\.mtx, \.csv, \.csv\.gz, .*, \.rds"
        rf".*'{re.escape(name)}'"
    )
    with pytest.raises(ValueError, match=words):
        read(tmp_path / name)


def test_truncated_h5ad_is_named_with_its_reason(tmp_path, small):
    whole = write(small, tmp_path / "whole.h5ad").read_bytes()
    (tmp_path / "cut.h5ad").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match=r"cut\.h5ad'.*\.h5ad: .*truncated file") as caught:
        read(tmp_path / "cut.h5ad")
    assert isinstance(caught.value.__cause__, OSError)


@pytest.mark.parametrize("content", [b"", b"gene,cell\n1,2\n"])
def test_h5ad_that_is_not_hdf5_is_named(tmp_path, content):
    (tmp_path / "other.h5ad").write_bytes(content)
    with pytest.raises(ValueError, match=r"other\.h5ad'.*\.h5ad: .*signature"):
        read(tmp_path / "other.h5ad")


def test_hdf5_that_is_not_an_anndata_is_named(tmp_path):
    with h5py.File(tmp_path / "other.h5ad", "w"):
        pass
    with pytest.raises(ValueError, match=r"other\.h5ad'.*\.h5ad: .*obs"):
        read(tmp_path / "other.h5ad")


def test_folder_that_is_not_zarr_is_named(tmp_path):
    (tmp_path / "other.zarr").mkdir()
    with pytest.raises(ValueError, match=r"other\.zarr'.*\.zarr: No group"):
        read(tmp_path / "other.zarr")


# ---- write


@zarr_chatter
@pytest.mark.parametrize("name", ["cells.h5ad", "cells.zarr"])
def test_real_cells_come_back_as_they_were_written(tmp_path, cells, name):
    path = write(cells, tmp_path / name)
    assert path == tmp_path / name
    assert names_in(tmp_path) == [name]
    back = read(str(path))
    assert sp.issparse(back.X)
    assert back.X.dtype == np.float32
    np.testing.assert_array_equal(back.X.toarray(), cells.X.toarray())
    pd.testing.assert_frame_equal(back.obs, cells.obs)
    assert list(back.var_names) == list(cells.var_names)


def test_h5ad_is_compressed(tmp_path, cells):
    path = write(cells, tmp_path / "cells.h5ad")
    with h5py.File(path) as file:
        assert file["X/data"].compression == "gzip"


@zarr_chatter
@pytest.mark.parametrize("name", ["cells.h5ad", "cells.zarr"])
def test_nothing_is_overwritten_unless_asked(tmp_path, small, name):
    path = write(small, tmp_path / name)
    with pytest.raises(FileExistsError, match=rf"{name}'.*exists.*overwrite"):
        write(small[:2], path)
    assert read(path).n_obs == 4
    write(small[:2], path, overwrite=True)
    assert read(path).n_obs == 2
    assert names_in(tmp_path) == [name]


def test_overwrite_may_be_said_where_nothing_stands(tmp_path, small):
    assert read(write(small, tmp_path / "cells.h5ad", overwrite=True)).n_obs == 4


def test_what_is_neither_cells_nor_a_path_is_told(tmp_path, small):
    with pytest.raises(TypeError, match=r"\bpath\b.*pathlib\.Path.*\bNoneType\b"):
        read(None)
    with pytest.raises(TypeError, match=r"\bpath\b.*pathlib\.Path.*\bint\b"):
        write(small, 5)
    with pytest.raises(TypeError, match=r"adata.*AnnData.*\bdict\b"):
        write({}, tmp_path / "a.h5ad")
    assert list(tmp_path.iterdir()) == []


def test_output_of_another_suffix_is_refused(tmp_path, small):
    words = r"\.h5ad, \.zarr, \.mtx, \.csv, .*, \.rds.*'cells\.loom'"
    with pytest.raises(ValueError, match=words):
        write(small, tmp_path / "cells.loom")
    assert names_in(tmp_path) == []


def test_output_in_a_missing_folder_names_the_folder(tmp_path, small):
    with pytest.raises(FileNotFoundError, match=r"(?i)folder.*/nowhere'"):
        write(small, tmp_path / "nowhere" / "cells.h5ad")
    assert names_in(tmp_path) == []


def test_output_in_the_current_folder_is_accepted(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert str(check_output("cells.h5ad", overwrite=False)) == "cells.h5ad"


def test_anndata_that_cannot_be_written_leaves_no_file(tmp_path, small):
    small.uns["stranger"] = object()
    with pytest.raises(Exception, match="No method registered for writing <class 'object'>"):
        write(small, tmp_path / "cells.h5ad")
    assert names_in(tmp_path) == []


# ---- written_whole


def test_file_appears_at_the_end_only(tmp_path):
    path = tmp_path / "model.keras"
    with written_whole(path, overwrite=False) as beside:
        beside.write_text("new")
        assert beside.parent == tmp_path
        assert beside.suffix == ".keras"
        assert not path.exists()
    assert path.read_text() == "new"
    assert names_in(tmp_path) == ["model.keras"]


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_exception_leaves_nothing_behind(tmp_path, error):
    with pytest.raises(error, match="stop"), written_whole(tmp_path / "a.h5ad", overwrite=False) as beside:
        beside.write_text("half")
        raise error("stop")
    assert names_in(tmp_path) == []


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_exception_keeps_the_old_file(tmp_path, error):
    path = tmp_path / "a.h5ad"
    path.write_text("old")
    with pytest.raises(error, match="stop"), written_whole(path, overwrite=True) as beside:
        beside.write_text("half")
        raise error("stop")
    assert path.read_text() == "old"
    assert names_in(tmp_path) == ["a.h5ad"]


def test_exception_keeps_the_old_folder(tmp_path):
    path = tmp_path / "fit"
    path.mkdir()
    (path / "old.txt").write_text("old")
    with pytest.raises(RuntimeError, match="stop"), written_whole(path, overwrite=True) as beside:
        beside.mkdir()
        (beside / "new.txt").write_text("half")
        raise RuntimeError("stop")
    assert (path / "old.txt").read_text() == "old"
    assert names_in(tmp_path) == ["fit"]
    assert names_in(path) == ["old.txt"]


def test_folder_is_replaced_with_all_that_was_in_it(tmp_path):
    path = tmp_path / "fit"
    path.mkdir()
    (path / "old.txt").write_text("old")
    with written_whole(path, overwrite=True) as beside:
        beside.mkdir()
        (beside / "new.txt").write_text("new")
        assert names_in(path) == ["old.txt"]
    assert names_in(path) == ["new.txt"]
    assert names_in(tmp_path) == ["fit"]


def test_folder_may_be_replaced_by_a_file(tmp_path):
    path = tmp_path / "cells.h5ad"
    path.mkdir()
    with written_whole(path, overwrite=True) as beside:
        beside.write_text("new")
    assert path.read_text() == "new"
    assert names_in(tmp_path) == ["cells.h5ad"]


def test_body_that_writes_nothing_is_an_error_and_keeps_what_stood(tmp_path):
    folder, file = tmp_path / "fit", tmp_path / "a.txt"
    folder.mkdir()
    file.write_text("old")
    for path in (folder, file, tmp_path / "new.txt"):
        with pytest.raises(FileNotFoundError), written_whole(path, overwrite=True):
            pass
    assert file.read_text() == "old"
    assert names_in(tmp_path) == ["a.txt", "fit"]


def test_body_does_not_run_where_the_output_is_refused(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("old")
    ran = []
    with pytest.raises(FileExistsError, match=r"a\.txt"), written_whole(path, overwrite=False):
        ran.append(True)
    assert ran == []
    assert path.read_text() == "old"


def test_file_may_be_replaced_by_a_folder(tmp_path):
    path = tmp_path / "cells.zarr"
    path.write_text("old")
    with written_whole(path, overwrite=True) as beside:
        beside.mkdir()
        (beside / "new.txt").write_text("new")
    assert names_in(path) == ["new.txt"]
    assert names_in(tmp_path) == ["cells.zarr"]


def test_replaced_link_to_a_folder_leaves_nothing_behind(tmp_path):
    target, link = tmp_path / "target", tmp_path / "fit"
    target.mkdir()
    link.symlink_to(target)
    with written_whole(link, overwrite=True) as beside:
        beside.mkdir()
    assert names_in(tmp_path) == ["fit", "target"]


# ---- open_cells: AnnData


@pytest.mark.parametrize("layer", [None, "X"])
def test_x_is_taken_by_default_with_obs_and_gene_names(small, layer):
    del small.layers["counts"]
    small.X = small.X + 0.1
    taken = from_object(small, layer=layer)
    np.testing.assert_array_equal(taken.X, np.log1p(COUNTS) + 0.1)
    pd.testing.assert_frame_equal(taken.obs, small.obs)
    assert list(taken.var_names) == GENES
    pd.testing.assert_frame_equal(taken.var, small.var)


def test_named_layer_becomes_x(small):
    np.testing.assert_array_equal(from_object(small, layer="counts").X, COUNTS)


def test_unknown_layer_suggests_the_nearest(small):
    words = r"^layer\b.*'counts', 'log'.*'count'.*'counts'"
    with pytest.raises(ValueError, match=words):
        from_object(small, layer="count")


def test_layer_where_there_are_none_is_told_so(small):
    del small.layers["counts"], small.layers["log"]
    with pytest.raises(ValueError, match=r"^layer\b.*layers.*'counts'"):
        from_object(small, layer="counts")


def test_anndata_without_x_is_told_to_name_a_layer(small):
    bare = ad.AnnData(obs=small.obs, var=small.var, layers={"mine": COUNTS})
    for layer in (None, "X"):
        with pytest.raises(ValueError, match=r"AnnData.*\bX\b.*layer='counts'"):
            from_object(bare, layer=layer)
    np.testing.assert_array_equal(from_object(bare, layer="mine").X, COUNTS)
    bare.layers["counts"] = 2 * COUNTS
    np.testing.assert_array_equal(from_object(bare).X, 2 * COUNTS)


@pytest.mark.parametrize("kind", [np.asarray, sp.csr_matrix, sp.csc_matrix])
def test_counts_in_a_layer_are_found_where_x_has_fractions(small, kind):
    small.X, small.layers["counts"] = kind(np.log1p(COUNTS)), kind(COUNTS)
    words = r"^X\b.*counts.*layers\['counts'\].*layer='X' \(--layer X\)"
    with pytest.warns(UserWarning, match=words):
        taken = from_object(small)
    np.testing.assert_array_equal(densify(taken.X), COUNTS)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        as_it_is = from_object(small, layer="X")
    np.testing.assert_array_equal(densify(as_it_is.X), np.log1p(COUNTS))


@pytest.mark.parametrize("change", ["layer named", "X counts", "layer fractions"])
def test_no_warning_where_the_choice_is_plain(small, change):
    if change == "X counts":
        small.X = COUNTS
    if change == "layer fractions":
        small.X = small.X + 0.1
        small.layers["counts"] = np.log1p(COUNTS) + 0.2
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        from_object(small, layer="log" if change == "layer named" else None)


def test_view_gives_its_own_cells_and_genes(small):
    taken = from_object(small[1:3, ["g3", "g1"]], layer="counts")
    np.testing.assert_array_equal(taken.X, COUNTS[1:3][:, [2, 0]])
    assert list(taken.obs_names) == ["c2", "c3"]
    assert list(taken.var_names) == ["g3", "g1"]
    assert not taken.is_view


@pytest.mark.parametrize("kind", [np.asarray, sp.csr_matrix])
@pytest.mark.parametrize("layer", [None, "log"])
def test_backed_file_is_read_into_memory(tmp_path, small, kind, layer):
    del small.layers["counts"]
    small.X, small.layers["log"] = kind(COUNTS), kind(np.log1p(COUNTS))
    backed = ad.read_h5ad(write(small, tmp_path / "cells.h5ad"), backed="r")
    whole, some = from_object(backed, layer=layer), from_object(backed[1:3], layer=layer)
    backed.file.close()
    expected = COUNTS if layer is None else np.log1p(COUNTS)
    assert not whole.isbacked
    np.testing.assert_array_equal(densify(whole.X), expected)
    np.testing.assert_array_equal(densify(some.X), expected[1:3])
    assert list(some.obs["cell_type"]) == ["B", "T"]


def test_path_is_read(tmp_path, small):
    path = write(small, tmp_path / "cells.h5ad")
    for given in (path, str(path)):
        np.testing.assert_array_equal(from_object(given, layer="counts").X, COUNTS)


def test_new_column_in_the_taken_object_is_not_in_the_users(small):
    taken = from_object(small, layer="counts")
    taken.obs["new"] = 1
    assert list(small.obs.columns) == ["cell_type"]


@pytest.mark.parametrize("given", [COUNTS, None, 5])
def test_anything_else_is_a_type_error_that_tells_where_matrices_go(given):
    words = rf"path.*\b{type(given).__name__}\b.*matrix.*\(n_cells, n_genes\).*x_train"
    with pytest.raises(TypeError, match=words):
        from_object(given, matrix="x_train")
    with pytest.raises(TypeError, match=r"\(n_cells, n_genes\).*anndata\.AnnData\(matrix\)"):
        from_object(given)


# ---- open_cells: BiocPy, genes x cells

both_experiments = pytest.mark.parametrize("kind", [SummarizedExperiment, SingleCellExperiment])


def experiment(kind, *, matrix=np.asarray, names=True, columns=True, **more):
    """The four cells as BiocPy has them: genes in rows."""
    if columns:
        more["column_data"] = BiocFrame({"cell_type": ["T", "B", "T", "B"], "depth": [1, 2, 3, 4]})
    if names:
        more |= {"row_names": GENES, "column_names": CELLS}
    return kind(assays={"counts": matrix(COUNTS.T), "log": matrix(np.log1p(COUNTS.T))}, **more)


@both_experiments
@pytest.mark.parametrize("matrix", [np.asarray, sp.csr_matrix, sp.csc_matrix, sp.csr_array])
def test_experiment_is_transposed_to_cells_by_genes(kind, matrix):
    taken = from_object(experiment(kind, matrix=matrix))
    assert taken.shape == (4, 3)
    np.testing.assert_array_equal(densify(taken.X), COUNTS)
    assert list(taken.obs_names) == CELLS
    assert list(taken.var_names) == GENES


@both_experiments
def test_column_data_become_obs(kind):
    obs = from_object(experiment(kind)).obs
    assert list(obs["cell_type"]) == ["T", "B", "T", "B"]
    assert list(obs["depth"]) == [1, 2, 3, 4]
    assert list(obs.index) == CELLS


@both_experiments
def test_named_assay_becomes_x(kind):
    np.testing.assert_allclose(from_object(experiment(kind), layer="log").X, np.log1p(COUNTS), rtol=1e-6)


@both_experiments
@pytest.mark.parametrize("columns", [True, False])
def test_cells_and_genes_without_names_are_numbered(kind, columns):
    taken = from_object(experiment(kind, names=False, columns=columns))
    np.testing.assert_array_equal(taken.X, COUNTS)
    assert list(taken.obs_names) == ["cell1", "cell2", "cell3", "cell4"]
    assert list(taken.var_names) == ["gene1", "gene2", "gene3"]
    assert list(taken.obs.columns) == (["cell_type", "depth"] if columns else [])


@both_experiments
def test_factor_column_becomes_a_categorical(kind):
    factor = biocutils.Factor.from_sequence(["T", "B", "T", "B"])
    given = experiment(kind, columns=False, column_data=BiocFrame({"cell_type": factor}))
    column = from_object(given).obs["cell_type"]
    assert list(column) == ["T", "B", "T", "B"]
    assert set(column.cat.categories) == {"B", "T"}


@pytest.mark.filterwarnings("ignore:'reduced_dims' is deprecated")
def test_reduced_dimensions_and_other_experiments_do_not_disturb():
    other = experiment(SingleCellExperiment)
    given = experiment(
        SingleCellExperiment, reduced_dims={"PCA": np.ones((4, 2))}, alternative_experiments={"other": other}
    )
    np.testing.assert_array_equal(from_object(given).X, COUNTS)


@both_experiments
def test_metadata_of_an_experiment_do_not_disturb(kind):
    np.testing.assert_array_equal(from_object(experiment(kind, metadata={"lab": "ours"})).X, COUNTS)


@pytest.mark.parametrize("columns", [True, False])
@both_experiments
def test_experiment_without_names_is_converted_without_a_warning(kind, columns):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert from_object(experiment(kind, names=False, columns=columns)).shape == (4, 3)


@both_experiments
def test_unknown_assay_suggests_the_nearest(kind):
    words = r"^layer\b.*'counts', 'log'.*'count'.*'counts'"
    with pytest.raises(ValueError, match=words):
        from_object(experiment(kind), layer="count")


@both_experiments
def test_experiment_without_an_assay_is_refused(kind):
    with pytest.raises(ValueError, match=r"experiment.*assay"):
        from_object(kind())


@both_experiments
def test_assay_asked_of_an_experiment_without_any_is_told_so(kind):
    with pytest.raises(ValueError, match=r"assay"):
        from_object(kind(), layer="counts")


# ---- from_matrix


@pytest.mark.parametrize(
    "given",
    [
        COUNTS,
        COUNTS.astype(np.float16),
        COUNTS.astype(int),
        COUNTS.astype(np.uint8),
        np.asfortranarray(COUNTS),
        COUNTS[::-1][::-1],
        COUNTS.tolist(),
        tuple(map(tuple, COUNTS)),
    ],
    ids=["float64", "float16", "int", "uint8", "fortran", "strided", "lists", "tuples"],
)
def test_dense_matrix_becomes_contiguous_float32(given):
    taken = from_matrix(given, "x_train")
    np.testing.assert_array_equal(taken.X, COUNTS)
    assert taken.X.dtype == np.float32
    assert taken.X.flags.c_contiguous


def test_booleans_count_as_zero_and_one():
    np.testing.assert_array_equal(from_matrix(COUNTS > 5, "x_train").X, (COUNTS > 5).astype(float))


@pytest.mark.parametrize(
    "kind",
    [sp.csr_matrix, sp.csc_matrix, sp.coo_matrix, sp.lil_matrix, sp.csr_array, sp.csc_array, sp.coo_array],
)
@pytest.mark.parametrize("dtype", [float, int, bool])
def test_sparse_matrix_becomes_csr_float32(kind, dtype):
    taken = from_matrix(kind(COUNTS.astype(dtype)), "x_train")
    assert isinstance(taken.X, sp.csr_matrix)
    assert taken.X.dtype == np.float32
    np.testing.assert_array_equal(taken.X.toarray(), COUNTS.astype(dtype))


def test_cells_and_genes_of_a_bare_matrix_are_numbered():
    taken = from_matrix(COUNTS, "x_train")
    assert list(taken.obs_names) == ["cell1", "cell2", "cell3", "cell4"]
    assert list(taken.var_names) == ["gene1", "gene2", "gene3"]


def test_data_frame_names_cells_and_genes():
    taken = from_matrix(pd.DataFrame(COUNTS, index=CELLS, columns=GENES), "x_train")
    np.testing.assert_array_equal(taken.X, COUNTS)
    assert list(taken.obs_names) == CELLS
    assert list(taken.var_names) == GENES


def test_data_frame_with_numbers_for_names_has_them_as_strings():
    taken = from_matrix(pd.DataFrame(COUNTS.astype(int)), "x_train")
    assert list(taken.obs_names) == ["0", "1", "2", "3"]
    assert list(taken.var_names) == ["0", "1", "2"]


@pytest.mark.parametrize(
    "frame",
    [
        pd.DataFrame({"g1": [1, 2], "g2": [True, False]}),
        pd.DataFrame({"g1": [1, 2], "g2": [1, 0]}).convert_dtypes(),
    ],
    ids=["numbers and booleans", "nullable numbers"],
)
def test_data_frame_of_any_numeric_columns_is_accepted(frame):
    np.testing.assert_array_equal(from_matrix(frame, "x_train").X, [[1, 1], [2, 0]])


def test_data_frame_with_other_columns_names_them():
    frame = pd.DataFrame({"g1": [1, 2], "cell_type": ["T", "B"], "g2": [3, 4]})
    with pytest.raises(TypeError, match=r"^x_train\b.*numbers.*columns.*'cell_type'"):
        from_matrix(frame, "x_train")


def test_anndata_is_taken_as_it_is(small):
    del small.layers["counts"]
    small.X = small.X + 0.1
    taken = from_matrix(small[:, :2], "x_val")
    np.testing.assert_array_equal(taken.X, np.log1p(COUNTS)[:, :2] + 0.1)
    assert list(taken.obs["cell_type"]) == ["T", "B", "T", "B"]


@pytest.mark.parametrize("given", [np.ones(3), np.ones((2, 2, 2)), 5.0, range(3), sp.coo_array(np.ones(3))])
def test_matrix_must_have_two_dimensions(given):
    shape = np.shape(given) if not sp.issparse(given) else given.shape
    with pytest.raises(ValueError, match=r"^x_val\b.*\btwo dimensions\b.*shape") as caught:
        from_matrix(given, "x_val")
    assert str(shape) in str(caught.value)


@pytest.mark.parametrize(
    ("given", "dtype"),
    [
        (np.array([["a", "b"]]), "<U1"),
        ("cells", "<U5"),
        (None, "object"),
        (COUNTS.astype(object), "object"),
        (np.array([["2020-01-01"]], "M8[D]"), r"datetime64\[D\]"),
    ],
)
def test_anything_but_numbers_is_a_type_error(given, dtype):
    with pytest.raises(TypeError, match=rf"^x_train\b.*array.*numbers.*\bndarray of {dtype}"):
        from_matrix(given, "x_train")


@pytest.mark.parametrize("kind", [np.asarray, sp.csr_matrix, sp.coo_array])
def test_complex_numbers_are_a_type_error(kind):
    with pytest.raises(TypeError, match=r"^x_train\b.*real numbers.*\bcomplex128\b"):
        from_matrix(kind(COUNTS + 1j), "x_train")


def test_columns_of_complex_numbers_are_a_type_error():
    with pytest.raises(TypeError, match=r"^x_train\b.*numbers.*columns.*'0'"):
        from_matrix(pd.DataFrame(COUNTS + 1j), "x_train")


def test_ragged_lists_are_a_type_error():
    with pytest.raises(TypeError, match=r"^x_train\b.*\(n_cells, n_genes\).*inhomogen"):
        from_matrix([[1, 2], [3]], "x_train")


# ---- as_float, densify, stored, limits


def test_float32_array_is_not_copied():
    x = COUNTS.astype(np.float32)
    assert np.shares_memory(as_float(x), x)


@pytest.fixture
def twice():
    """[[4, 2]] in float32, the 4 stored as 1 and 3 around the 2."""
    data, columns = np.array([1, 2, 3], np.float32), np.array([0, 1, 0])
    return sp.csr_matrix((data, columns, np.array([0, 3])), (1, 2))


def test_entries_stored_twice_are_summed(twice):
    x = as_float(twice)
    np.testing.assert_array_equal(x.toarray(), [[4, 2]])
    assert sorted(stored(x)) == [2, 4]


def test_users_matrix_is_not_changed(twice):
    as_float(twice)
    np.testing.assert_array_equal(twice.data, [1, 2, 3])
    assert twice.sum() == 6


def test_stored_values_of_a_sparse_matrix_are_those_that_are_not_left_out():
    x = sp.csr_matrix(([1.0, 0.0], ([0, 1], [1, 0])), (2, 2))
    np.testing.assert_array_equal(stored(x), [1, 0])
    np.testing.assert_array_equal(stored(x.toarray()), [0, 1, 0, 0])


def test_densify_takes_sparse_and_leaves_dense():
    assert densify(COUNTS) is COUNTS
    np.testing.assert_array_equal(densify(sp.csr_matrix(COUNTS)), COUNTS)


@pytest.mark.parametrize("kind", [np.asarray, sp.csr_matrix])
def test_limits_of_a_gene_are_over_all_its_values_stored_or_not(kind):
    low, high = limits(kind(np.array([[0, 2, -1, 0], [4, 3, -2, 0]], np.float32)))
    assert low.dtype == high.dtype == np.float64
    np.testing.assert_array_equal(low, [0, 2, -2, 0])
    np.testing.assert_array_equal(high, [4, 3, -1, 0])


# ---- matrices left on disk


@pytest.fixture
def large(monkeypatch):
    """Every matrix on disk counts as large, and few of its rows are read at once."""
    monkeypatch.setattr(stores, "IN_MEMORY", 0)
    monkeypatch.setattr(backed, "BLOCK_BYTES", 4_000)
    monkeypatch.setattr(backed, "GAP_BYTES", 400)


def some_cells():
    """90 cells x 40 genes of counts, in three types and two donors, the counts in a layer too."""
    x = np.random.default_rng(0).poisson(0.5, (90, 40)).astype(np.float32)
    obs = pd.DataFrame(
        {"cell_type": pd.Categorical(np.repeat(["T", "B", "NK"], 30)), "donor": np.tile(["d1", "d2"], 45)},
        index=[f"c{i}" for i in range(90)],
    )
    cells = ad.AnnData(sp.csr_matrix(x), obs=obs, var=pd.DataFrame(index=[f"g{i}" for i in range(40)]))
    cells.layers["double"] = cells.X * 2
    return cells


FORMS = [
    (suffix, form, compression)
    for suffix, compressions in ((".h5ad", (None, "gzip")), (".zarr", (2, 3)))
    for form in ("csr", "dense")
    for compression in compressions
]


def write_as(cells, path, form="csr", how=None):
    cells = cells.copy()
    if form == "dense":
        cells.X, cells.layers["double"] = cells.X.toarray(), cells.layers["double"].toarray()
    if path.suffix == ".h5ad":
        cells.write_h5ad(path, compression=how)
    else:
        with ad.settings.override(zarr_write_format=how or 2), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            cells.write_zarr(path)
    return path


@pytest.mark.parametrize(("suffix", "form", "how"), FORMS)
@pytest.mark.parametrize("layer", [None, "double"])
def test_rows_of_every_store_are_those_of_the_matrix(tmp_path, large, suffix, form, how, layer):
    cells = some_cells()
    path = write_as(cells, tmp_path / f"cells{suffix}", form, how)
    found = open_large(path, layer=layer, keys=["cell_type"])
    values = (cells.X if layer is None else cells.layers[layer]).toarray()
    assert found.shape == found.X.shape == (90, 40)
    assert (found.n_obs, found.n_vars) == (90, 40)
    assert list(found.obs.columns) == ["cell_type"]
    assert list(found.obs["cell_type"]) == list(cells.obs["cell_type"])
    assert list(found.obs_names) == list(range(90))
    assert list(found.var_names) == list(cells.var_names)
    for rows in (slice(0, 90), slice(13, 14), slice(80, 200), slice(5, 5), slice(7, 3)):
        block = found.X[rows]
        assert sp.issparse(block) == (form == "csr")
        assert block.dtype == np.float32
        np.testing.assert_array_equal(densify(block), values[rows])
    blocks = [densify(block) for block in row_blocks(found.X)]
    assert len(blocks) > 2
    np.testing.assert_array_equal(np.concatenate(blocks), values)
    chosen = np.array([0, 3, 4, 41, 89])
    np.testing.assert_array_equal(densify(found.X.take(chosen)), values[chosen])
    kept = found.X.keep(np.arange(1, 90, 2))
    assert kept.shape == (45, 40)
    np.testing.assert_array_equal(densify(kept[3:30]), values[1::2][3:30])
    np.testing.assert_array_equal(np.concatenate([densify(b) for b in row_blocks(kept)]), values[1::2])
    np.testing.assert_array_equal(densify(kept.keep(np.arange(0, 45, 3))[:]), values[1::6])
    np.testing.assert_array_equal(densify(kept.take(np.array([2, 44]))), values[[5, 89]])
    assert kept.take(np.array([], int)).shape == (0, 40)


def test_columns_come_in_order_and_values_prepared(tmp_path, large):
    cells = some_cells()
    x = open_large(write_as(cells, tmp_path / "cells.h5ad"), layer=None, keys=[]).X
    mapped = x.mapped(np.array([5, 0, 39]), np.sqrt)
    values = cells.X.toarray()
    assert mapped.shape == (90, 3)
    np.testing.assert_allclose(densify(mapped[10:20]), np.sqrt(values[10:20][:, [5, 0, 39]]))
    np.testing.assert_allclose(
        densify(mapped.keep(np.array([4, 70]))[:]), np.sqrt(values[[4, 70]][:, [5, 0, 39]])
    )
    again = x.mapped(np.array([5, 0, 39]), None).mapped(np.array([2, 1]), None)
    np.testing.assert_array_equal(densify(again[:9]), values[:9, [39, 0]])


def test_matrix_is_left_on_disk_from_a_size_on(tmp_path, monkeypatch):
    cells = some_cells()
    sparse, dense = (write_as(cells, tmp_path / f"{form}.h5ad", form) for form in ("csr", "dense"))
    for path, size in ((sparse, 8 * cells.X.nnz), (dense, 4 * 90 * 40)):
        monkeypatch.setattr(stores, "IN_MEMORY", size)
        assert open_large(path, layer=None, keys=[]) is None
        monkeypatch.setattr(stores, "IN_MEMORY", size - 1)
        x = open_large(path, layer=None, keys=[]).X
        assert x.nbytes == size
        assert x.rows_in(size) == 90
        assert x.rows_in(1) == 1


class Slices:
    """A matrix on disk that writes down how many rows are asked of it at once."""

    def __init__(self, source):
        self.source, self.shape, self.name, self.read = source, source.shape, source.name, []

    def __getitem__(self, rows):
        self.read.append(rows.stop - rows.start)
        return self.source[rows]


def test_rows_far_apart_are_read_without_those_between(tmp_path, large):
    path = write_as(some_cells(), tmp_path / "cells.h5ad", "dense")
    x = BackedMatrix(Slices(open_store(path).group["X"]), path, stamp_of(path))  # 160 bytes a row
    x.take(np.array([0, 2, 20, 22, 60]))
    assert x.source.read == [3, 3, 1]
    x.source.read.clear()
    x.take(np.arange(90))
    assert x.source.read == [25, 25, 25, 15]
    x.source.read.clear()
    x.keep(np.arange(0, 90, 2))[:]
    assert max(x.source.read) <= 25


def test_backed_anndata_is_left_on_disk(tmp_path, large):
    cells = some_cells()
    backed = ad.read_h5ad(write_as(cells, tmp_path / "cells.h5ad"), backed="r")
    found = open_large(backed, layer=None, keys=["donor"])
    assert list(found.obs.columns) == ["donor"]
    np.testing.assert_array_equal(densify(found.X[:]), cells.X.toarray())
    assert found.X.path == tmp_path / "cells.h5ad"
    # all columns where one is missing: the message tells of them
    assert list(open_large(backed, layer=None, keys=["donor", "sex"]).obs) == ["cell_type", "donor"]


@pytest.mark.parametrize("rows", [[7, 3, 88, 3], slice(10, 60, 2), np.arange(90) % 4 == 1, slice(None)])
@pytest.mark.parametrize("genes", [slice(None), ["g7", "g0"], np.arange(40) < 20])
def test_view_of_a_backed_anndata_is_left_on_disk(tmp_path, large, rows, genes):
    cells = some_cells()
    view = ad.read_h5ad(write_as(cells, tmp_path / "cells.h5ad"), backed="r")[rows, genes]
    found = open_large(view, layer=None, keys=["cell_type"])
    wanted = cells[rows, genes]
    order = np.argsort(cells.obs_names.get_indexer(wanted.obs_names), kind="stable")
    assert found.shape == wanted.shape
    np.testing.assert_array_equal(densify(found.X[:]), wanted.X.toarray()[order])
    assert list(found.obs["cell_type"]) == list(wanted.obs["cell_type"].iloc[order])
    assert list(found.var_names) == list(wanted.var_names)


@pytest.mark.parametrize("suffix", [".h5ad", ".zarr"])
def test_written_blocks_are_left_on_disk(tmp_path, large, suffix):
    cells = some_cells()
    bare = ad.AnnData(obs=cells.obs, var=cells.var)
    path = writing.write_blocks(bare, [cells.X[:50], cells.X[50:]], tmp_path / f"cells{suffix}")
    for given in (path, stores.open_backed(path)):
        found = open_large(given, layer=None, keys=["cell_type"])
        assert found.X.path == path
        np.testing.assert_array_equal(densify(found.X[:]), cells.X.toarray())
    backed = stores.open_backed(path)
    assert backed.raw is None
    whole = in_memory(backed)
    np.testing.assert_array_equal(whole.X.toarray(), cells.X.toarray())
    assert list(whole.obs["cell_type"]) == list(cells.obs["cell_type"])
    assert in_memory(cells) is cells


def test_cells_in_memory_are_not_large(large):
    cells = some_cells()
    for given in (cells, cells[:10], ad.AnnData(obs=cells.obs)):
        assert open_large(given, layer=None, keys=[]) is None


def test_matrix_by_genes_is_refused_with_what_to_do(tmp_path, large):
    cells = some_cells()
    cells.X = sp.csc_matrix(cells.X)
    path = write_as(cells, tmp_path / "cells.h5ad")
    sentence = r"^'.*cells\.h5ad'.*\bCSC\b.*adata\.X = scipy\.sparse\.csr_matrix"
    for given in (path, ad.read_h5ad(path, backed="r")):
        with pytest.raises(ValueError, match=sentence):
            open_large(given, layer=None, keys=[])


@pytest.mark.filterwarnings("ignore::anndata.OldFormatWarning")
def test_obs_of_older_files_is_read(tmp_path, large):
    cells = some_cells()
    path = write_as(cells, tmp_path / "cells.h5ad")
    with h5py.File(path, "r+") as file:  # as anndata 0.7 wrote it
        obs = file["obs"]
        obs.attrs["encoding-version"] = "0.1.0"
        codes, levels = obs["cell_type/codes"][:], obs["cell_type/categories"][:]
        del obs["cell_type"]
        obs["cell_type"] = codes
        obs["__categories/cell_type"] = levels
        obs["cell_type"].attrs["categories"] = obs["__categories/cell_type"].ref
    found = open_large(path, layer=None, keys=["cell_type"])
    assert list(found.obs["cell_type"]) == list(cells.obs["cell_type"])


# ---- files that are not whole


def cut(path, share):
    size = path.stat().st_size
    with path.open("r+b") as file:
        file.truncate(int(size * share))


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.95])
@pytest.mark.parametrize("size", [0, 2**40], ids=["large", "small"])
def test_file_that_is_cut_off(tmp_path, monkeypatch, share, size):
    monkeypatch.setattr(stores, "IN_MEMORY", size)
    path = write_as(some_cells(), tmp_path / "cells.h5ad")
    cut(path, share)
    for call in (read, lambda path: open_large(path, layer=None, keys=["cell_type"])):
        with pytest.raises(ValueError, match=r"^'.*cells\.h5ad'.*\.h5ad: .*[a-z]") as told:
            call(path)
        assert "\n" not in str(told.value)


def without(name):
    def change(group):
        del group[name]

    return change


def shortened(name, by):
    def change(group):
        values, attrs = group[name][:-by], dict(group[name].attrs)
        del group[name]
        if isinstance(group, h5py.File):
            group[name] = values
        else:
            group.create_array(name, data=values)
        group[name].attrs.update(attrs)

    return change


def unordered(group):
    values = group["X/indptr"][:]
    values[3] = values[-1]
    group["X/indptr"][:] = values


@pytest.mark.parametrize("suffix", [".h5ad", ".zarr"])
@pytest.mark.parametrize("size", [0, 2**40], ids=["large", "small"])
@pytest.mark.parametrize(
    "change",
    [
        without("X/indptr"),
        without("X/data"),
        without("obs"),
        without("var"),
        without("obs/cell_type/codes"),
        shortened("X/data", 5),
        shortened("X/indptr", 3),
        shortened("X/indices", 1),
        shortened("obs/cell_type/codes", 10),
        shortened("obs/_index", 10),
        shortened("var/_index", 10),
        unordered,
    ],
    ids=lambda change: "",
)
def test_store_whose_parts_do_not_fit_together(tmp_path, monkeypatch, suffix, size, change):
    monkeypatch.setattr(stores, "IN_MEMORY", size)
    path = write_as(some_cells(), tmp_path / f"cells{suffix}")
    if suffix == ".h5ad":
        with h5py.File(path, "r+") as file:
            change(file)
    else:
        import zarr

        change(zarr.open_group(path, mode="r+", use_consolidated=False))
        (path / ".zmetadata").unlink(missing_ok=True)

    def get():
        found = open_large(path, layer=None, keys=["cell_type"])
        return read(path) if found is None else found

    with pytest.raises(ValueError, match=r"^'.*cells\.(h5ad|zarr)' ") as told:
        get()
    assert "\n" not in str(told.value)


def test_genes_that_are_none_are_not_read(tmp_path, large):
    path = write_as(some_cells(), tmp_path / "cells.h5ad")
    with h5py.File(path, "r+") as file:
        file["X/indices"][200] = 40
    x = open_large(path, layer=None, keys=[]).X
    with pytest.raises(ValueError, match=r"\bcells 0 to 90\b"):
        x[:]


def chunked(path, form):
    """Write some cells as a Zarr store whose matrix is in several chunks."""
    import zarr

    cells = some_cells()
    write_as(cells, path, form)
    group = zarr.open_group(path, mode="r+", use_consolidated=False)
    (path / ".zmetadata").unlink(missing_ok=True)
    for name, chunks in {"csr": {"X/data": (100,), "X/indices": (100,)}, "dense": {"X": (20, 20)}}[
        form
    ].items():
        values, attrs = group[name][:], dict(group[name].attrs)
        del group[name]
        array = group.create_array(name, shape=values.shape, dtype=values.dtype, chunks=chunks)
        array[:] = values
        array.attrs.update(attrs)
    return path


def chunk_files(path, name):
    return sorted(file for file in (path / name).rglob("*") if file.is_file() and file.name[0].isdigit())


@zarr_chatter
@pytest.mark.parametrize("size", [0, 2**40], ids=["large", "small"])
@pytest.mark.parametrize("array", ["data", "indices"])
def test_missing_chunks_of_a_sparse_matrix_are_not_taken_for_zeros(tmp_path, monkeypatch, size, array):
    monkeypatch.setattr(stores, "IN_MEMORY", size)
    path = chunked(tmp_path / "cells.zarr", "csr")
    read(path)
    chunk_files(path, f"X/{array}")[3].unlink()
    with pytest.raises(ValueError, match=rf"\b1 of \d+ chunks.*'X/{array}'"):
        if open_large(path, layer=None, keys=[]) is None:
            read(path)


@zarr_chatter
@pytest.mark.parametrize("size", [0, 2**40], ids=["large", "small"])
def test_missing_chunks_of_a_dense_matrix_are_told(tmp_path, monkeypatch, size):
    monkeypatch.setattr(stores, "IN_MEMORY", size)
    path = chunked(tmp_path / "cells.zarr", "dense")

    def get():
        found = open_large(path, layer=None, keys=[])
        return densify(read(path).X if found is None else found.X[:])

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        whole = get()
    chunk_files(path, "X")[0].unlink()
    with pytest.warns(UserWarning, match=r"\b1 of the 10 chunks.*'X'.*\bzero"):
        assert (get() != whole).any()
    for file in chunk_files(path, "X"):
        file.unlink()
    with pytest.raises(ValueError, match=r"\b10 chunks.*'X'"):
        get()


@zarr_chatter
@pytest.mark.parametrize("size", [0, 2**40], ids=["large", "small"])
@pytest.mark.parametrize("form", ["csr", "dense"])
def test_store_with_shards_is_whole_unless_one_is_missing(tmp_path, monkeypatch, size, form):
    monkeypatch.setattr(stores, "IN_MEMORY", size)
    import zarr

    path = write_as(some_cells(), tmp_path / "cells.zarr", form, 3)
    group = zarr.open_group(path, mode="r+", use_consolidated=False)
    names = ("X/data", "X/indices") if form == "csr" else ("X",)
    for name in names:
        values, attrs = group[name][:], dict(group[name].attrs)
        del group[name]
        chunks, shards = ((30,), (120,)) if form == "csr" else ((20, 10), (40, 30))
        array = group.create_array(name, shape=values.shape, dtype=values.dtype, chunks=chunks, shards=shards)
        array[:] = values
        array.attrs.update(attrs)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # consolidated metadata are not part of the format yet
        zarr.consolidate_metadata(path)

    def get():
        found = open_large(path, layer=None, keys=[])
        return densify(read(path).X if found is None else found.X[:])

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        np.testing.assert_array_equal(get(), some_cells().X.toarray())
    chunk_files(path, names[0])[0].unlink()
    if form == "csr":
        with pytest.raises(ValueError, match=r"\bchunks.*'X/data'"):
            get()
    else:
        with pytest.warns(UserWarning, match=r"\bchunks.*'X'"):
            get()


@pytest.mark.parametrize("suffix", [".h5ad", ".zarr"])
@pytest.mark.parametrize("size", [0, 2**40], ids=["large", "small"])
def test_layer_or_x_that_is_not_there(tmp_path, monkeypatch, suffix, size):
    monkeypatch.setattr(stores, "IN_MEMORY", size)
    cells = some_cells()
    path = write_as(cells, tmp_path / f"cells{suffix}")
    with pytest.raises(ValueError, match=r"'double'.*'doubel'.*'double'") as told:
        open_large(path, layer="doubel", keys=[])
    with pytest.raises(ValueError, match=r"AnnData.*\bX\b|^layer\b") as same:
        from_object(cells, layer="doubel")
    assert str(told.value) == str(same.value)
    bare = ad.AnnData(obs=cells.obs, var=cells.var)
    path = write_as_is(bare, tmp_path / f"bare{suffix}")
    for layer in (None, "counts"):
        with pytest.raises(ValueError, match=r"AnnData.*\bX\b|^layer\b") as told:
            open_large(path, layer=layer, keys=[])
        with pytest.raises(ValueError, match=r"AnnData.*\bX\b|^layer\b") as same:
            from_object(bare, layer=layer)
        assert str(told.value) == str(same.value)


def write_as_is(cells, path):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        cells.write_h5ad(path) if path.suffix == ".h5ad" else cells.write_zarr(path)
    return path


def replaced(path, other):
    other.rename(path)


def appended(path, other):
    with path.open("ab") as file:
        file.write(b"0")


def taken_away(path, other):
    path.unlink()


@pytest.mark.parametrize("change", [replaced, appended, taken_away])
def test_file_that_changes_while_it_is_read(tmp_path, large, change):
    path, other = (write_as(some_cells(), tmp_path / f"{name}.h5ad") for name in ("cells", "other"))
    x = open_large(path, layer=None, keys=[]).X
    assert x[:10].shape == (10, 40)
    change(path, other)
    with pytest.raises(ValueError, match=r"cells\.h5ad'.*changed"):
        x[10:20]


@zarr_chatter
@pytest.mark.parametrize("how", [2, 3])
@pytest.mark.parametrize("change", ["append", "overwrite", "remove"])
def test_store_that_changes_while_it_is_read(tmp_path, large, how, change):
    import shutil

    import zarr

    cells = some_cells()
    path = write_as(cells, tmp_path / "cells.zarr", how=how)
    x = open_large(path, layer=None, keys=[]).X
    assert x[:10].shape == (10, 40)
    group = zarr.open_group(path, mode="r+", use_consolidated=False)
    if change == "append":
        ad.io.sparse_dataset(group["X"]).append(cells.X)
    elif change == "overwrite":
        group["X/data"][:] = 7.0
    else:
        shutil.rmtree(path)
    with pytest.raises(ValueError, match=r"cells\.zarr'.*changed"):
        x[10:20]


def test_what_is_written_without_raw_can_be_read_with_x_on_disk(tmp_path):
    small = ad.AnnData(np.ones((3, 2), np.float32))
    write(small, tmp_path / "small.h5ad")
    backed = ad.read_h5ad(tmp_path / "small.h5ad", backed="r")
    assert backed.raw is None
    assert backed.copy(tmp_path / "copy.h5ad").shape == (3, 2)
    backed.file.close()
