"""Lists of genes and cells beside a sparse matrix, and kinds of features, as programs write them."""

import h5py
import numpy as np
import pytest
import scipy.io
import scipy.sparse as sp
from test_table_dialects import COUNTS, GENES, IDS, SAMPLES, assert_holds, read

import vaexprs as vx

LINES = [f"{i}\t{gene}\tGene Expression" for i, gene in zip(IDS, GENES, strict=True)]


def folder(path, genes=LINES, cells=SAMPLES, names=("matrix.mtx", "features.tsv", "barcodes.tsv")):
    path.mkdir(exist_ok=True)
    scipy.io.mmwrite(path / names[0], sp.coo_matrix(COUNTS.T), symmetry="general")
    for name, lines in zip(names[1:], (genes, cells), strict=True):
        (path / name).write_text("".join(f"{line}\n" for line in lines))
    return path


@pytest.mark.parametrize("empty", ["", "NA", "nan"])
def test_genes_without_a_symbol_have_their_identifier(tmp_path, empty):
    lines = [line.replace("\tGAPDH\t", f"\t{empty}\t").replace("\tLYZ\t", f"\t{empty}\t") for line in LINES]
    cells, _ = read(folder(tmp_path / "a", lines))
    assert_holds(cells, genes=[IDS[i] if i in (1, 3) else gene for i, gene in enumerate(GENES)])


def test_symbols_before_identifiers(tmp_path):
    cells, _ = read(folder(tmp_path / "a", [f"{gene}\t{i}" for i, gene in zip(IDS, GENES, strict=True)]))
    assert_holds(cells)
    assert list(cells.var["gene_ids"]) == IDS


def test_spaces_between_the_columns_of_lists(tmp_path):
    genes = ["x", *(f"{i + 1} {gene}" for i, gene in enumerate(GENES))]  # write.table(quote = FALSE)
    cells = ["x", *(f"{i + 1} {cell}" for i, cell in enumerate(SAMPLES))]
    assert_holds(read(folder(tmp_path / "a", genes, cells))[0])
    genes = [f"{i} {gene}" for i, gene in zip(IDS, GENES, strict=True)]
    found, _ = read(folder(tmp_path / "b", genes))
    assert_holds(found)
    assert list(found.var["gene_ids"]) == IDS
    cells = ["cell a 1"]
    with pytest.raises(ValueError, match=r"barcodes\.tsv has 1"):
        vx.read(folder(tmp_path / "d", cells=cells))
    cells = ["cell a 1", "cell b 1", "cell c 1", "cell d 1"]
    assert_holds(read(folder(tmp_path / "c", cells=cells))[0], samples=cells)


def test_annotation_of_cells_in_place_of_their_list(tmp_path):
    cells = ["barcode\tkind", *(f"{cell}\tB" for cell in SAMPLES)]
    assert_holds(read(folder(tmp_path / "a", cells=cells))[0])


def test_lists_without_names_are_refused(tmp_path):
    with pytest.raises(ValueError, match=r"has 10 genes x 4 cells, but features\.tsv has 12 rows"):
        vx.read(folder(tmp_path / "a", ['" '] * 12))
    _, said = read(folder(tmp_path / "b", ['" '] * 9 + ['"x" "y"']))
    assert "genes with an empty name" in said


def test_lists_named_after_their_matrix(tmp_path):
    folder(tmp_path / "a", names=("s1.mtx", "s1_genes.tsv", "s1_cells.tsv"))
    folder(tmp_path / "a", cells=list("abcd"), names=("s10.mtx", "s10_genes.tsv", "s10_cells.tsv"))
    assert_holds(read(tmp_path / "a" / "s1.mtx")[0])
    assert_holds(read(tmp_path / "a" / "s10.mtx")[0], samples=list("abcd"))
    (tmp_path / "a" / "s1_cells.tsv").unlink()
    with pytest.raises(ValueError, match="barcodes.tsv is missing"):
        vx.read(tmp_path / "a" / "s1.mtx")


@pytest.mark.parametrize("kind", ["Antibody Capture", "Peaks"])
def test_features_that_are_no_genes_are_said(tmp_path, kind):
    _, said = read(folder(tmp_path / "a", [line.replace("Gene Expression", kind) for line in LINES]))
    assert f"no feature is of kind 'Gene Expression'; its 10 features are {kind!r}" in said
    x = sp.csc_matrix(COUNTS.T)
    with h5py.File(tmp_path / "a.h5", "w") as file:
        matrix = file.create_group("matrix")
        parts = {"data": x.data, "indices": x.indices, "indptr": x.indptr, "shape": np.array(x.shape)}
        for name, values in (parts | {"barcodes": np.array(SAMPLES, "S")}).items():
            matrix[name] = values
        features = matrix.create_group("features")
        for name, values in {
            "id": IDS,
            "name": GENES,
            "feature_type": [kind] * 10,
            "genome": ["x"] * 10,
        }.items():
            features[name] = np.array(values, "S")
    cells, said = read(tmp_path / "a.h5")
    assert_holds(cells)
    assert f"no feature is of kind 'Gene Expression'; its 10 features are {kind!r}" in said
