"""Sparse matrices with lists, loom files, objects of R and files of other kinds: read by name, or told."""

import gzip
import warnings

import anndata as ad
import h5py
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
import zarr

import vaexprs as vx
from vaexprs.data.matrix import densify
from vaexprs.io.names import unique_index

GENES = ["ACTB", "GAPDH", "CD3D", "LYZ", "MS4A1"]
CELLS = ["AAACCTGAGAAACCAT-1", "AAACCTGAGAAACCGC-1", "AAACCTGAGAAACCTA-1"]
COUNTS = np.arange(15).reshape(3, 5) + 1


def read(path, **settings):
    """Return the cells and the warnings."""
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        cells = vx.read(path, **settings)
    return cells, " | ".join(str(warning.message) for warning in said)


def assert_holds(cells, values=COUNTS, names=CELLS, genes=GENES):
    assert list(cells.obs_names) == list(names)
    assert list(cells.var_names) == list(genes)
    np.testing.assert_array_equal(densify(cells.X), values)


def put(path, text):
    path.write_bytes(gzip.compress(text.encode()) if path.suffix == ".gz" else text.encode())


def put_matrix(path, values):
    x = sp.coo_matrix(values)
    entries = "".join(f"{i + 1} {j + 1} {v}\n" for i, j, v in zip(x.row, x.col, x.data, strict=True))
    head = f"%%MatrixMarket matrix coordinate integer general\n%\n{x.shape[0]} {x.shape[1]} {x.nnz}\n"
    put(path, head + entries)


def put_lists(folder, prefix="", suffix="", cells=CELLS):
    features = "".join(f"E{i}\t{gene}\tGene Expression\n" for i, gene in enumerate(GENES))
    put(folder / f"{prefix}features.tsv{suffix}", features)
    put(folder / f"{prefix}barcodes.tsv{suffix}", "".join(f"{name}\n" for name in cells))


# ---- sparse matrices


def test_the_matrix_that_is_named_is_read(tmp_path):
    put_lists(tmp_path)
    put_matrix(tmp_path / "matrix.mtx", COUNTS.T)
    for i, name in enumerate(("UniqueAndMult-EM.mtx", "spliced.mtx", "sampleB_matrix.mtx.gz"), 2):
        put_matrix(tmp_path / name, i * COUNTS.T)
        assert_holds(read(tmp_path / name)[0], i * COUNTS)
    assert_holds(read(tmp_path)[0])
    (tmp_path / "matrix.mtx").unlink()
    with pytest.raises(ValueError, match=r"several matrices: .*'UniqueAndMult-EM\.mtx'.*'spliced\.mtx'"):
        vx.read(tmp_path)


def test_prefixes_of_geo(tmp_path):
    for i, prefix in enumerate(("GSM1_a_", "GSM1_a_b_")):
        put_lists(tmp_path, prefix, ".gz", [f"{name}{i}" for name in CELLS])
        put_matrix(tmp_path / f"{prefix}matrix.mtx.gz", (i + 1) * COUNTS.T)
    for i, prefix in enumerate(("GSM1_a_", "GSM1_a_b_")):
        cells, _ = read(tmp_path / f"{prefix}matrix.mtx.gz")
        assert_holds(cells, (i + 1) * COUNTS, [f"{name}{i}" for name in CELLS])
    (tmp_path / "GSM1_a_features.tsv.gz").unlink()
    (tmp_path / "GSM1_a_barcodes.tsv.gz").unlink()
    with pytest.raises(ValueError, match=r"'GSM1_a_features\.tsv'.*here are 'GSM1_a_b_barcodes\.tsv\.gz'"):
        vx.read(tmp_path / "GSM1_a_matrix.mtx.gz")


@pytest.mark.parametrize(
    ("matrix", "cells", "genes"),
    [
        ("cells_x_genes.mtx", "cells_x_genes.barcodes.txt", "cells_x_genes.genes.txt"),
        ("quants_mat.mtx", "quants_mat_rows.txt", "quants_mat_cols.txt"),
        ("matrix.mtx", "barcodes.tsv", "genes.tsv"),
    ],
)
def test_matrices_with_cells_in_rows(tmp_path, matrix, cells, genes):
    put_matrix(tmp_path / matrix, COUNTS)
    put(tmp_path / cells, "\n".join(CELLS) + "\n")
    put(tmp_path / genes, "\n".join(GENES) + "\n")
    assert_holds(read(tmp_path)[0])
    assert_holds(read(tmp_path / matrix)[0])


