"""Reading, writing and converting: any accepted input becomes an AnnData of cells x genes."""

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

from vaexprs.demo import demo_cells
from vaexprs.io import (
    as_float,
    check_output,
    densify,
    from_matrix,
    from_object,
    limits,
    read,
    stored,
    write,
    written_whole,
)

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
    with pytest.raises(FileNotFoundError, match=r"^There is no file '.*/cells\.h5ad'\.$"):
        read(tmp_path / "cells.h5ad")


@pytest.mark.parametrize("name", ["cells.csv", "cells", "cells.h5", "cells.H5AD", "cells.h5ad.gz"])
def test_other_suffixes_are_refused_with_those_that_can_be_read(tmp_path, name):
    (tmp_path / name).write_text("")
    with pytest.raises(ValueError, match=rf"^The file must be one of \.h5ad, \.zarr, got '{name}'\.$"):
        read(tmp_path / name)


def test_truncated_h5ad_is_named_with_its_reason(tmp_path, small):
    whole = write(small, tmp_path / "whole.h5ad").read_bytes()
    (tmp_path / "cut.h5ad").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match=r"cut\.h5ad' cannot be read as \.h5ad: .*truncated file") as caught:
        read(tmp_path / "cut.h5ad")
    assert isinstance(caught.value.__cause__, OSError)


@pytest.mark.parametrize("content", [b"", b"gene,cell\n1,2\n"])
def test_h5ad_that_is_not_hdf5_is_named(tmp_path, content):
    (tmp_path / "other.h5ad").write_bytes(content)
    with pytest.raises(ValueError, match=r"other\.h5ad' cannot be read as \.h5ad: .*signature"):
        read(tmp_path / "other.h5ad")


def test_hdf5_that_is_not_an_anndata_is_named(tmp_path):
    with h5py.File(tmp_path / "other.h5ad", "w"):
        pass
    with pytest.raises(ValueError, match=r"other\.h5ad' cannot be read as \.h5ad: .*obs"):
        read(tmp_path / "other.h5ad")


def test_folder_that_is_not_zarr_is_named(tmp_path):
    (tmp_path / "other.zarr").mkdir()
    with pytest.raises(ValueError, match=r"other\.zarr' cannot be read as \.zarr: No group"):
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
    with pytest.raises(
        FileExistsError, match=rf"{name}' exists already; choose another name or say overwrite"
    ):
        write(small[:2], path)
    assert read(path).n_obs == 4
    write(small[:2], path, overwrite=True)
    assert read(path).n_obs == 2
    assert names_in(tmp_path) == [name]


def test_overwrite_may_be_said_where_nothing_stands(tmp_path, small):
    assert read(write(small, tmp_path / "cells.h5ad", overwrite=True)).n_obs == 4


def test_output_of_another_suffix_is_refused(tmp_path, small):
    with pytest.raises(ValueError, match=r"^The output must be one of \.h5ad, \.zarr, got 'cells\.loom'\.$"):
        write(small, tmp_path / "cells.loom")
    assert names_in(tmp_path) == []


def test_output_in_a_missing_folder_names_the_folder(tmp_path, small):
    with pytest.raises(FileNotFoundError, match=r"^The folder '.*/nowhere' does not exist\.$"):
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


# ---- from_object: AnnData


def test_x_is_taken_by_default_with_obs_and_gene_names(small):
    del small.layers["counts"]
    taken = from_object(small)
    np.testing.assert_array_equal(taken.X, np.log1p(COUNTS))
    pd.testing.assert_frame_equal(taken.obs, small.obs)
    assert list(taken.var_names) == GENES
    assert list(taken.var.columns) == []


def test_named_layer_becomes_x(small):
    np.testing.assert_array_equal(from_object(small, layer="counts").X, COUNTS)


def test_unknown_layer_suggests_the_nearest(small):
    words = r"^layer must be one of 'counts', 'log', got 'count'\. Did you mean 'counts'\?$"
    with pytest.raises(ValueError, match=words):
        from_object(small, layer="count")


def test_layer_where_there_are_none_is_told_so(small):
    del small.layers["counts"], small.layers["log"]
    with pytest.raises(ValueError, match=r"^layer must be one of none: there are no layers, got 'counts'\."):
        from_object(small, layer="counts")


