"""Tables as programs write them: names, annotation, dialects and missing values are recognised or refused."""

import bz2
import gzip
import lzma
import warnings

import anndata as ad
import numpy as np
import pandas as pd
import pytest

import vaexprs as vx
from vaexprs.data.matrix import densify
from vaexprs.io.tables.vocabulary import is_about_cells, is_about_genes

GENES = ["ACTB", "GAPDH", "CD3D", "LYZ", "MS4A1", "NKG7", "CD8A", "B2M", "FTL", "CD74"]
SAMPLES = ["S1", "S2", "S3", "S4"]
COUNTS = np.random.default_rng(0).poisson(6, (4, 10)) + 1
TABLE = pd.DataFrame(COUNTS, SAMPLES, GENES)
IDS = [f"ENSG{i:011d}" for i in range(10)]


def read(path, **settings):
    """Return the cells and the warnings."""
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        cells = vx.read(path, **settings)
    return cells, " | ".join(str(warning.message) for warning in said)


def assert_holds(cells, values=COUNTS, samples=SAMPLES, genes=GENES):
    assert list(cells.obs_names) == list(samples)
    assert list(cells.var_names) == list(genes)
    np.testing.assert_allclose(densify(cells.X), values, rtol=1e-6)


def rows(separator, values=COUNTS, number=str):
    return "".join(
        f"{gene}{separator}" + separator.join(map(number, values[:, i])) + "\n"
        for i, gene in enumerate(GENES)
    )


# ---- names of rows


def test_a_table_without_names_keeps_its_first_gene(tmp_path):
    frame = pd.DataFrame(np.random.default_rng(1).random((30, 10)) * 9, columns=GENES)
    frame["groups"] = ["A", "B"] * 15
    frame.to_csv(tmp_path / "a.csv", index=False)
    cells, said = read(tmp_path / "a.csv")
    assert_holds(cells, frame[GENES].to_numpy(), [f"cell{i + 1}" for i in range(30)])
    assert list(cells.obs["groups"]) == ["A", "B"] * 15
    assert "no column names the rows" in said
    with pytest.raises(ValueError, match=r"a\.csv' must have a column with the names of its genes"):
        vx.read(tmp_path / "a.csv", transpose=True)


def test_labels_in_the_first_column_do_not_name_the_cells(tmp_path):
    frame = pd.DataFrame(np.random.default_rng(1).poisson(5, (30, 10)), columns=GENES)
    frame.insert(0, "cell_type", ["A", "B"] * 15)
    frame.to_csv(tmp_path / "a.csv", index=False)
    assert_holds(read(tmp_path / "a.csv")[0], frame[GENES], [f"cell{i + 1}" for i in range(30)])
    frame.insert(1, "barcode", [f"c{i}" for i in range(30)])
    frame.to_csv(tmp_path / "b.csv", index=False)
    assert_holds(read(tmp_path / "b.csv")[0], frame[GENES], frame["barcode"])


def test_whole_numbers_under_an_unknown_name_are_refused(tmp_path):
    (tmp_path / "a.csv").write_text("foo,X1,X2\n7,1,2\n3,4,5\n")
    with pytest.raises(
        ValueError, match=r"names of its rows.*'foo' may be names or values.*'cell' or 'gene'"
    ):
        vx.read(tmp_path / "a.csv")


@pytest.mark.parametrize("name", ["Cell_Index", "", "sample", "id"])
def test_numbers_name_the_rows_if_the_header_says_so(tmp_path, name):
    TABLE.set_axis([101, 205, 309, 410]).rename_axis(name).to_csv(tmp_path / "a.csv")
    assert_holds(read(tmp_path / "a.csv", transpose=False)[0], samples=["101", "205", "309", "410"])


def test_row_numbers_before_the_names_are_dropped(tmp_path):
    TABLE.reset_index(names="barcode").to_csv(tmp_path / "a.csv")
    assert_holds(read(tmp_path / "a.csv")[0])


def test_a_header_that_r_shifts(tmp_path):
    quoted = " ".join(f'"{name}"' for name in SAMPLES)
    (tmp_path / "a.txt").write_text(f"{quoted}\n" + rows(" "))
    assert_holds(read(tmp_path / "a.txt")[0])


@pytest.mark.parametrize("end", ["\t\n", "\n"])
def test_separators_at_the_ends_of_rows_are_no_columns(tmp_path, end):
    body = rows("\t").replace("\n", "\t\n")
    (tmp_path / "a.tsv").write_text("gene\t" + "\t".join(SAMPLES) + end + body)
    assert_holds(read(tmp_path / "a.tsv")[0])


