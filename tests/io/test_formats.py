"""Files of scanpy, Seurat, Bioconductor and spreadsheets, written by those programs, read; and back."""

import gzip
import io
import json
import re
import shutil
import struct
import subprocess
import sys
import textwrap
import warnings
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import scanpy as sc
import scipy.io

import commands
import vaexprs as vx
from vaexprs.data.matrix import densify
from vaexprs.io.tables import layout as tables
from vaexprs.io.untrusted import archives as packed

R_PACKAGES = ("SingleCellExperiment", "SeuratObject", "Matrix")
R_FILES = """
suppressMessages({library(SingleCellExperiment); library(SeuratObject); library(Matrix)})
m <- as(readMM("matrix.mtx"), "CsparseMatrix")
rownames(m) <- readLines("genes.txt"); colnames(m) <- readLines("cells.txt")
obs <- read.csv("obs.csv", row.names = 1)
sce <- SingleCellExperiment(list(logcounts = log1p(m), counts = m), colData = DataFrame(
  cell_type = factor(obs$cell_type), phase = obs$phase, depth = colSums(m), found = colSums(m) > 500,
  run = Rle(rep(c("a", "b"), each = ncol(m) / 2)), row.names = colnames(m)))
reducedDim(sce, "PCA") <- matrix(0, ncol(m), 2)
saveRDS(sce, "sce.rds")
metadata(sce) <- list(f = function(x) system("touch pwned"), formula = y ~ x, e = new.env(), call = quote(f(x)),
  byte = compiler::cmpfun(function(x) { system("touch pwned"); x }))
saveRDS(sce, "sce_with_code.rds")
delayedAssign("p", system("touch pwned"), assign.env = metadata(sce)$e)
saveRDS(sce, "promise.rds")
saveRDS(SummarizedExperiment(list(counts = as.matrix(m))), "se.rds")
so <- CreateSeuratObject(m, meta.data = obs)
saveRDS(so, "seurat.rds")
so[["ADT"]] <- CreateAssayObject(m[1:5, ]); DefaultAssay(so) <- "ADT"
saveRDS(so, "seurat_two.rds")
saveRDS(m, "dgC.rds"); saveRDS(as(m, "TsparseMatrix"), "dgT.rds"); saveRDS(as(m, "RsparseMatrix"), "dgR.rds")
saveRDS(m, "xz.rds", compress = "xz"); saveRDS(m, "bz.rds", compress = "bzip2")
saveRDS(m, "plain.rds", compress = FALSE); saveRDS(m, "text.rds", ascii = TRUE); saveRDS(m, "two.rds", version = 2)
dense <- as.matrix(m); saveRDS(dense, "double.rds")
storage.mode(dense) <- "integer"; saveRDS(dense, "integer.rds"); saveRDS(as.data.frame(dense), "frame.rds")
saveRDS(t(dense), "turned.rds")
saveRDS(1:10, "vector.rds"); saveRDS(function(x) system("touch pwned"), "function.rds")
saveRDS(list(raw = as.raw(1)), "bytes.rds"); saveRDS(as(m, "nMatrix"), "pattern.rds")
lone <- SummarizedExperiment(colData = DataFrame(row.names = c("a", "b"))); saveRDS(lone, "no_assay.rds")
old <- SummarizedExperiment(list(counts = as.matrix(m))); inner <- old@assays; attr(inner, "data") <- NULL
attr(old, "assays") <- inner; saveRDS(old, "old_class.rds")
odd <- SummarizedExperiment(list(counts = as.matrix(m))); attr(odd, "colData") <- colData(odd)[1:3, 0, drop = FALSE]
saveRDS(odd, "odd_names.rds")
bare <- so; bare@assays <- list(); saveRDS(bare, "seurat_bare.rds")
v4 <- CreateAssayObject(m); v4@counts <- v4@counts[0, 0]; v4@data <- v4@data[0, 0]
hollow <- so; hollow@assays <- list(RNA = v4); hollow@active.assay <- "RNA"; saveRDS(hollow, "seurat_hollow.rds")
setClass("Assay5", representation(layers = "list", cells = "LogMap", features = "LogMap", default = "integer",
  assay.orig = "character", meta.data = "data.frame", misc = "list", key = "character"))
map <- function(names, layers) new("LogMap", matrix(TRUE, length(names), length(layers), dimnames = list(names, layers)))
five <- function(layers) { x <- so; x@assays <- list(RNA = new("Assay5", layers = layers, default = 1L,
  cells = map(colnames(m), names(layers)), features = map(rownames(m), names(layers)))); x@active.assay <- "RNA"; x }
u <- unname(m); saveRDS(five(list(counts = u, data = log1p(u), scale.data = as.matrix(u[1:9, ]))), "seurat_5.rds")
saveRDS(five(list(counts.a = u[, 1:90], counts.b = u[, 91:200])), "seurat_split.rds")
saveRDS(data.frame(a = c("x", "y"), b = c("u", "v")), "words.rds")
bad <- SummarizedExperiment(list(counts = as.matrix(m)[, 1:2]), colData = DataFrame(f = 1:2))
f <- c(1L, 7L); attributes(f) <- list(levels = "one"); attr(bad@colData@listData$f, "levels") <- "one"
bad@colData@listData$f[2] <- 7L; attr(bad@colData@listData$f, "levels") <- "one"; saveRDS(bad, "factor.rds")
write.csv(dense, "r.csv"); write.table(dense, "r.txt", sep = "\\t", quote = FALSE)
write.csv2(t(dense), "r2.csv")
dir.create("v2"); writeMM(m, "v2/matrix.mtx"); writeLines(colnames(m), "v2/barcodes.tsv")
write.table(data.frame(paste0("ENSG", seq_len(nrow(m))), rownames(m)), "v2/genes.tsv", sep = "\\t",
  quote = FALSE, row.names = FALSE, col.names = FALSE)
"""


def r(code, folder):
    """Run R, which must have the packages, and return what it prints."""
    script = folder / "script.R"
    script.write_text(textwrap.dedent(code))
    done = subprocess.run(["Rscript", str(script)], cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="session")
def has_r(tmp_path_factory):
    if shutil.which("Rscript") is None:
        pytest.skip("R is not on this machine")
    asked = "; ".join(f'stopifnot(requireNamespace("{name}", quietly = TRUE))' for name in R_PACKAGES)
    if subprocess.run(["Rscript", "-e", asked], capture_output=True).returncode:
        pytest.skip(f"R lacks one of {', '.join(R_PACKAGES)}")


