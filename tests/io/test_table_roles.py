"""Rows and columns of tables: which name, annotate or sum up the others, and which are genes and cells."""

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from test_table_dialects import COUNTS, GENES, IDS, SAMPLES, TABLE, assert_holds, read

import vaexprs as vx
from vaexprs.data.matrix import densify

FLY = ["ara", "bab1", "cic", "dpp", "eve", "ftz", "grk", "hh", "inv", "jing"]


def write(path, frame, **settings):
    frame.to_csv(path, **settings)
    return path


# ---- names of rows


def test_names_of_columns_that_r_makes_up_name_no_rows(tmp_path):
    values = np.random.default_rng(0).normal(5, 2, (6, 5)).round(3)
    frame = pd.DataFrame(values, columns=[f"V{i + 1}" for i in range(5)])
    cells, said = read(write(tmp_path / "a.csv", frame, index=False))
    assert_holds(cells, values, [f"cell{i + 1}" for i in range(6)], frame.columns)
    assert "no column names the rows" in said
    frame["V1"] = [7, 3, 9, 12, 0, 4]  # identifiers, or counts
    with pytest.raises(ValueError, match="'V1' may be names or values"):
        vx.read(write(tmp_path / "b.csv", frame, index=False))
    frame["V1"] = range(1, 7)
    cells, _ = read(write(tmp_path / "c.csv", frame, index=False), transpose=False)
    assert_holds(cells, values[:, 1:], list("123456"), frame.columns[1:])


@pytest.mark.parametrize("name", ["sample", "donor_id", "cell"])
def test_samples_that_repeat_are_no_names_of_cells(tmp_path, name):
    samples = ["s1", "s1", "s2", "s2"]
    frame = TABLE.reset_index(drop=True)
    frame.insert(0, name, samples)
    cells, _ = read(write(tmp_path / "a.csv", frame, index=False))
    assert_holds(cells, samples=["cell1", "cell2", "cell3", "cell4"])
    assert list(cells.obs[name]) == samples
    frame.insert(1, "barcode", SAMPLES)
    cells, _ = read(write(tmp_path / "b.csv", frame, index=False))
    assert_holds(cells)
    assert list(cells.obs[name]) == samples


def test_barcodes_that_repeat_name_the_cells(tmp_path):
    barcodes = [f"{part}-1" for part in ("ACGTACGTACGTACGT", "TTGTACGTACGTACGT")] * 2
    frame = TABLE.set_axis(pd.Index(barcodes, name="barcode"))
    cells, said = read(write(tmp_path / "a.csv", frame))
    assert list(cells.obs_names) == [*barcodes[:2], f"{barcodes[0]}-1", f"{barcodes[1]}-1"]
    assert "more than once" in said


def test_numbers_as_names_of_columns_are_no_first_row(tmp_path):
    frame = pd.DataFrame(COUNTS.T, FLY, ["1.1", "1.2", "2.1", "2.2"])
    cells, _ = read(write(tmp_path / "a.csv", frame, index_label="Locus"))
    assert_holds(cells, samples=frame.columns, genes=FLY)
    for columns in (frame.columns, ["1001"]):
        with pytest.raises(ValueError, match=r"names of its columns in the first row, got numbers: '1"):
            vx.read(
                write(
                    tmp_path / "b.csv",
                    frame.iloc[:, : len(columns)].set_axis(columns, axis=1),
                    index_label="Mark",
                )
            )
    (tmp_path / "c.txt").write_text("".join(f"{gene}\t{i}\n" for i, gene in enumerate(FLY)))
    cells, said = read(tmp_path / "c.txt")
    assert_holds(cells, [list(range(10))], ["c"], FLY)
    assert "'c.txt' has no names of columns: its first row, 'ara'" in said