@pytest.mark.parametrize("form", ["quotes", "header", "row numbers"])
def test_lists_as_r_writes_them(tmp_path, form):
    put_matrix(tmp_path / "matrix.mtx", COUNTS.T)
    first = {"quotes": "", "header": '"x"\n', "row numbers": '"x"\n'}[form]
    number = [f'"{i + 1}" ' if form == "row numbers" else "" for i in range(5)]
    put(
        tmp_path / "barcodes.tsv", first + "".join(f'{n}"{c}"\n' for n, c in zip(number, CELLS, strict=False))
    )
    genes = "".join(
        f'{n.strip()}{"" if not n else chr(9)}"E{g}"\t"{g}"\n' for n, g in zip(number, GENES, strict=True)
    )
    put(tmp_path / "features.tsv", genes)
    assert_holds(read(tmp_path)[0])


# ---- loom


@pytest.mark.parametrize(
    ("cells", "genes"),
    [
        ("CellID", "Gene"),
        ("obs_names", "var_names"),
        ("cell_names", "gene_names"),
        ("barcode", "target_name"),
    ],
)
def test_names_in_loom_files(tmp_path, cells, genes):
    loompy = pytest.importorskip("loompy")
    about = {cells: np.array(CELLS), "type": np.array(["A", "NA", ""]), "depth": np.arange(3)}
    loompy.create(str(tmp_path / "a.loom"), COUNTS.T, {genes: np.array(GENES)}, about)
    found, _ = read(tmp_path / "a.loom")
    assert_holds(found)
    assert list(found.obs["type"].isna()) == [False, True, True]
    loompy.create(str(tmp_path / "b.loom"), COUNTS.T, {"foo": np.array(GENES)}, about)
    with pytest.raises(ValueError, match=r"names the genes, such as 'Gene', got 'foo'.*var_names="):
        vx.read(tmp_path / "b.loom")


# ---- objects of R, built without R


def r_tree():
    pytest.importorskip("rdata")
    from vaexprs.io.r.write_rds import _Tree

    return _Tree()


def put_r(path, root):
    import rdata
    from rdata.conversion.to_r import DEFAULT_R_VERSION_SERIALIZED, R_MINIMUM_VERSIONS

    from vaexprs.io.r.write_rds import _unparser

    versions = rdata.parser.RVersions(3, DEFAULT_R_VERSION_SERIALIZED, R_MINIMUM_VERSIONS[3])
    with gzip.open(path, "wb") as file:
        _unparser()(file).unparse_r_data(rdata.parser.RData(versions, rdata.parser.RExtraInfo("UTF-8"), root))


def r_frame(tree, columns, names, kind=("data.frame",)):
    from rdata.parser import RObjectType

    attributes = {"names": list(columns), "class": list(kind), "row.names": names}
    slots = {key: tree.strings(values) for key, values in attributes.items()}
    values = [
        tree.strings(v) if isinstance(v[0], str) else tree.numbers(np.array(v)) for v in columns.values()
    ]
    return tree._node(RObjectType.VEC, value=values, is_object=True, attributes=tree.attributes(slots))


def seurat(tree, layers, members, meta_names):
    """Return a Seurat 5 object with layers of the cells in `members`."""

    def log_map(names, columns):
        dims = tree.items([tree.strings(names), tree.strings(list(columns))])
        values = np.column_stack(list(columns.values())).ravel(order="F")
        return tree.numbers(values, dim=tree.numbers([len(names), len(columns)]), dimnames=dims)

    def bare(x):
        return tree.numbers(np.asarray(x, float).ravel(order="F"), dim=tree.numbers(list(x.shape)))

    assay = tree.s4(
        "Assay5",
        "SeuratObject",
        layers=tree.items([bare(x) for x in layers.values()], list(layers)),
        cells=log_map(CELLS, members),
        features=log_map(GENES, dict.fromkeys(layers, np.ones(len(GENES), bool))),
    )
    meta = r_frame(tree, {"type": ["A", "B", "C"]}, meta_names)
    slots = {"assays": tree.items([assay], ["RNA"]), "meta.data": meta, "active.assay": tree.strings(["RNA"])}
    return tree.s4("Seurat", "SeuratObject", **slots)