def test_repeated_names_are_made_unique(tmp_path):
    TABLE.T.set_axis(["ACTB", "ACTB", *GENES[2:]]).set_axis(["A", "A", "B", "C"], axis=1).to_csv(
        tmp_path / "a.csv"
    )
    cells, said = read(tmp_path / "a.csv", transpose=True)
    assert_holds(cells, samples=["A", "A-1", "B", "C"], genes=["ACTB", "ACTB-1", *GENES[2:]])
    assert "genes more than once ('ACTB')" in said
    assert "cells more than once ('A')" in said


# ---- annotation and values


def test_numbers_about_genes_are_no_samples(tmp_path):
    table = TABLE.T.copy()
    about = {
        "symbol": [f"x{i}" for i in range(10)],
        "Length": range(10),
        "start": range(5, 15),
        "ENTREZID": 7,
    }
    for place, (key, values) in enumerate(about.items()):
        table.insert(place, key, values)
    table.rename_axis("Geneid").to_csv(tmp_path / "a.tsv", sep="\t")
    cells, said = read(tmp_path / "a.tsv")
    assert_holds(cells)
    assert list(cells.var) == list(about)
    assert "10 rows are read as genes and 4 columns as cells" in said
    assert "4 columns are annotation: 'symbol', 'Length', 'start', 'ENTREZID'" in said
    cells, said = read(tmp_path / "a.tsv", transpose=True)
    assert_holds(cells)
    assert "genes in rows. 4 columns are annotation" in said


def test_numbers_about_cells_are_no_genes(tmp_path):
    table = TABLE.copy()
    about = {
        "cell_type": list("ABAB"),
        "leiden": [0, 1, 0, 1],
        "nCount_RNA": 9,
        "percent.mt": [0.1, 2, 3, 4.5],
    }
    for key, values in about.items():
        table[key] = values
    table["is_doublet"] = [True, False, False, True]
    table.to_csv(tmp_path / "a.csv")
    cells, said = read(tmp_path / "a.csv")
    assert_holds(cells)
    assert list(cells.obs) == [*about, "is_doublet"]
    assert list(cells.obs["leiden"]) == ["0", "1", "0", "1"]
    assert "5 columns are annotation: 'cell_type', 'leiden', 'nCount_RNA', 'percent.mt', 'is_doublet'" in said


def test_fractions_among_counts_are_annotation_and_said(tmp_path):
    table = TABLE.assign(zeta=[0.25, 0.5, 1.5, 2.25])
    table.to_csv(tmp_path / "a.csv")
    cells, said = read(tmp_path / "a.csv")
    assert_holds(cells)
    assert "1 column is annotation: 'zeta'" in said


def test_a_column_that_is_named_is_annotation(tmp_path):
    TABLE.assign(zeta=[3, 4, 3, 4]).to_csv(tmp_path / "a.csv")
    assert vx.read(tmp_path / "a.csv", transpose=False).n_vars == 11
    cells, _ = read(tmp_path / "a.csv", obs_columns=["zeta"])
    assert_holds(cells)
    assert list(cells.obs["zeta"]) == ["3", "4", "3", "4"]
    with pytest.raises(ValueError, match=r"obs_columns must name columns of the table, got 'zetta'.*'zeta'"):
        vx.read(tmp_path / "a.csv", transpose=False, obs_columns=["zetta"])


@pytest.mark.parametrize(
    "name", ["leiden", "nFeature_RNA", "pct_counts_mt", "S.Score", "UMAP_1", "donor", "age"]
)
def test_names_of_columns_about_cells(name):
    assert is_about_cells(name)


@pytest.mark.parametrize("name", ["GAPDH", "MT-CO1", "AGER", "PC", "CLUH", "NRP1", "LEP", "ENSG00000000003"])
def test_names_of_genes_are_not_about_cells(name):
    assert not is_about_cells(name)


@pytest.mark.parametrize(
    "name", ["Length", "gene_length_bp", "chromStart", "gc_content", "EntrezGene", "num exons"]
)
def test_names_of_columns_about_genes(name):
    assert is_about_genes(name)