def test_names_that_are_empty_are_said(tmp_path):
    frame = pd.DataFrame(COUNTS.T, ["", *GENES[1:]], ["S1", "", "S3", "S4"])
    cells, said = read(write(tmp_path / "a.csv", frame, index_label="gene"))
    assert_holds(cells, samples=frame.columns, genes=frame.index)
    assert "has 1 genes with an empty name" in said
    assert "has 1 cells with an empty name" in said


def test_dates_for_names_of_genes_are_said(tmp_path):
    dates = ["1-Mar", "Sep-07", "2023-03-01", "03/02/2023", "2001-12-01 00:00:00"]
    frame = pd.DataFrame(COUNTS.T, [*dates, *GENES[5:]], SAMPLES)
    _, said = read(write(tmp_path / "a.csv", frame, index_label="gene"))
    assert "converted gene names to dates: '1-Mar', 'Sep-07', '2023-03-01', '03/02/2023'" in said


# ---- columns of numbers


def test_estimated_counts_are_genes(tmp_path):
    """Counts that an EM algorithm divides between genes are fractions in a few genes only."""
    frame = TABLE.astype(float)
    frame.loc["S2", "LYZ"] += 0.5
    cells, _ = read(
        write(tmp_path / "a.csv", frame.assign(myscore=[0.1, -0.3, 0.45, 0.2]), index_label="cell")
    )
    assert_holds(cells, frame.to_numpy())
    assert list(cells.obs) == ["myscore"]
    frame["ACTB"] += 0.25  # a gene by its name, and one between genes
    frame["CD3D"] += 0.25
    cells, _ = read(
        write(tmp_path / "b.csv", frame.iloc[:, :3].join(TABLE.add_prefix("x")), index_label="cell")
    )
    assert list(cells.obs) == []


def test_identifiers_of_genes_are_no_samples(tmp_path):
    frame = pd.DataFrame(COUNTS.T, columns=SAMPLES)
    frame.insert(0, "Symbol", GENES)
    frame.insert(1, "GeneID", range(100, 110))
    cells, _ = read(write(tmp_path / "a.csv", frame))
    assert_holds(cells)
    assert list(cells.var["GeneID"]) == [str(i) for i in range(100, 110)]


def test_a_table_of_the_genomic_data_commons(tmp_path):
    names = (
        "gene_id gene_name gene_type unstranded stranded_first stranded_second tpm_unstranded fpkm_unstranded"
    )
    unassigned = [[name, "", "", 5, 6, 7, "", ""] for name in ("N_unmapped", "N_multimapping", "N_noFeature")]
    genes = [
        [IDS[i], GENES[i], "protein_coding", n, 1, 2, 0.5, 0.7] for i, n in enumerate(COUNTS[0].tolist())
    ]
    frame = pd.DataFrame([*unassigned, *genes], columns=names.split())
    (tmp_path / "a.tsv").write_text("# gene-model: GENCODE v36\n" + frame.to_csv(sep="\t", index=False))
    cells, said = read(tmp_path / "a.tsv")
    assert_holds(cells, COUNTS[:1], ["a"], IDS)
    assert "the counts are 'unstranded'" in said
    assert list(cells.var["gene_name"]) == GENES


def test_measures_are_no_samples(tmp_path):
    frame = pd.DataFrame({"Gene ID": IDS, "Start": 1, "Coverage": 0.5, "FPKM": 1.5, "TPM": 2.5})
    with pytest.raises(ValueError, match="measures of one sample only: 'Coverage', 'FPKM', 'TPM'"):
        vx.read(write(tmp_path / "a.tab", frame, sep="\t", index=False))
    parts = [TABLE.T.add_prefix(f"{part}.") for part in ("abundance", "counts", "length")]
    frame = pd.concat(parts, axis=1).assign(countsFromAbundance="no")
    with pytest.raises(ValueError, match="got 'abundance', 'counts', 'length' of each sample, as tximport"):
        vx.read(write(tmp_path / "b.csv", frame))