@pytest.fixture(scope="session")
def some_cells(cells):
    return cells[:200, :300].copy()


@pytest.fixture(scope="session")
def from_r(has_r, some_cells, tmp_path_factory):
    """Files that R wrote of the cells."""
    folder = tmp_path_factory.mktemp("r")
    scipy.io.mmwrite(folder / "matrix.mtx", some_cells.X.T.astype(int))
    (folder / "genes.txt").write_text("\n".join(some_cells.var_names) + "\n")
    (folder / "cells.txt").write_text("\n".join(some_cells.obs_names) + "\n")
    some_cells.obs.to_csv(folder / "obs.csv")
    r(R_FILES, folder)
    return folder


def assert_same(found, cells, obs=()):
    np.testing.assert_array_equal(densify(found.X), cells.X.toarray())
    assert list(found.obs_names) == list(cells.obs_names)
    assert list(found.var_names) == list(cells.var_names)
    for key in obs:
        assert list(found.obs[key].astype(str)) == list(cells.obs[key].astype(str))


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("no_assay", r"experiment.*\bassay"),
        ("old_class", r"classes.*saveRDS"),
        ("odd_names", r"\b200 cells.*\b3\b"),
        ("seurat_bare", r"Seurat.*\bassay"),
        ("seurat_hollow", r"assay 'RNA'.*counts.*data"),
        (
            "seurat_split",
            r"'counts\.a', 'counts\.b'.*saveRDS\(JoinLayers\(x\), \.\.\.\)",
        ),
        ("words", r"numbers.*columns 'a', 'b'"),
        ("factor", r"\.rds\b.*factor.*levels"),
    ],
)
def test_objects_of_r_without_what_is_needed(from_r, name, words):
    with pytest.raises(ValueError, match=words):
        vx.read(from_r / f"{name}.rds")


def quiet_read(path, **kwargs):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return vx.read(path, **kwargs)


# ---- from R


def test_a_single_cell_experiment(from_r, some_cells):
    found = quiet_read(from_r / "sce.rds")
    assert_same(found, some_cells, ["cell_type", "phase"])
    assert sorted(found.layers) == ["counts", "logcounts"]
    np.testing.assert_allclose(
        found.layers["logcounts"].toarray(), np.log1p(some_cells.X.toarray()), rtol=1e-6
    )
    assert isinstance(found.obs["cell_type"].dtype, pd.CategoricalDtype)
    depth = some_cells.X.sum(axis=1).A1
    np.testing.assert_array_equal(found.obs["depth"], depth)
    assert list(found.obs["found"]) == list(depth > 500)
    assert list(found.obs["run"]) == ["a"] * 100 + ["b"] * 100


def test_code_in_a_file_is_not_run(from_r, some_cells):
    assert_same(quiet_read(from_r / "sce_with_code.rds"), some_cells, ["cell_type"])
    with pytest.raises(ValueError, match=r"function\.rds'.*Single.*matrix.*\bfunction\b"):
        vx.read(from_r / "function.rds")
    with pytest.raises(ValueError, match=r"promise\.rds'.*\brdata\b"):
        vx.read(from_r / "promise.rds")
    assert not list(from_r.glob("**/pwned"))


def test_a_summarized_experiment(from_r, some_cells):
    found = quiet_read(from_r / "se.rds")
    assert_same(found, some_cells)
    assert list(found.obs) == []


def test_a_seurat_object(from_r, some_cells):
    found = quiet_read(from_r / "seurat.rds")
    assert_same(found, some_cells, ["cell_type", "phase"])
    assert sorted(found.layers) == ["counts", "data"]
    assert set(found.obs["ident"]) == {"SeuratProject"}
    with pytest.warns(UserWarning, match=r"'seurat_two\.rds'.*assays 'RNA', 'ADT'.*'RNA'"):
        assert_same(vx.read(from_r / "seurat_two.rds"), some_cells)


def test_a_seurat_object_of_version_5(from_r, some_cells):
    found = quiet_read(from_r / "seurat_5.rds")
    assert_same(found, some_cells, ["cell_type", "phase"])
    assert set(found.layers) == {"counts", "data"}  # the third is of nine genes


@pytest.mark.parametrize(
    "name",
    ["dgC", "dgT", "dgR", "xz", "bz", "plain", "text", "two", "double", "integer", "frame", "turned"],
)
def test_matrices_of_r(from_r, some_cells, name):
    """Genes in rows, as R's packages have it, or turned round as the names of genes and barcodes tell."""
    words = (
        r"\b200 rows\b.*\bcells\b.*\b300 columns\b.*\bgenes\b"
        if name == "turned"
        else r"\b300 rows\b.*\bgenes\b.*\b200 columns\b.*\bcells\b"
    )
    with pytest.warns(UserWarning, match=words):
        assert_same(vx.read(from_r / f"{name}.rds"), some_cells)
    assert_same(quiet_read(from_r / f"{name}.rds", transpose=name != "turned"), some_cells)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("vector", r"\bvector\b"),
        ("pattern", r"'ngCMatrix'.*saveRDS\(as\(x, 'dgCMatrix'\), 'counts\.rds'\)"),
        ("bytes", r"\brdata\b.*RAW"),
    ],
)
def test_other_objects_of_r_are_named(from_r, name, words):
    with pytest.raises(ValueError, match=rf"{name}\.rds' .*{words}"):
        vx.read(from_r / f"{name}.rds")


def test_an_experiment_says_itself_which_are_the_cells(from_r):
    with pytest.raises(ValueError, match=r"'sce\.rds'.*'SingleCellExperiment'"):
        vx.read(from_r / "sce.rds", transpose=True)