def test_tables_without_expression_are_refused(tmp_path):
    about = pd.DataFrame({"n_counts": [1, 2], "cell_type": ["A", "B"]}, index=["c1", "c2"])
    about.to_csv(tmp_path / "a.csv")
    with pytest.raises(
        ValueError, match=r"only annotation of cells: 'n_counts', 'cell_type'.*obs= \(--obs\)"
    ):
        vx.read(tmp_path / "a.csv")
    tested = pd.DataFrame({"log2FoldChange": [0.1], "padj": [0.5]}, index=["ACTB"])
    tested.to_csv(tmp_path / "b.csv")
    with pytest.raises(ValueError, match=r"'log2FoldChange', 'padj' of a statistical test"):
        vx.read(tmp_path / "b.csv")


# ---- quantification tools


@pytest.mark.parametrize(
    ("name", "columns", "counts"),
    [
        ("abundance.tsv", ["target_id", "length", "eff_length", "est_counts", "tpm"], 3),
        ("quant.sf", ["Name", "Length", "EffectiveLength", "TPM", "NumReads"], 4),
        ("s.genes.results", ["gene_id", "length", "effective_length", "expected_count", "TPM", "FPKM"], 3),
    ],
)
def test_tables_of_one_sample(tmp_path, name, columns, counts):
    folder = tmp_path / "patient7"
    folder.mkdir()
    values = {key: np.arange(10) + 10.5 * i for i, key in enumerate(columns)} | {columns[0]: IDS}
    pd.DataFrame(values).to_csv(folder / name, sep="\t", index=False)
    cells, said = read(folder / name)
    assert_holds(cells, values[columns[counts]][None], ["s.genes" if "genes" in name else "patient7"], IDS)
    assert f"the counts are '{columns[counts]}'" in said


def test_htseq_and_star_without_a_header(tmp_path):
    counts = np.arange(100, 110)[None]
    lines = "".join(f"{name}\t{n}\n" for name, n in zip(IDS, counts[0], strict=True))
    (tmp_path / "sampleA.txt").write_text(lines + "__no_feature\t5\n__ambiguous\t1\n")
    cells, said = read(tmp_path / "sampleA.txt")
    assert_holds(cells, counts, ["sampleA"], IDS)
    assert "'__no_feature', '__ambiguous'" in said
    star = "".join(f"N_{name}\t9\t9\t9\n" for name in ("unmapped", "multimapping", "noFeature", "ambiguous"))
    star += "".join(f"{name}\t{n}\t0\t{n}\n" for name, n in zip(IDS, counts[0], strict=True))
    (tmp_path / "s.ReadsPerGene.out.tab").write_text(star)
    cells, said = read(tmp_path / "s.ReadsPerGene.out.tab")
    assert_holds(cells, counts, ["s.ReadsPerGene.out"], IDS)
    assert "'unstranded'" in said


def test_numbers_in_the_first_row_are_refused_if_they_may_be_names(tmp_path):
    (tmp_path / "a.tsv").write_text("foo\t17\t25\nbar\t1\t2\nbaz\t3\t4\n")
    with pytest.raises(ValueError, match=r"names of its columns.*got numbers: '17', '25'.*'gene'"):
        vx.read(tmp_path / "a.tsv")
    TABLE.T.set_axis(["17", "25", "31", "8"], axis=1).rename_axis("gene").to_csv(tmp_path / "b.csv")
    assert_holds(read(tmp_path / "b.csv")[0], samples=["17", "25", "31", "8"])


# ---- dialects


def test_lines_before_the_names(tmp_path):
    head = "gene\t" + "\t".join(SAMPLES) + "\n"
    starts = ("# one\n# two\n", "####\n## Panel\n## a, b\n####\n", "\n\n", "% x\n#\n")
    for i, start in enumerate(starts):
        (tmp_path / f"{i}.tsv").write_text(start + head + rows("\t"))
        assert_holds(read(tmp_path / f"{i}.tsv")[0])
    (tmp_path / "excel.csv").write_text("sep=;\n" + head.replace("\t", ";") + rows(";"))
    assert_holds(read(tmp_path / "excel.csv")[0])


def test_spaces_after_separators_are_no_part_of_names(tmp_path):
    (tmp_path / "a.csv").write_text("gene, S1, S2\nACTB, 1, 2\nLYZ, 3, 4\n")
    assert_holds(read(tmp_path / "a.csv")[0], [[1, 3], [2, 4]], ["S1", "S2"], ["ACTB", "LYZ"])