def test_tables_with_a_row_for_each_gene_and_cell_are_refused(tmp_path):
    (tmp_path / "a.tsv").write_text("gene\tcell\tcount\nACTB\tAAA\t1\nGAPDH\tAAA\t2\nACTB\tCCC\t3\n")
    with pytest.raises(
        ValueError, match=r"got a row for each 'gene' and 'cell'.*pivot_table\(frame, 'count', 'cell'"
    ):
        vx.read(tmp_path / "a.tsv")
    frame = TABLE[["ACTB"]].assign(cell_type=["T", "B", "T", "B"])  # cells with one gene
    assert read(write(tmp_path / "b.csv", frame, index_label="cell"))[0].shape == (4, 1)


@pytest.mark.parametrize("name", ["Total", "sum", "Mean", "average"])
def test_sums_and_means_are_dropped(tmp_path, name):
    frame = TABLE.T.astype(float)
    values = frame.agg("sum" if name in ("Total", "sum") else "mean")
    frame.loc[name] = values
    cells, said = read(write(tmp_path / "a.csv", frame, index_label="gene"))
    assert_holds(cells)
    assert f"dropped {name!r}, which holds the sum or the mean of all other genes" in said
    frame = TABLE.T.astype(float)
    frame[name] = frame.agg("sum" if name in ("Total", "sum") else "mean", axis=1).round(4)
    cells, said = read(write(tmp_path / "b.csv", frame, index_label="gene"))
    assert_holds(cells)
    assert f"dropped {name!r}, which holds the sum or the mean of all other cells" in said
    frame[name] = frame["S1"]  # a sample of this name
    cells, _ = read(write(tmp_path / "c.csv", frame, index_label="gene"))
    assert list(cells.obs_names) == [*SAMPLES, name]


def test_values_that_differ_only_in_spaces_are_said(tmp_path):
    frame = TABLE.assign(cell_type=["T", "B", "T ", "NK "])
    cells, said = read(write(tmp_path / "a.csv", frame, index_label="cell"))
    assert list(cells.obs["cell_type"]) == ["T", "B", "T ", "NK "]
    assert "values of column 'cell_type' differ only in spaces: 'T', 'T '" in said
    write(tmp_path / "b.csv", TABLE, index_label="cell")
    _, said = read(tmp_path / "b.csv", obs=write(tmp_path / "c.csv", frame[["cell_type"]]))
    assert "'c.csv': values of column 'cell_type' differ only in spaces" in said


@pytest.mark.parametrize("suffix", [".csv", ".rds"])
def test_integers_with_missing_values_come_back(tmp_path, suffix):
    pytest.importorskip("rdata")
    obs = pd.DataFrame({"n": pd.array([1, None, 3, 2**30], "Int64")}, SAMPLES)
    vx.write(ad.AnnData(COUNTS.astype(np.float32), obs, pd.DataFrame(index=GENES)), tmp_path / f"a{suffix}")
    found = vx.read(tmp_path / f"a{suffix}").obs["n"]
    assert list(found.isna()) == [False, True, False, False]
    assert list(found.dropna().astype(str)) == ["1", "3", str(2**30)]


# ---- rows that are no genes