def test_anndata_without_x_is_told_to_name_a_layer(small):
    bare = ad.AnnData(obs=small.obs, var=small.var, layers={"counts": COUNTS})
    with pytest.raises(ValueError, match=r"^The AnnData has no X\. .*layer='counts'"):
        from_object(bare)
    np.testing.assert_array_equal(from_object(bare, layer="counts").X, COUNTS)


@pytest.mark.parametrize("kind", [np.asarray, sp.csr_matrix, sp.csc_matrix])
def test_fractions_in_x_beside_counts_in_a_layer_are_warned_of(small, kind):
    small.X, small.layers["counts"] = kind(np.log1p(COUNTS)), kind(COUNTS)
    words = r"^X holds fractions while layers\['counts'\] holds counts; X is used\. .*layer='counts'"
    with pytest.warns(UserWarning, match=words):
        taken = from_object(small)
    np.testing.assert_array_equal(densify(taken.X), np.log1p(COUNTS))


@pytest.mark.parametrize("change", ["layer named", "X counts", "layer fractions"])
def test_no_warning_where_the_choice_is_plain(small, change):
    if change == "X counts":
        small.X = COUNTS
    if change == "layer fractions":
        small.layers["counts"] = np.log1p(COUNTS)
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


@pytest.mark.parametrize("given", [COUNTS, pd.DataFrame(COUNTS), None, 5])
def test_anything_else_is_a_type_error_that_tells_where_matrices_go(given):
    words = rf"a path, got {type(given).__name__}\. Give a matrix of shape \(n_cells, n_genes\) as x_train\."
    with pytest.raises(TypeError, match=words):
        from_object(given)


# ---- from_object: BiocPy, genes x cells

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
    words = r"^layer must be one of 'counts', 'log', got 'count'\. Did you mean 'counts'\?$"
    with pytest.raises(ValueError, match=words):
        from_object(experiment(kind), layer="count")


@both_experiments
def test_experiment_without_an_assay_is_refused(kind):
    with pytest.raises(ValueError, match=r"^The experiment has no assay\.$"):
        from_object(kind())


@both_experiments
def test_assay_asked_of_an_experiment_without_any_is_told_so(kind):
    with pytest.raises(ValueError, match="no assay"):
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
    with pytest.raises(
        TypeError, match=r"^x_train must hold numbers only, got other columns: 'cell_type'\.$"
    ):
        from_matrix(frame, "x_train")


def test_anndata_is_taken_as_it_is(small):
    del small.layers["counts"]
    taken = from_matrix(small[:, :2], "x_val")
    np.testing.assert_array_equal(taken.X, np.log1p(COUNTS)[:, :2])
    assert list(taken.obs["cell_type"]) == ["T", "B", "T", "B"]


@pytest.mark.parametrize("given", [np.ones(3), np.ones((2, 2, 2)), 5.0, range(3), sp.coo_array(np.ones(3))])
def test_matrix_must_have_two_dimensions(given):
    shape = np.shape(given) if not sp.issparse(given) else given.shape
    with pytest.raises(ValueError, match=r"^x_val must have two dimensions .*, got shape ") as caught:
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
    with pytest.raises(
        TypeError, match=rf"^x_train must be an array, .* of numbers, got ndarray of {dtype}\.$"
    ):
        from_matrix(given, "x_train")


@pytest.mark.parametrize("kind", [np.asarray, sp.csr_matrix, sp.coo_array])
def test_complex_numbers_are_a_type_error(kind):
    with pytest.raises(TypeError, match=r"^x_train must hold real numbers, got complex128\.$"):
        from_matrix(kind(COUNTS + 1j), "x_train")


def test_columns_of_complex_numbers_are_a_type_error():
    with pytest.raises(TypeError, match="^x_train must hold numbers only, got other columns: '0'"):
        from_matrix(pd.DataFrame(COUNTS + 1j), "x_train")


def test_ragged_lists_are_a_type_error():
    with pytest.raises(
        TypeError, match=r"^x_train must be a matrix of shape \(n_cells, n_genes\): .*inhomogen"
    ):
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