def test_a_series_matrix_of_geo(tmp_path):
    head = '!Series_title\t"x"\n!Sample_title\t"a"\n\n!series_matrix_table_begin\n"ID_REF"\t"S1"\t"S2"\t"S3"\t"S4"\n'
    (tmp_path / "a.txt").write_text(head + rows("\t") + "!series_matrix_table_end\n")
    assert_holds(read(tmp_path / "a.txt")[0])


@pytest.mark.parametrize("separator", ["\t", ";"])
def test_decimal_commas(tmp_path, separator):
    values = COUNTS + np.array([0.25, 0.5, 0, 0])[:, None]  # in two samples only
    head = separator.join(["gene", *SAMPLES]) + "\n"

    def number(value):
        return f"{value:g}".replace(".", ",")

    (tmp_path / "a.csv").write_text(head + rows(separator, values, number))
    assert_holds(read(tmp_path / "a.csv")[0], values)
    (tmp_path / "b.csv").write_text(head + rows(separator, values, "{:g}".format))
    assert_holds(read(tmp_path / "b.csv")[0], values)


def test_thousands_separators(tmp_path):
    head = "\t".join(["gene", *SAMPLES]) + "\n"
    values = COUNTS * 1000 + 1_234_567
    (tmp_path / "a.tsv").write_text(head + rows("\t", values, "{:,}".format))
    assert_holds(read(tmp_path / "a.tsv")[0], values)
    (tmp_path / "b.tsv").write_text(head + rows("\t", COUNTS + 1234, "{:,}".format))
    with pytest.raises(ValueError, match=r"'1,2\d\d' can be 12\d\d or 1\.2\d\d\. Save it"):
        vx.read(tmp_path / "b.tsv")
    mixed = (head + rows("\t", COUNTS + 0.5)).replace("\t", "\t1,5\t", 1).replace("gene\t1,5", "gene\tS0")
    mixed = "".join(
        line if i == 0 else line.replace("\t", "\t1,5\t", 1) for i, line in enumerate(mixed.splitlines(True))
    )
    (tmp_path / "c.tsv").write_text(mixed)
    with pytest.raises(ValueError, match=r"one decimal mark.*'1,5', and with points"):
        vx.read(tmp_path / "c.tsv")


@pytest.mark.parametrize("module", [gzip, bz2, lzma])
@pytest.mark.parametrize("name", ["a.csv", "a.csv.gz", "a.csv.bz2", "a.csv.xz"])
def test_compression_is_recognised_by_content(tmp_path, module, name):
    (tmp_path / name).write_bytes(module.compress(TABLE.to_csv().encode()))
    assert_holds(read(tmp_path / name)[0])
    (tmp_path / name).write_bytes(TABLE.to_csv().encode("utf-16"))
    assert_holds(read(tmp_path / name)[0])


# ---- annotation of cells


BARCODES = ["ACGTACGTACGTAAAA-1", "ACGTACGTACGTCCCC-1", "ACGTACGTACGTGGGG-1", "ACGTACGTACGTTTTT-1"]
LABELS = ["A", "B", "A", "B"]


@pytest.mark.parametrize(
    "respell",
    [str, lambda name: name[:-2], lambda name: name.replace("-", "."), lambda name: f"run1_{name}"],
    ids=["same", "without -1", "dots of R", "prefix"],
)
@pytest.mark.parametrize("form", ["index", "row numbers first", "last column", "shifted header"])
def test_annotation_is_matched_by_name(tmp_path, respell, form):
    TABLE.set_axis(BARCODES).to_csv(tmp_path / "c.csv")
    table = pd.DataFrame({"type": LABELS}, index=list(map(respell, BARCODES))).iloc[[2, 0, 3, 1]]
    if form == "row numbers first":
        table.reset_index(names="barcode").to_csv(tmp_path / "m.csv")
    elif form == "last column":
        table.assign(barcode=table.index).to_csv(tmp_path / "m.csv", index=False)
    elif form == "shifted header":
        (tmp_path / "m.csv").write_text("type\n" + table.to_csv(header=False))
    else:
        table.to_csv(tmp_path / "m.csv")
    cells, said = read(tmp_path / "c.csv", obs=tmp_path / "m.csv")
    assert_holds(cells, samples=BARCODES)
    assert dict(cells.obs).keys() == {"type"}
    assert list(cells.obs["type"]) == LABELS
    assert ("names the cells otherwise" in said) == (respell is not str)