def test_rows_that_label_the_cells_become_columns(tmp_path):
    frame = TABLE.T.copy()
    labels = pd.DataFrame(
        [[1, 1, 2, 2], [0, 2, 1, 0]], ["tumor", "malignant (1=no, 2=yes, 0=unresolved)"], SAMPLES
    )
    cells, said = read(write(tmp_path / "a.txt", pd.concat([labels, frame]), sep="\t", index_label="Cell"))
    assert_holds(cells)
    assert list(cells.obs["tumor"]) == ["1", "1", "2", "2"]
    assert list(cells.obs[labels.index[1]]) == ["0", "2", "1", "0"]
    assert "the first rows, 'tumor', 'malignant (1=no, 2=yes, 0=unresolved)', label the cells" in said
    cells, _ = read(write(tmp_path / "b.csv", pd.concat([labels.iloc[:1].set_axis(["batch"]), frame])))
    assert_holds(cells)
    assert list(cells.obs["batch"]) == ["1", "1", "2", "2"]
    frame = pd.DataFrame(COUNTS.T, ["HLA A", "HLA B", *FLY[2:]], SAMPLES)
    assert list(read(write(tmp_path / "d.csv", frame, index_label="gene"))[0].obs) == []
    # genes of such names among others, and names of several words everywhere, are genes
    for names in (["ara", "age", *GENES[2:]], [f"probe {i} of 10" for i in range(10)] + ["ACTB x"] * 10):
        frame = pd.DataFrame(np.resize(COUNTS.T, (len(names), 4)), names, SAMPLES)
        cells, _ = read(write(tmp_path / "c.csv", frame, index_label="gene"))
        assert list(cells.obs) == []
        assert cells.n_vars == len(names)


def test_text_below_the_names_is_refused_with_a_way_out(tmp_path):
    frame = pd.concat([pd.DataFrame([["ctrl"] * 4], ["condition"], SAMPLES), TABLE.T])
    with pytest.raises(
        ValueError, match=r"got 'ctrl' in row 'condition'.*move it to a table of their annotation"
    ):
        vx.read(write(tmp_path / "a.csv", frame))


def test_rows_of_separators_are_dropped(tmp_path):
    text = TABLE.T.to_csv(index_label="gene")
    lines = text.splitlines()
    (tmp_path / "a.csv").write_text("\n".join([*lines[:4], ",,,,", *lines[4:], ",,,,", ",,,,"]) + "\n")
    cells, _ = read(tmp_path / "a.csv")
    assert_holds(cells)


@pytest.mark.parametrize("title", ["Table S3. Counts", "Table S3. Counts,,,,"])
def test_titles_above_the_names_are_refused(tmp_path, title):
    (tmp_path / "a.csv").write_text(f"{title}\n" + TABLE.T.to_csv(index_label="gene"))
    with pytest.raises(
        ValueError, match=r"a line with one text, 'Table S3\. Counts'\. Delete the lines above"
    ):
        vx.read(tmp_path / "a.csv")


def test_separators_at_the_ends_of_rows_after_an_unknown_name(tmp_path):
    names, *lines = TABLE.T.to_csv(index_label="Mark", sep="\t").splitlines()
    (tmp_path / "a.tsv").write_text("\n".join([names, *(f"{line}\t" for line in lines)]) + "\n")
    cells, _ = read(tmp_path / "a.tsv")
    assert_holds(cells)


def test_rows_with_more_fields_than_names_are_refused(tmp_path):
    (tmp_path / "a.csv").write_text(
        "# made by hand\n" + TABLE.T.to_csv(index_label="gene") + "ZZZ3,1,2,3,4,5,6\n"
    )
    with pytest.raises(ValueError, match=r"a\.csv' must have 5 fields in each row, got 7 in line 13\."):
        vx.read(tmp_path / "a.csv")


def test_files_that_are_not_what_they_declare(tmp_path):
    frame = TABLE.T.assign(Description="na")[["Description", *SAMPLES]]
    text = frame.to_csv(sep="\t", index_label="NAME")
    (tmp_path / "a.gct").write_text("#1.2\n12\t4\n" + text)
    with pytest.raises(ValueError, match="declares 12 rows, but contains 10"):
        vx.read(tmp_path / "a.gct")
    (tmp_path / "a.gct").write_text("#1.2\n10\t4\n" + text)
    assert densify(read(tmp_path / "a.gct")[0].X).sum() == COUNTS.sum()
    (tmp_path / "a.csv").write_bytes(text.encode("utf-16-le"))
    with pytest.raises(ValueError, match="got NUL characters, as in UTF-16 without a byte order mark"):
        vx.read(tmp_path / "a.csv")