def test_split_layers_of_seurat_are_joined(tmp_path):
    tree = r_tree()
    one, two = np.array([True, False, True]), np.array([False, True, False])
    scaled = COUNTS.T - 8.0
    layers = {"counts.1": COUNTS[one].T, "counts.2": COUNTS[two].T, "scale.data": scaled}
    members = {"counts.1": one, "counts.2": two, "scale.data": np.ones(3, bool)}
    put_r(tmp_path / "a.rds", seurat(tree, layers, members, [CELLS[2], CELLS[0], CELLS[1]]))
    found, _ = read(tmp_path / "a.rds")
    assert_holds(found)
    assert list(found.obs["type"]) == ["B", "C", "A"]  # by the row names of meta.data
    assert set(found.layers) == {"counts", "scale.data"}
    members["counts.2"] = np.ones(3, bool)
    put_r(tmp_path / "b.rds", seurat(tree, layers, members, CELLS))
    with pytest.raises(ValueError, match=r"split into 'counts\.1', 'counts\.2'.*JoinLayers"):
        vx.read(tmp_path / "b.rds")
    members["counts.2"] = two
    put_r(tmp_path / "c.rds", seurat(tree, layers, members, ["x", "y", "z"]))
    with pytest.raises(ValueError, match=r"row of annotation for each cell.*meta\.data"):
        vx.read(tmp_path / "c.rds")


def test_lists_with_counts_and_data_frames(tmp_path):
    tree = r_tree()
    counts = tree.matrix(COUNTS.T.astype(float), GENES, CELLS)
    put_r(tmp_path / "txi.rds", tree.items([counts, counts], ["counts", "abundance"]))
    found, said = read(tmp_path / "txi.rds")
    assert_holds(found)
    assert "x$counts is read" in said
    put_r(tmp_path / "list.rds", tree.items([tree.strings(["a"])], ["foo"]))
    with pytest.raises(ValueError, match=r"got a list of 'foo'.*x\$foo"):
        vx.read(tmp_path / "list.rds")
    columns = {"gene": GENES, "biotype": ["a", "b", "a", "b", "a"]}
    columns |= {name: list(COUNTS[i].astype(float)) for i, name in enumerate(CELLS)}
    tibble = r_frame(tree, columns, [str(i + 1) for i in range(5)], ("tbl_df", "tbl", "data.frame"))
    put_r(tmp_path / "tibble.rds", tibble)
    found, said = read(tmp_path / "tibble.rds")
    assert_holds(found)
    assert list(found.var["biotype"]) == ["a", "b", "a", "b", "a"]


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("ExpressionSet", r"as\(exprs\(x\), 'dgCMatrix'\)"),
        ("seurat", r"UpdateSeuratObject\(x\)"),
        ("MultiAssayExperiment", r"experiments\(x\)\[\['rna'\]\].*gene expression"),
    ],
)
def test_advice_on_other_classes_of_r(tmp_path, kind, words):
    tree = r_tree()
    slots = (
        {"ExperimentList": tree.items([]), "colData": tree.frame(0, {})} if kind.startswith("Multi") else {}
    )
    put_r(tmp_path / "a.rds", tree.s4(kind, "other", **slots))
    with pytest.raises(ValueError, match=rf"got a '{kind}'.*{words}") as told:
        vx.read(tmp_path / "a.rds")
    assert "assay(x)" not in str(told.value)