def test_cells_without_a_row_have_missing_values(tmp_path):
    TABLE.to_csv(tmp_path / "c.csv")
    pd.DataFrame({"type": ["A", "B"]}, index=["S3", "S1"]).to_csv(tmp_path / "m.csv")
    cells, said = read(tmp_path / "c.csv", obs=tmp_path / "m.csv")
    assert list(cells.obs["type"].fillna("-")) == ["B", "-", "A", "-"]
    assert "no row for 2 of 4 cells ('S2', 'S4')" in said
    pd.DataFrame({"type": ["A", "B"]}, index=["S3", "S3"]).to_csv(tmp_path / "m.csv")
    with pytest.raises(ValueError, match=r"repeated cell names: 'S3'"):
        vx.read(tmp_path / "c.csv", obs=tmp_path / "m.csv")
    pd.DataFrame({"type": LABELS}).to_csv(tmp_path / "m.csv", index=False)
    with pytest.raises(ValueError, match=r"no column has their names.*'type'.*'A', 'B', 'A'"):
        vx.read(tmp_path / "c.csv", obs=tmp_path / "m.csv", transpose=False)


# ---- missing values


@pytest.mark.parametrize("text", ["", "NA", "NaN", "nan", "<NA>", "None", "N/A", "null", "#N/A"])
def test_texts_for_missing_values_are_missing(tmp_path, text):
    TABLE.to_csv(tmp_path / "c.csv")
    (tmp_path / "m.csv").write_text(f"cell,type\nS1,A\nS2,{text}\nS3,B\nS4,{text}\n")
    cells, _ = read(tmp_path / "c.csv", obs=tmp_path / "m.csv")
    assert list(cells.obs["type"].isna()) == [False, True, False, True]


def of_all_kinds():
    """Annotation with a missing value in each column, and texts that look like missing values."""
    return pd.DataFrame(
        {
            "text": ["NA", None, "nan", "None", "", "'"],
            "level": pd.Categorical(["x", None, "y", "x", "x", "NA"]),
            "logical": pd.array([True, None, False, True, True, False], dtype="boolean"),
            "mixed": [True, None, False, True, True, False],
            "whole": pd.array([1, None, 3, 4, 5, 6], dtype="Int64"),
            "number": [0.5, np.nan, 1, 2, 3, 4],
            "day": pd.to_datetime(["2024-01-02", None, *["2024-03-04"] * 4]),
            "cell": list("abcdef"),
            "group": list("uvwxyz"),
        },
        index=[f"c{i}" for i in range(6)],
    )


@pytest.mark.filterwarnings("ignore:Writing zarr")
@pytest.mark.parametrize("suffix", [".csv", ".tsv.gz", ".mtx", ".h5ad", ".zarr", ".rds"])
def test_missing_values_and_texts_come_back(tmp_path, suffix):
    obs = of_all_kinds()
    cells = ad.AnnData(np.ones((6, 3), np.float32), obs=obs, var=pd.DataFrame(index=GENES[:3]))
    back = vx.read(vx.write(cells, tmp_path / f"a{suffix}"))
    pd.testing.assert_frame_equal(cells.obs, of_all_kinds())  # as it was
    assert list(back.obs) == list(obs)
    for key in obs:
        assert list(back.obs[key].isna()) == list(obs[key].isna()), key
    for key in ("text", "level", "cell", "group"):
        assert list(back.obs[key].dropna().astype(str)) == list(obs[key].dropna().astype(str))
    assert list(back.obs["day"].dropna().astype(str)) == ["2024-01-02", *["2024-03-04"] * 4]
    assert {str(value) for value in back.obs["logical"].dropna()} == {"True", "False"}


@pytest.mark.parametrize("suffix", [".csv", ".tsv.gz"])
def test_genes_with_names_of_annotation_come_back(tmp_path, suffix):
    names = ["pct_x", "leiden", "Length", "cell", "NA", "age", "n_counts", "start", "None", "group"]
    obs = pd.DataFrame({"cell": ["a", "b"] * 2, "type": LABELS}, index=SAMPLES)
    cells = ad.AnnData(COUNTS + 0.5, obs=obs, var=pd.DataFrame(index=names))
    cells.X[:, 1:] = COUNTS[:, 1:]  # one column has fractions
    back, said = read(vx.write(cells, tmp_path / f"a{suffix}"))
    assert_holds(back, cells.X, genes=names)
    assert list(back.obs["cell"]) == ["a", "b"] * 2
    assert said == ""
