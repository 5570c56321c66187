"""What is refused, and in what words, where no other test comes by."""

import anndata as ad
import h5py
import numpy as np
import pytest

import vaexprs as vx
from vaexprs.io.r import write_rds as rds


def test_folders_and_files_that_are_none(few, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"nowhere'"):
        vx.read(tmp_path / "nowhere")
    (tmp_path / "cells.csv").mkdir()
    with pytest.raises(ValueError, match=r"cells\.csv'.*folder.*matrix\.mtx"):
        vx.read(tmp_path / "cells.csv")
    few.write_h5ad(tmp_path / "few.h5ad")
    with pytest.raises(FileNotFoundError, match=r"none\.csv'"):
        vx.read(tmp_path / "few.h5ad", obs=tmp_path / "none.csv")


def test_h5_files_of_others(tmp_path):
    with h5py.File(tmp_path / "other.h5", "w") as file:
        file["table"] = np.ones(3)
    with pytest.raises(ValueError, match=r"other\.h5'.*CellRanger.*'table'"):
        vx.read(tmp_path / "other.h5")
    with h5py.File(tmp_path / "empty.h5", "w"):
        pass
    with pytest.raises(ValueError, match=r"empty\.h5'.*CellRanger"):
        vx.read(tmp_path / "empty.h5")
    with h5py.File(tmp_path / "two.h5", "w") as file:
        for genome in ("hg38", "mm10"):
            file[f"{genome}/barcodes"] = np.array([b"a"])
    with pytest.raises(ValueError, match=r"genomes.*'hg38', 'mm10'.*scanpy"):
        vx.read(tmp_path / "two.h5")


def test_10x_folders(few, tmp_path):
    vx.write(few, tmp_path / "few.mtx")
    (tmp_path / "few.mtx" / "barcodes.tsv.gz").unlink()
    (tmp_path / "few.mtx" / "barcodes.tsv").write_text("")
    with pytest.raises(ValueError, match=r"barcodes\.tsv'.*empty"):
        vx.read(tmp_path / "few.mtx")
    odd = few[:3].copy()
    odd.obs_names = ["a", "b\tc", "d"]
    with pytest.raises(ValueError, match=r"names.*empty.*tabs.*line breaks.*'b"):
        vx.write(odd, tmp_path / "odd.mtx")
    assert [path.name for path in tmp_path.iterdir()] == ["few.mtx"]


@pytest.mark.parametrize("suffix", [".csv", ".tsv.gz", ".mtx", ".rds"])
def test_cells_without_values_for_formats_that_need_them(few, tmp_path, suffix):
    bare = ad.AnnData(obs=few.obs, var=few.var, layers={"counts": few.X})
    form = suffix.removesuffix(".gz")
    with pytest.raises(
        ValueError,
        match=rf"values.*\{form}\S* file.*\bX\b",
    ):
        vx.write(bare, tmp_path / f"bare{suffix}")
    assert not any(tmp_path.iterdir())
    bare.X = bare.layers["counts"]
    vx.write(bare, tmp_path / f"whole{suffix}")
    del bare.X
    assert vx.read(vx.write(bare, tmp_path / "bare.h5ad")).X is None


def test_more_values_than_a_matrix_of_r_holds(few, tmp_path, monkeypatch):
    monkeypatch.setattr(rds, "MAX_VALUES", few.X.nnz - 1)  # rather than 2**31 values
    words = rf"\b{few.X.nnz - 1:,} values.*\b{few.X.nnz:,}\b"
    with pytest.raises(ValueError, match=words):
        vx.write(few, tmp_path / "few.rds")
    assert not any(tmp_path.iterdir())


def test_an_annotation_without_columns(few, tmp_path):
    few.write_h5ad(tmp_path / "few.h5ad")
    (tmp_path / "none.csv").write_text("\n")
    with pytest.raises(ValueError, match=r"none\.csv'.*\.csv: No columns to parse"):
        vx.read(tmp_path / "few.h5ad", obs=tmp_path / "none.csv")


def test_sets_of_counts_and_of_other_values(few):
    logs = few.copy()
    logs.X = logs.X.log1p() * 0.37
    made = few.copy()
    with pytest.raises(ValueError, match=r"generated counts"):
        vx.evaluate(made, logs, label_key="cell_type", layer="X")