def test_damaged_files_of_r(from_r, tmp_path):
    whole = gzip.decompress((from_r / "sce.rds").read_bytes())
    for content in (
        (from_r / "sce.rds").read_bytes()[:2000],
        whole[: len(whole) // 2],
        whole[:40],
        b"",
        b"X\n" + bytes(100),
        b"RDX3\nX\n" + whole[2:100],
    ):
        (tmp_path / "cut.rds").write_bytes(content)
        with pytest.raises(ValueError, match=r"cut\.rds' "):
            vx.read(tmp_path / "cut.rds")


def test_bombs_of_r(tmp_path, monkeypatch):
    monkeypatch.setattr(packed, "ALWAYS_UNPACKED", 2**20)
    (tmp_path / "zeros.rds").write_bytes(gzip.compress(b"X\n" + bytes(2**23)))
    with pytest.raises(ValueError, match=r"\b1,6\d\d,\d\d\d\b"):
        vx.read(tmp_path / "zeros.rds")
    import rdata.unparser
    from rdata.conversion.to_r import ConverterFromPythonToR

    data = ConverterFromPythonToR().convert_to_r_data(pd.RangeIndex(1, 11))
    data.object.value[1].value[0] = 1e15
    buffer = io.BytesIO()
    rdata.unparser.unparse_fileobj(buffer, data)
    (tmp_path / "long.rds").write_bytes(buffer.getvalue())
    with pytest.raises(ValueError, match=r"compact_intseq.*1,000,000,000,000,000 values"):
        vx.read(tmp_path / "long.rds")


def test_deep_nesting_of_r_is_refused(tmp_path):
    # a list in a list in a list ...
    level = struct.pack(">ii", 19, 1)
    head = b"X\n" + struct.pack(">iiii", 3, 0x40202, 0x30500, 5) + b"UTF-8"
    (tmp_path / "deep.rds").write_bytes(head + level * 100_000 + struct.pack(">i", 254))
    with pytest.raises(ValueError, match=r"deep\.rds'.*\.rds\b.*recursion"):
        vx.read(tmp_path / "deep.rds")


def test_without_the_package_the_extra_is_named(tmp_path, some_cells, monkeypatch):
    monkeypatch.setitem(sys.modules, "rdata", None)
    monkeypatch.setitem(sys.modules, "loompy", None)
    (tmp_path / "a.rds").write_bytes(b"X\n")
    (tmp_path / "a.loom").write_bytes(b"")
    with pytest.raises(ImportError, match=r"\.rds files.*pip install 'vaexprs\[r\]'$"):
        vx.read(tmp_path / "a.rds")
    with pytest.raises(ImportError, match=r"pip install 'vaexprs\[r\]'$"):
        vx.write(some_cells, tmp_path / "b.rds")
    with pytest.raises(ImportError, match=r"\.loom files.*pip install 'vaexprs\[loom\]'$"):
        vx.read(tmp_path / "a.loom")


# ---- to R


def test_generated_cells_in_r(has_r, generated, tmp_path):
    vx.write(generated.adata, tmp_path / "made.rds")
    told = r(
        """
        suppressMessages(library(SingleCellExperiment))
        x <- readRDS("made.rds")
        stopifnot(validObject(x))
        cat(class(x), dim(x), assayNames(x), class(counts(x)), sum(counts(x)), sum(counts(x)[5, ]), "\\n")
        cat(table(x$cell_type), "\\n"); cat(levels(x$phase), "\\n")
        cat(rownames(x)[1:3], colnames(x)[400], dim(x[1:5, x$phase == "S"]), dim(cbind(x, x)), "\\n")
        x$n <- 1; logcounts(x) <- log1p(counts(x)); reducedDim(x, "PCA") <- matrix(0, ncol(x), 2)
        rowData(x)$symbol <- rownames(x); mcols(rowRanges(x))
        saveRDS(x, "again.rds")
        """,
        tmp_path,
    ).split("\n")
    made = generated.adata
    assert told[0].split() == [
        "SingleCellExperiment", "765", "400", "counts", "dgCMatrix", f"{made.X.sum():.0f}", f"{made.X[:, 4].sum():.0f}"
    ]  # fmt: skip
    sizes = made.obs["cell_type"].value_counts(sort=False)
    assert [int(n) for n in told[1].split()] == list(sizes)
    assert told[2].split() == ["G1", "G2M", "S"]
    in_s = int((made.obs["phase"] == "S").sum())
    assert told[3].split() == [*made.var_names[:3], "generated_400", "5", str(in_s), "765", "800"]
    assert_same(quiet_read(tmp_path / "again.rds"), made, ["cell_type", "phase"])


@pytest.mark.r
def test_the_lines_for_r_sessions(some_cells, tmp_path):
    """The code of docs/from-r.md: a SingleCellExperiment in, and one out."""
    needed = 'stopifnot(requireNamespace("reticulate"), requireNamespace("SingleCellExperiment"))'
    if shutil.which("Rscript") is None or subprocess.run(["Rscript", "-e", needed]).returncode:
        pytest.skip("R, reticulate or SingleCellExperiment is not on this machine")
    page = (Path(__file__).parents[2] / "docs" / "from-r.md").read_text(encoding="utf-8")
    code = re.search(r"```r\n(library\(reticulate\).*?)```", page, re.DOTALL)[1]
    code = code.replace("/path/to/python", sys.executable)
    code = code.replace('label_key = "cell_type")', 'label_key = "cell_type", epochs = 2, verbose = 0)')
    vx.write(some_cells, tmp_path / "cells.rds")
    said = r(
        f"""
        {textwrap.indent(code, " " * 8).strip()}
        stopifnot(validObject(made), validObject(both))
        cat("R:", class(made), dim(made), class(counts(made)), sum(counts(made)), table(both$group))
        """.replace("fit <-", 'sce <- readRDS("cells.rds")\n        fit <-', 1),
        tmp_path,
    )
    real = int((some_cells.obs["cell_type"] == "CD34+").sum())
    words = said.split("R: ")[1].split()
    assert words[:4] == ["SingleCellExperiment", "300", "70", "dgCMatrix"]
    assert float(words[4]) > 0
    assert words[5:] == ["200", str(60 - real)]


def test_values_and_columns_of_any_kind_in_r(has_r, some_cells, tmp_path):
    cells = some_cells[:5, :4].copy()
    cells.X = cells.X.toarray() + 0.5
    cells.var_names = ["gène", "=1+1", "b", "c d"]
    cells.obs = pd.DataFrame(
        {
            "n": [1, 2, 3, 4, 5],
            "q": [0.5, np.nan, 1, 2, 3],
            "t": ["a", "ü", "c", "d", "e"],
            "l": [True, False] * 2 + [True],
        },
        index=cells.obs_names,
    )
    cells.obs["f"] = pd.Categorical(["x", None, "y", "x", "x"])
    vx.write(cells, tmp_path / "odd.rds")
    told = r(
        """
        suppressMessages(library(SingleCellExperiment))
        x <- readRDS("odd.rds")
        cat(assayNames(x), sum(assay(x)), rownames(x)[1] == "g\\u00e8ne", is.na(x$q[2]), is.na(x$f[2]), "\\n")
        cat(class(x$n), class(x$q), class(x$t), class(x$l), class(x$f), x$t[2] == "\\u00fc", "\\n")
        """,
        tmp_path,
    ).split("\n")
    assert told[0].split()[0] == "X"
    assert float(told[0].split()[1]) == pytest.approx(cells.X.sum())
    assert told[0].split()[2:] == ["TRUE", "TRUE", "TRUE"]
    assert told[1].split() == ["integer", "numeric", "character", "logical", "factor", "TRUE"]


# ---- 10x


@pytest.mark.parametrize("packed", [False, True])
def test_a_10x_folder_of_version_2(from_r, some_cells, tmp_path, packed):
    folder = shutil.copytree(from_r / "v2", tmp_path / "v2")
    if packed:
        for path in list(folder.iterdir()):
            path.with_name(path.name + ".gz").write_bytes(gzip.compress(path.read_bytes()))
            path.unlink()
    for path in (folder, folder / ("matrix.mtx.gz" if packed else "matrix.mtx")):
        found = quiet_read(path)
        assert_same(found, some_cells)
        assert found.var["gene_ids"].iloc[1] == "ENSG2"


@pytest.fixture(scope="session")
def cellranger():
    """Files that CellRanger wrote: those of scanpy's own tests (tests/_data/10x_data of its source)."""
    folder = Path(__file__).parents[3] / "shared" / "data" / "10x"
    if not folder.exists():
        pytest.skip("CellRanger's files are not on this machine")
    return folder


@pytest.mark.parametrize(
    ("name", "shape", "total"),
    [
        ("1.2.0/filtered_gene_bc_matrices_h5.h5", (12, 343), 12),
        ("1.2.0/filtered_gene_bc_matrices/hg19_chr21", (12, 343), 12),
        ("3.0.0/filtered_feature_bc_matrix.h5", (1107, 507), 41549),
        ("3.0.0/filtered_feature_bc_matrix", (1107, 507), 41549),
    ],
)
def test_files_of_cellranger(cellranger, name, shape, total):
    found = quiet_read(cellranger / name)
    assert found.shape == shape
    assert found.X.sum() == total
    assert found.var_names.is_unique
    reader = sc.read_10x_h5 if name.endswith(".h5") else sc.read_10x_mtx
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        expected = reader(cellranger / name)
    assert (found.X != expected.X).nnz == 0
    assert list(found.obs_names) == list(expected.obs_names)


def test_an_h5_file_of_several_genomes(cellranger, tmp_path):
    path = cellranger / "1.2.0" / "multiple_genomes.h5"
    with pytest.raises(ValueError, match=r"genomes.*'another_genome', 'hg19_chr21'"):
        vx.read(path)
    (tmp_path / "cut.h5").write_bytes(path.read_bytes()[:20_000])
    with pytest.raises(ValueError, match=r"cut\.h5'.*\.h5: .*truncated file"):
        vx.read(tmp_path / "cut.h5")


def test_a_10x_folder_for_scanpy_and_back(some_cells, tmp_path):
    vx.write(some_cells, tmp_path / "out.mtx")
    names = sorted(path.name for path in (tmp_path / "out.mtx").iterdir())
    assert names == ["barcodes.tsv.gz", "features.tsv.gz", "matrix.mtx.gz", "obs.csv"]
    assert_same(sc.read_10x_mtx(tmp_path / "out.mtx"), some_cells)
    assert_same(quiet_read(tmp_path / "out.mtx"), some_cells, ["cell_type", "phase"])


def test_other_features_than_genes_are_left_out(some_cells, tmp_path):
    folder = tmp_path / "out.mtx"
    vx.write(some_cells, folder)
    features = pd.read_csv(folder / "features.tsv.gz", sep="\t", header=None)
    features.loc[290:, 2] = "Antibody Capture"
    features.loc[1, 1] = features.loc[0, 1]
    features.to_csv(folder / "features.tsv.gz", sep="\t", header=False, index=False)
    with pytest.warns(UserWarning, match=r"'out\.mtx'.*\b10\b.*\b300 features.*genes.*'Antibody Capture'"):
        found = vx.read(folder)
    assert found.shape == (200, 290)
    assert list(found.var_names[:2]) == ["HES4", "HES4-1"]


def test_a_10x_folder_in_r(has_r, some_cells, tmp_path):
    vx.write(some_cells, tmp_path / "out.mtx")
    told = r(
        """
        suppressMessages(library(Matrix))
        m <- readMM(gzfile("out.mtx/matrix.mtx.gz")); f <- read.delim(gzfile("out.mtx/features.tsv.gz"), header = FALSE)
        cat(dim(m), sum(m), f[3, 2], length(readLines(gzfile("out.mtx/barcodes.tsv.gz"))), nrow(read.csv("out.mtx/obs.csv")))
        """,
        tmp_path,
    )
    assert told.split() == ["300", "200", str(int(some_cells.X.sum())), some_cells.var_names[2], "200", "200"]


def test_damaged_10x_folders(some_cells, tmp_path):
    whole = tmp_path / "whole.mtx"
    vx.write(some_cells, whole)
    for name in ("features", "barcodes", "matrix"):
        folder = shutil.copytree(whole, tmp_path / f"no_{name}")
        next(folder.glob(f"{name}.*")).unlink()
        with pytest.raises(ValueError, match=rf"no_{name}'.*\b{name}\b"):
            vx.read(folder)
    folder = shutil.copytree(whole, tmp_path / "fewer")
    names = gzip.decompress((whole / "barcodes.tsv.gz").read_bytes()).splitlines()[:-1]
    (folder / "barcodes.tsv.gz").write_bytes(gzip.compress(b"\n".join(names)))
    with pytest.raises(ValueError, match=r"\b300 genes x 200 cells.*\b300\b.*barcodes\.tsv\.gz.*\b199\b"):
        vx.read(folder)
    text = gzip.decompress((whole / "matrix.mtx.gz").read_bytes())
    entries = str(some_cells.X.nnz).encode()
    for content in (text[: len(text) // 2], text.replace(entries, b"9" * 12, 1), b"", b"hello\n"):
        (whole / "matrix.mtx.gz").write_bytes(gzip.compress(content))
        with pytest.raises(ValueError, match=r"whole\.mtx"):
            vx.read(whole)
    head, first, rest = re.fullmatch(rb"((?:%.*\n)*[0-9 ]+\n)(.*\n)((?s:.*))", text).groups()
    gene, cell, value = first.split()
    for content, words in (
        (
            head + b"301 %b %b\n" % (cell, value) + rest,
            r".*\bgene\b.*\b300\b",
        ),
        (head + b"0 %b %b\n" % (cell, value) + rest, r".*\bgene\b.*\b300\b"),
        (
            head + b"%b 201 %b\n" % (gene, value) + rest,
            r".*\bcell\b.*\b200\b",
        ),
        (head + rest, rf".*\b{some_cells.X.nnz:,} entries.*\b{some_cells.X.nnz - 1:,}\b"),
        (text + first, rf".*\b{some_cells.X.nnz:,} entries"),
    ):
        (whole / "matrix.mtx.gz").write_bytes(gzip.compress(content))
        with pytest.raises(ValueError, match=rf"whole\.mtx/matrix\.mtx\.gz' {words}"):
            vx.read(whole)
    (tmp_path / "nothing").mkdir()
    with pytest.raises(ValueError, match=r"nothing' is a folder without matrix\.mtx"):
        vx.read(tmp_path / "nothing")


def test_an_h5_file_that_is_not_from_10x(some_cells, tmp_path):
    some_cells.write_h5ad(tmp_path / "cells.h5")
    with pytest.raises(ValueError, match=r"cells\.h5'.*CellRanger.*\.h5ad\b"):
        vx.read(tmp_path / "cells.h5")
    pd.DataFrame({"a": [1]}).to_numpy().tofile(tmp_path / "bytes.h5")
    with pytest.raises(ValueError, match=r"bytes\.h5'.*\.h5: "):
        vx.read(tmp_path / "bytes.h5")


# ---- loom, MuData


def test_loom(some_cells, tmp_path):
    loompy = pytest.importorskip("loompy")
    loompy.create(
        str(tmp_path / "cells.loom"),
        some_cells.X.T.toarray(),
        {"Gene": some_cells.var_names.to_numpy(str)},
        {
            "CellID": some_cells.obs_names.to_numpy(str),
            "cell_type": some_cells.obs["cell_type"].to_numpy(str),
        },
    )
    assert_same(quiet_read(tmp_path / "cells.loom"), some_cells, ["cell_type"])
    (tmp_path / "cut.loom").write_bytes((tmp_path / "cells.loom").read_bytes()[:5000])
    with pytest.raises(ValueError, match=r"cut\.loom'.*\.loom: "):
        vx.read(tmp_path / "cut.loom")


def test_the_rna_of_mudata(some_cells, tmp_path):
    mudata = pytest.importorskip("mudata")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        both = mudata.MuData({"rna": some_cells.copy(), "prot": some_cells[:, :5].copy()})
        both.obs["donor"] = "d1"
        both.write(tmp_path / "both.h5mu")
        two = mudata.MuData({"prot": some_cells[:, :5].copy(), "atac": some_cells[:, 5:9].copy()})
        two.write(tmp_path / "two.h5mu")
    found = quiet_read(tmp_path / "both.h5mu")
    assert_same(found, some_cells, ["cell_type"])
    assert set(found.obs["donor"]) == {"d1"}
    with pytest.raises(ValueError, match=r"two\.h5mu'.*'rna'.*'atac', 'prot'"):
        vx.read(tmp_path / "two.h5mu")


# ---- tables


def table_of(cells):
    return pd.DataFrame(cells.X.toarray().astype(int), index=cells.obs_names, columns=cells.var_names)


@pytest.mark.parametrize("suffix", [".csv", ".csv.gz", ".tsv", ".txt.gz"])
def test_tables_either_way_round(some_cells, tmp_path, suffix):
    table, separator = table_of(some_cells), "," if "csv" in suffix else "\t"
    table.to_csv(tmp_path / f"cells{suffix}", sep=separator)
    table.T.to_csv(tmp_path / f"genes{suffix}", sep=separator)
    with pytest.warns(UserWarning, match=r"\b200 rows\b.*\bcells\b.*transpose=True"):
        assert_same(vx.read(tmp_path / f"cells{suffix}"), some_cells)
    with pytest.warns(UserWarning, match=r"\b300 rows\b.*\bgenes\b.*transpose=False"):
        assert_same(vx.read(tmp_path / f"genes{suffix}"), some_cells)
    assert_same(quiet_read(tmp_path / f"cells{suffix}", transpose=False), some_cells)
    assert_same(quiet_read(tmp_path / f"genes{suffix}", transpose=True), some_cells)


@pytest.mark.parametrize("name", ["r.csv", "r.txt", "r2.csv"])
def test_tables_of_r(from_r, some_cells, name):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = vx.read(from_r / name)
    # R makes names of columns that it can say in code: read.csv's doing, not write.csv's
    assert_same(found, some_cells)


def test_labels_in_the_table(some_cells, tmp_path):
    table = table_of(some_cells)
    table.insert(0, "cell_type", some_cells.obs["cell_type"].astype(str))
    table.insert(1, "phase", some_cells.obs["phase"].astype(str))
    table.to_csv(tmp_path / "cells.csv")
    with pytest.warns(UserWarning, match=r"\bcells\b.*2 columns are annotation: 'cell_type', 'phase'"):
        found = vx.read(tmp_path / "cells.csv")
    assert_same(found, some_cells, ["cell_type", "phase"])
    table.T.to_csv(tmp_path / "odd.csv")
    with pytest.raises(ValueError, match=r"odd\.csv'.*numbers.*'.*'.*row 'cell_type', column"):
        vx.read(tmp_path / "odd.csv")


def test_the_shape_tells_where_names_do_not(tmp_path):
    tall = pd.DataFrame(np.arange(12).reshape(4, 3), index=list("abcd"), columns=list("xyz"))
    tall.to_csv(tmp_path / "tall.csv")
    with pytest.warns(UserWarning, match=r"\b4 rows\b.*\bgenes\b"):
        assert vx.read(tmp_path / "tall.csv").shape == (3, 4)
    tall.T.to_csv(tmp_path / "wide.csv")
    with pytest.warns(UserWarning, match=r"\b3 rows\b.*\bcells\b"):
        assert vx.read(tmp_path / "wide.csv").shape == (3, 4)


@pytest.mark.parametrize("suffix", [".csv", ".rds"])
def test_names_of_the_cells_tell_what_the_shape_would_not(tmp_path, suffix):
    few = pd.DataFrame(np.arange(12.0).reshape(4, 3), index=list("abcd"), columns=list("xyz"))
    path, turned, obs = tmp_path / f"few{suffix}", tmp_path / f"turned{suffix}", tmp_path / "obs.tsv"
    for table, to in ((few, path), (few.T, turned)):
        if suffix == ".csv":
            table.to_csv(to)
        else:
            pytest.importorskip("rdata").write_rds(to, table)
    obs.write_text("sample\ttype\n" + "".join(f"{name}\tB\n" for name in "dcbae"))
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # nothing is guessed
        for each in (path, turned):
            read = vx.read(each, obs=obs)
            assert list(read.obs_names) == list("abcd")
            assert list(read.var_names) == list("xyz")
            np.testing.assert_array_equal(densify(read.X), few.to_numpy())
    obs.write_text("sample\ttype\nw\tB\n")
    with (
        pytest.warns(UserWarning, match=r"\b4 rows\b.*\bgenes\b"),
        pytest.raises(ValueError, match=r"\brow\b.*\bcell.*'x', 'y', 'z'"),
    ):
        vx.read(path, obs=obs)


@pytest.mark.parametrize("suffix", [".CSV", ".TXT", ".csv.GZ", ".TSV.gz", ".Rds"])
def test_suffixes_in_capitals(some_cells, tmp_path, suffix):
    plain = suffix.lower().replace("txt", "tsv")
    vx.write(some_cells, tmp_path / f"cells{plain}")
    (tmp_path / f"cells{plain}").rename(tmp_path / f"CELLS{suffix}")
    if plain != ".rds":
        (tmp_path / "cells.obs.csv").rename(tmp_path / "CELLS.obs.csv")
    assert_same(quiet_read(tmp_path / f"CELLS{suffix}"), some_cells, ["cell_type"])
    if suffix != ".TXT":
        vx.write(some_cells, tmp_path / f"new{suffix}")
        assert_same(quiet_read(tmp_path / f"new{suffix}"), some_cells, ["cell_type"])


def test_what_featurecounts_writes(some_cells, tmp_path):
    cells = some_cells[:6, :40].copy()
    table = table_of(cells).T
    # some genes have one exon: their places are numbers
    about = {"Chr": "1;1", "Start": range(40), "End": "5;9", "Strand": "+", "Length": range(90, 130)}
    for place, (key, values) in enumerate(about.items()):
        table.insert(place, key, values)
    text = table.rename_axis("Geneid").to_csv(sep="\t")
    (tmp_path / "counts.txt").write_text(
        '# Program:featureCounts v2.0.1; Command:"featureCounts" "-T"\n' + text
    )
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # nothing is guessed
        found = vx.read(tmp_path / "counts.txt")
    assert_same(found, cells)
    assert found.var.iloc[7].to_dict() == {
        "Chr": "1;1",
        "Start": "7",
        "End": "5;9",
        "Strand": "+",
        "Length": "97",
    }


def test_gct(some_cells, tmp_path):
    cells = some_cells[:6, :40].copy()
    table = table_of(cells).T
    table.insert(0, "Description", [f"symbol {i}" for i in range(40)])
    text = "#1.2\n40\t6\n" + table.rename_axis("Name").to_csv(sep="\t")
    with gzip.open(tmp_path / "tpm.gct.gz", "wt") as file:
        file.write(text)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = vx.read(tmp_path / "tpm.gct.gz")
    assert_same(found, cells)
    assert list(found.var["Description"]) == [f"symbol {i}" for i in range(40)]
    (tmp_path / "new.gct").write_text(text.replace("#1.2", "#1.3"))
    with pytest.raises(ValueError, match=r"new\.gct'.*#1\.2\b"):
        vx.read(tmp_path / "new.gct")


def test_comments_before_the_names(some_cells, tmp_path):
    cells = some_cells[:6, :40].copy()
    text = table_of(cells).rename_axis("#cell").to_csv()
    (tmp_path / "counts.csv").write_text("# made by, for\n#\n" + text)
    assert_same(quiet_read(tmp_path / "counts.csv", transpose=False), cells)
    with pytest.raises(UserWarning, match=r"^'counts\.csv'.*\b6 rows\b.*\bcells\b"):
        quiet_read(tmp_path / "counts.csv")
    (tmp_path / "only.csv").write_text("# one\n# two\n")
    with pytest.raises(ValueError, match=r"only\.csv'.*table.*names"):
        vx.read(tmp_path / "only.csv")


def test_reads_of_no_gene_are_left_out(tmp_path):
    rows = {
        "ENSG00000000003": [1, 2],
        "ENSG00000000005": [0, 3],
        "__no_feature": [900, 800],
        "N_unmapped": [7, 7],
    }
    table = pd.DataFrame(rows, index=["s1", "s2"]).T
    table.to_csv(tmp_path / "counts.tsv", sep="\t")
    words = r"'counts\.tsv'.*'__no_feature', 'N_unmapped'"
    with pytest.warns(UserWarning, match=r"\b2 columns\b.*\bcells\b"), pytest.warns(UserWarning, match=words):
        found = vx.read(tmp_path / "counts.tsv")
    assert found.to_df().to_dict("list") == {"ENSG00000000003": [1, 2], "ENSG00000000005": [0, 3]}


def test_genes_that_became_dates_are_told(tmp_path):
    (tmp_path / "excel.csv").write_text("cell,CD4,ACTB,2-Sep,Mar-01\nc1,1,2,3,4\nc2,5,6,7,8\n")
    words = r"'excel\.csv'.*dates.*'2-Sep', 'Mar-01'"
    with pytest.warns(UserWarning, match=r"\bgenes\b"), pytest.warns(UserWarning, match=words):
        assert vx.read(tmp_path / "excel.csv").shape == (2, 4)


def test_genes_with_their_kinds_are_still_genes(tmp_path):
    ids = [f"ENSG0000000{i:04}" for i in range(8)]
    table = pd.DataFrame({"biotype": ["coding", "other"] * 4, "s1": range(8), "s2": range(8)}, index=ids)
    table.to_csv(tmp_path / "counts.csv")
    with pytest.warns(UserWarning, match=r"\b8 rows\b.*\bgenes\b"):
        found = vx.read(tmp_path / "counts.csv")
    assert found.shape == (2, 8)
    assert list(found.var["biotype"]) == ["coding", "other"] * 4


def test_the_texts_of_excel(tmp_path):
    text = "c\u00e9ll\tCD4\tACTB\nc1\t1\t2\nc2\t3\t4\n"
    (tmp_path / "unicode.txt").write_text(text, encoding="utf-16")
    assert quiet_read(tmp_path / "unicode.txt", transpose=False).to_df().to_dict("list") == {
        "CD4": [1, 3],
        "ACTB": [2, 4],
    }
    (tmp_path / "windows.txt").write_text(text, encoding="cp1252")
    with pytest.raises(ValueError, match=r"windows\.txt'.*UTF-8.*\b0xe9\b.*'CSV UTF-8'"):
        vx.read(tmp_path / "windows.txt")


def test_cells_as_a_table_and_back(some_cells, tmp_path):
    cells = some_cells[:20, :30].copy()
    cells.obs["donor"] = pd.Categorical(["01", "1"] * 10)
    assert vx.write(cells, tmp_path / "out.csv.gz") == tmp_path / "out.csv.gz"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out.csv.gz", "out.obs.csv"]
    assert_same(quiet_read(tmp_path / "out.csv.gz"), cells, ["cell_type", "donor"])
    pd.testing.assert_frame_equal(
        pd.read_csv(tmp_path / "out.csv.gz", index_col=0), table_of(cells), check_names=False
    )
    for name in ("out.csv.gz", "out.obs.csv"):
        (tmp_path / name).write_text("mine")
        with pytest.raises(FileExistsError, match=r"exists"):
            vx.write(cells, tmp_path / "out.csv.gz")
        assert (tmp_path / name).read_text() == "mine"
    vx.write(cells, tmp_path / "out.csv.gz", overwrite=True)
    (tmp_path / "out.obs.csv").write_text("cell,cell_type\nother,B\n")
    with pytest.raises(ValueError, match=r"\brow\b.*\bcell.*'AAAGCCTGGCTAAC-1'.*'cell'.*'other'"):
        vx.read(tmp_path / "out.csv.gz", transpose=False)


def test_a_spreadsheet_does_not_run_names(some_cells, tmp_path):
    cells = some_cells[:4, :5].copy()
    odd = ["=1+1", "+A", "-cmd|' /C calc'!A0", "@SUM(A1)", "'=quoted"]
    cells.var_names, cells.obs_names = odd, odd[:4]
    cells.obs["cell_type"] = odd[:4]
    vx.write(cells, tmp_path / "out.csv")
    for name in ("out.csv", "out.obs.csv"):
        text = (tmp_path / name).read_text()
        assert not any(
            field[:1] in "=+-@" for line in text.splitlines() for field in line.split(",") if field
        )
    assert_same(quiet_read(tmp_path / "out.csv"), cells, ["cell_type"])


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (
            "",
            r"\bnames\b.*\b0 fields.*\b0\b",
        ),
        ("a,b\n", r"\b2 fields.*\b0\b"),
        ("cell,A,B\nc1,1,2\nc2,x,3\n", r"numbers.*'x'.*row 'c2', column 'A'"),
        ("cell,A,B\nc1,1,2\nc2,,3\n", r"numbers.*row 'c2', column 'A'"),
        (
            "cell,A,B\nc1,1,2\nc2,1,3,4,5\n",
            r"must have 3 fields in each row, got 5 in line 3",
        ),
        ("cell,A,B\nc1,1,2\nc2,1\n", r"row 'c2', column 'B'"),
        ("cell,A,B,C,D\nc1,1,2\n", r"\b5 names.*\b3 fields"),
        ("A,B\nx,y\n", r"column.*numbers"),
        ("id,B,C\n1,2,3\n1,4,5\n", r"names.*column.*numbers"),
    ],
)
def test_damaged_tables(tmp_path, content, words):
    (tmp_path / "bad.csv").write_text(content)
    with pytest.raises(ValueError, match=rf"bad\.csv' .*{words}"):
        vx.read(tmp_path / "bad.csv")


def test_tables_that_are_no_text(tmp_path, some_cells):
    (tmp_path / "bad.csv.gz").write_bytes(b"\x1f\x8bplain")
    (tmp_path / "bad.tsv").write_bytes(b"\x00\xff\xfe" * 100)
    whole = gzip.compress(table_of(some_cells).to_csv().encode())
    (tmp_path / "cut.csv.gz").write_bytes(whole[: len(whole) // 2])
    for name, words in (
        ("bad.csv.gz", r".*\.gz\b"),
        ("bad.tsv", r".*\btext\b"),
        ("cut.csv.gz", r".*\.gz\b"),
    ):
        with pytest.raises(ValueError, match=rf"{name}' {words}"):
            vx.read(tmp_path / name)


def test_large_tables_are_read_and_written_in_parts(some_cells, tmp_path, monkeypatch):
    monkeypatch.setattr(tables, "VALUES_AT_ONCE", 5_000)
    vx.write(some_cells, tmp_path / "out.tsv")
    assert_same(quiet_read(tmp_path / "out.tsv"), some_cells, ["phase"])


@pytest.mark.parametrize("suffix", [".csv", ".tsv.gz"])
@pytest.mark.parametrize("name", ["a\0b", "a\rb"])
@pytest.mark.parametrize("where", ["obs_names", "var_names", "level"])
def test_texts_that_readers_of_tables_stop_at_are_refused(some_cells, tmp_path, suffix, name, where):
    cells = some_cells[:5, :4].copy()
    if where == "level":
        cells.obs["kind"] = [name, *"abcd"]
    else:
        setattr(cells, where, [name, *getattr(cells, where)[1:]])
    with pytest.raises(ValueError, match=r"(?i)table.*\bNUL\b.*carriage return.*'a"):
        vx.write(cells, tmp_path / f"cells{suffix}")
    assert not any(tmp_path.iterdir())


def test_a_cell_without_a_name(tmp_path):
    cells = ad.AnnData(np.ones((1, 2), np.float32), obs=pd.DataFrame(index=[""]))
    back = vx.read(vx.write(cells, tmp_path / "cells.csv"), transpose=False)
    assert list(back.obs_names) == [""]
    with pytest.raises(ValueError, match=r"names.*\bempty\b.*tabs"):
        vx.write(cells, tmp_path / "cells.mtx")


def test_values_that_are_all_zero_are_written_to_zarr_too(tmp_path):
    cells = ad.AnnData(np.zeros((3, 2), np.float32))
    assert not vx.read(vx.write(cells, tmp_path / "cells.zarr")).X.any()


def test_names_that_anndata_cannot_write_are_said(some_cells, tmp_path):
    cells = some_cells[:5].copy()
    cells.obs["_index"] = "a"
    for suffix in (".h5ad", ".zarr"):
        with pytest.raises(ValueError, match=r"'_index'"):
            vx.write(cells, tmp_path / f"cells{suffix}")
    cells.obs = cells.obs[[]].assign(**{"a/b": "x"})
    with pytest.raises(ValueError, match=r"slash.*'a/b'.*\.csv\b"):
        vx.write(cells, tmp_path / "cells.zarr")
    assert not any(tmp_path.iterdir())


def test_transpose_is_for_tables(some_cells, tmp_path):
    some_cells.write_h5ad(tmp_path / "cells.h5ad")
    with pytest.raises(ValueError, match=r"transpose.*'cells\.h5ad'"):
        vx.read(tmp_path / "cells.h5ad", transpose=True)


# ---- all the way


@pytest.mark.parametrize("suffix", [".csv", ".mtx", ".rds"])
def test_from_ones_file_to_ones_file(few, tmp_path, suffix):
    """A label, a fit, cells and a judgement, each from and to one format."""
    source, out = tmp_path / f"few{suffix}", tmp_path / f"made{suffix}"
    vx.write(few, source)
    fit = vx.fit_vae(source, label_key="cell_type", epochs=2, verbose=0)
    assert fit.likelihood.name == "nb"
    made = vx.gen_exprs(fit, 60, out=out, progress=False)
    assert_same(quiet_read(out), made.adata, ["cell_type"])
    with pytest.raises(FileExistsError, match=r"exists"):
        vx.gen_exprs(fit, 60, out=out, progress=False)
    only = ["gene_means"]
    settings = {"label_key": "cell_type", "only": only, "progress": False}
    expected = vx.evaluate(made, few, **settings)
    pd.testing.assert_frame_equal(vx.evaluate(out, source, **settings), expected)


@pytest.mark.slow
def test_the_same_out_as_in(few):
    pytest.importorskip("singlecellexperiment")
    fit = vx.fit_vae(few, label_key="cell_type", epochs=2, verbose=0)
    made = vx.gen_exprs(fit, 80)
    experiment = made.to_biocpy()
    assert experiment.shape == (50, 80)
    assert list(experiment.get_assay_names()) == ["counts"]
    np.testing.assert_array_equal(experiment.assay("counts").toarray(), made.x_gen.toarray().T)
    assert list(experiment.get_column_names()) == list(made.adata.obs_names)
    table = made.to_pandas()
    assert list(table.columns) == ["cell_type", *few.var_names]
    np.testing.assert_array_equal(table[list(few.var_names)], made.x_gen.toarray())
    real = pd.concat([few.obs[["cell_type"]].astype(str), table_of(few)], axis=1)
    train = vx.Generated(few, fit).to_biocpy()
    settings = {"label_key": "cell_type", "seed": 1}
    expected = vx.evaluate(made, few, only=["gene_means"], progress=False, **settings)
    for generated in (experiment, table):
        for given in (real, train):
            found = vx.evaluate(generated, given, only=["gene_means"], progress=False, **settings)
            pd.testing.assert_frame_equal(found, expected)
    half = np.arange(120) % 2 == 0
    expected = vx.audit_privacy(made, few[half], few[~half], **settings)
    pd.testing.assert_frame_equal(vx.audit_privacy(table, real[half], real[~half], **settings), expected)
    assert vx.plot_aug(table, "PCA", real=real, label_key="cell_type").axes
    assert vx.plot_aug(experiment, "PCA", real=train, label_key="cell_type").axes
    again = vx.fit_vae(real, label_key="cell_type", epochs=2, verbose=0)
    assert (vx.gen_exprs(again, 80).x_gen != made.x_gen).nnz == 0


@pytest.mark.slow
def test_the_command_line(few, tmp_path):
    table_of(few).T.to_csv(tmp_path / "few.csv")
    few.obs.to_csv(tmp_path / "few.obs.csv")

    def run(*arguments, status=0):
        done = commands.run(*arguments, cwd=tmp_path)
        assert done.returncode == status, done.stderr
        return done

    options = ["--label-key", "cell_type", "--epochs", 2, "--quiet", "--out", "model"]
    said = run("fit", "few.csv", "--no-transpose", *options, status=2).stderr
    assert re.search(r"few\.obs\.csv'.*\brow\b.*\bcell", said), said
    run("fit", "few.csv", *options)
    run("generate", "model", "-n", 50, "--out", "made.rds", "--quiet")
    done = run(
        "evaluate", "made.rds", "--real", "few.csv", "--transpose", "--label-key", "cell_type", "--json"
    )
    assert {row["metric"] for row in json.loads(done.stdout)} > {"gene_means"}
    (tmp_path / "bad.rds").write_bytes((tmp_path / "made.rds").read_bytes()[:100])
    for name in ("bad.rds", "missing.csv", "few.xls"):
        said = run("fit", name, "--out", "m2", status=2).stderr
        assert said.startswith("Error: ")
        assert name in said
        assert "Traceback" not in said
    assert not (tmp_path / "m2").exists()


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("o.csv", "cell,type,donor\nb,T,d2\na,B,d1\n"),
        ("o.csv", "cell;type;donor\nb;T;d2\na;B;d1\n"),
        ("o.tsv", "cell\ttype\tdonor\nb\tT\td2\na\tB\td1\n"),
        ("o.txt", "type\tdonor\nb\tT\td2\na\tB\td1\n"),  # R's write.table
        ("o.csv", "\ufeffcell,type,donor\rb,T,d2\ra,B,d1\r"),
    ],
)
def test_columns_of_the_cells_are_read_whatever_separates_them(tmp_path, name, text):
    (tmp_path / "x.csv").write_text("cell,MT-A,CD4\na,1,2\nb,3,4\n")
    (tmp_path / name).write_bytes(text.encode())
    read = vx.read(tmp_path / "x.csv", transpose=False, obs=tmp_path / name)
    assert list(read.obs_names) == ["a", "b"]
    assert read.obs.to_dict("list") == {"type": ["B", "T"], "donor": ["d1", "d2"]}


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r", "\r\n\r\n"])
def test_lines_of_a_table_may_end_as_on_any_system(tmp_path, end):
    (tmp_path / "x.csv").write_bytes(end.join(["cell,MT-A,CD4", "a,1,2", "b,3,4.5", ""]).encode())
    read = vx.read(tmp_path / "x.csv", transpose=False)
    assert read.X.tolist() == [[1, 2], [3, 4.5]]
    assert (list(read.obs_names), list(read.var_names)) == (["a", "b"], ["MT-A", "CD4"])


def test_carriage_returns_between_lines_make_no_lines_of_nothing(tmp_path):
    """Where some lines end so and the last one in nothing, pandas found as many as were asked for."""
    (tmp_path / "x.csv").write_bytes(b"\r\r\t'")
    with pytest.raises(ValueError, match=r"x\.csv'.*table.*names"):
        vx.read(tmp_path / "x.csv")
    (tmp_path / "x.csv").write_bytes(b'a;"b";c\n;25,;2"\n;5"\n\0;1e3;"c;2"\n;\r')
    with pytest.raises(ValueError, match=r"x\.csv'.*numbers.*row ''"):
        vx.read(tmp_path / "x.csv", transpose=False)