# ---- files of other kinds


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("a.h5ad", b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", r"Git LFS.*git lfs pull"),
        ("a.csv", b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", r"Git LFS.*git lfs pull"),
        ("a.csv", b"<!DOCTYPE html><html>", r"web page"),
        ("a.h5ad", gzip.compress(b"x", mtime=0), r"gzip.*gunzip"),
        ("a.h5ad.gz", gzip.compress(b"x", mtime=0), r"\. Decompress it: gunzip 'a\.h5ad\.gz'"),
        ("a.tsv", b"PK\x03\x04" + bytes(20), r"Excel.*CSV UTF-8"),
        ("a.xlsx", b"PK\x03\x04" + bytes(20), r"Excel|CSV UTF-8"),
        ("a.csv", b"\x89HDF\r\n\x1a\n" + bytes(20), r"HDF5.*\.h5ad"),
        ("a.RData", b"x", r"saveRDS\(object, 'cells\.rds'\)"),
        ("a.H5AD", b"x", r"Rename it to a\.h5ad"),
        ("a.tar.gz", gzip.compress(b"x", mtime=0), r"tar -xf"),
    ],
)
def test_content_that_is_something_else(tmp_path, name, content, words):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=rf"{name}'.*{words}"):
        vx.read(tmp_path / name)


@pytest.fixture
def cells():
    obs, var = pd.DataFrame({"type": list("ABA")}, index=CELLS), pd.DataFrame(index=GENES)
    return ad.AnnData(COUNTS.astype(np.float32), obs=obs, var=var)


def test_a_filter_of_hdf5_that_is_not_installed_is_named(tmp_path, cells):
    cells.write_h5ad(tmp_path / "a.h5ad")
    with h5py.File(tmp_path / "a.h5ad", "r+") as file:
        del file["X"]
        settings = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        settings.set_chunk((3, 5))
        settings.set_filter(32015, h5py.h5z.FLAG_OPTIONAL)
        space = h5py.h5s.create_simple((3, 5))
        h5py.h5d.create(file.id, b"X", h5py.h5t.NATIVE_FLOAT, space, settings)
    with pytest.raises(ValueError, match=r"'/X' with the HDF5 filter zstd.*pip install hdf5plugin"):
        vx.read(tmp_path / "a.h5ad")


@pytest.mark.filterwarnings("ignore:Writing zarr")
def test_tables_of_spatialdata_and_modalities_of_mudata(tmp_path, cells):
    store = zarr.open_group(tmp_path / "s.zarr", mode="w", zarr_format=2)
    ad.io.write_elem(store.create_group("tables"), "table", cells)
    with pytest.raises(ValueError, match=r"SpatialData store.*s\.zarr/tables/table'"):
        vx.read(tmp_path / "s.zarr")
    assert_holds(read(tmp_path / "s.zarr" / "tables" / "table")[0])
    with h5py.File(tmp_path / "c.h5mu", "w") as file:
        for name in ("gene", "guide"):
            ad.io.write_elem(file, f"mod/{name}", cells)
    with pytest.raises(
        ValueError, match=r"'rna', got 'gene', 'guide'.*\['gene'\]\.write_h5ad\('gene\.h5ad'\)"
    ):
        vx.read(tmp_path / "c.h5mu")


def test_annotation_that_no_format_holds_is_converted_or_named(tmp_path, cells):
    cells.obs["range"] = pd.cut([1.0, 5, 9], [0, 3, 6, 10])
    cells.obs["mixed"] = [1, "a", None]
    cells.obs["day"] = pd.Categorical(pd.to_datetime(["2024-01-02"] * 3))
    back = vx.read(vx.write(cells, tmp_path / "a.h5ad"))
    assert list(back.obs["range"]) == ["(0, 3]", "(3, 6]", "(6, 10]"]
    assert list(back.obs["mixed"].astype(object).fillna("-")) == ["1", "a", "-"]
    assert set(back.obs["day"]) == {"2024-01-02"}
    cells.obs = pd.concat([cells.obs, cells.obs[["type"]]], axis=1)
    with pytest.raises(ValueError, match=r"each column once, got 'type' several times"):
        vx.write(cells, tmp_path / "b.h5ad")


def test_genes_without_names_are_refused():
    with pytest.raises(ValueError, match=r"Every gene must have a name, got 1 of 2"):
        unique_index(pd.Index(["a", np.nan]), "object", "genes")
