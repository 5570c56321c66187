"""Columns and matrices of R objects: dates, factors with NA, integer64, repeated names, sums."""

import numpy as np
import pandas as pd
import pytest
from test_sources import put_r, r_frame, r_tree
from test_table_dialects import COUNTS, GENES, SAMPLES, assert_holds, read

import vaexprs as vx
from vaexprs.data.matrix import densify


def counts(samples=SAMPLES):
    return {name: COUNTS[i].astype(float) for i, name in enumerate(samples)}


def experiment(tree, columns):
    """Return a SummarizedExperiment of the counts with columns of colData."""
    matrix = tree.matrix(COUNTS.T.astype(float), GENES, SAMPLES)
    assays = tree.vector("SimpleList", "S4Vectors", listData=tree.items([matrix], ["counts"]))
    return tree.s4(
        "SummarizedExperiment",
        "SummarizedExperiment",
        colData=tree.frame(4, columns, SAMPLES),
        assays=tree.s4("SimpleAssays", "SummarizedExperiment", data=assays),
        NAMES=tree.strings(GENES),
        elementMetadata=tree.frame(10, {"symbol": tree.strings([gene.lower() for gene in GENES])}),
        metadata=tree.items([]),
    )


def of_class(tree, values, *kinds, **attributes):
    return tree.numbers(np.array(values), **{"class": tree.strings(list(kinds))}, **attributes)


def test_columns_of_an_experiment(tmp_path):
    tree = r_tree()
    columns = {
        "date": of_class(tree, [19724.0, 19725.5, np.nan, 2932896.0], "Date"),
        "day": of_class(tree, [0, 1, 2, 3], "Date"),
        "time": of_class(tree, [0.0, 1704189600.25, np.nan, -1.0], "POSIXct", "POSIXt"),
        "local": of_class(tree, [1704189600.0] * 4, "POSIXct", tzone=tree.strings(["Europe/Berlin"])),
        "level": tree.numbers(
            np.array([1, 2, 3, 1], np.int32),
            levels=tree.strings(["B", None, "T"]),
            **{"class": tree.strings(["factor"])},
        ),
        "big": of_class(tree, np.array([5, 2**40, -(2**63), 0]).view(float), "integer64"),
    }
    put_r(tmp_path / "a.rds", experiment(tree, columns))
    cells, _ = read(tmp_path / "a.rds")
    assert_holds(cells)
    dates = ["2024-01-02", "2024-01-03", "NaT", "9999-12-31"]
    assert list(cells.obs["date"].astype(str)) == dates
    assert list(cells.obs["day"].astype(str)) == ["1970-01-01", "1970-01-02", "1970-01-03", "1970-01-04"]
    times = ["1970-01-01", "2024-01-02 10:00:00.250", "1969-12-31 23:59:59"]
    assert list(cells.obs["time"].dropna()) == list(map(pd.Timestamp, times))
    assert list(cells.obs["time"].isna()) == [False, False, True, False]
    assert set(cells.obs["local"]) == {pd.Timestamp("2024-01-02 11:00")}
    assert list(cells.obs["level"].cat.categories) == ["B", "T"]
    assert list(cells.obs["level"].isna()) == [False, True, False, False]
    assert list(cells.obs["level"].dropna()) == ["B", "T", "B"]
    assert list(cells.obs["big"].dropna()) == [5, 2**40, 0]
    assert list(cells.obs["big"].isna()) == [False, False, True, False]
    assert list(cells.var["symbol"]) == [gene.lower() for gene in GENES]
    vx.write(cells, tmp_path / "a.h5ad")
    assert list(vx.read(tmp_path / "a.h5ad").obs["date"])[:2] == dates[:2]
    put_r(tmp_path / "b.rds", experiment(tree, {"date": of_class(tree, [1e300] * 4, "Date")}))
    with pytest.raises(ValueError, match=r"b\.rds'.*a date is 1e\+300 days from 1970"):
        vx.read(tmp_path / "b.rds")


def frame_of(tree, columns, names=GENES):
    """Return a data frame whose columns are R objects or arrays."""
    root = r_frame(tree, {key: [0.0] * len(names) for key in columns}, names)
    root.value[:] = [tree.numbers(v) if isinstance(v, np.ndarray) else v for v in columns.values()]
    return root


def renamed(tree, root, names):
    """Return a data frame with names of columns, which may repeat."""
    pair = root.attributes
    assert pair.tag.value.value == b"names"
    pair.value = (tree.strings(names), pair.value[1])
    return root


def test_columns_of_data_frames(tmp_path):
    tree = r_tree()
    put_r(tmp_path / "twice.rds", renamed(tree, frame_of(tree, counts()), ["S1", "S1", "S3", "S4"]))
    cells, said = read(tmp_path / "twice.rds")
    assert_holds(cells, samples=["S1", "S1-1", "S3", "S4"])
    assert "more than once ('S1')" in said
    columns = counts() | {"Length": np.arange(10.0) * 100, "Total": COUNTS.sum(axis=0).astype(float)}
    put_r(tmp_path / "length.rds", frame_of(tree, columns))
    cells, said = read(tmp_path / "length.rds")
    assert_holds(cells)
    assert list(cells.var) == ["Length"]
    assert "dropped 'Total'" in said
    big = {name: of_class(tree, v.astype(int).view(float), "integer64") for name, v in counts().items()}
    put_r(tmp_path / "big.rds", frame_of(tree, big))
    assert_holds(read(tmp_path / "big.rds")[0])
    put_r(tmp_path / "empty.rds", frame_of(tree, {}, []))
    with pytest.raises(ValueError, match="got a data frame of 0 rows and 0 columns"):
        vx.read(tmp_path / "empty.rds")
    put_r(tmp_path / "null.rds", frame_of(tree, counts() | {"list": tree.items([tree.strings(["a"])] * 10)}))
    cells, said = read(tmp_path / "null.rds")
    assert_holds(cells)
    assert "columns that are not vectors are not read: 'list'" in said


def test_row_names_are_names_of_rows(tmp_path):
    """Cells with dates and labels, whose names and genes tell nothing."""
    tree = r_tree()
    values = {name: COUNTS[:, i].astype(float) for i, name in enumerate(["ara", "bab1", "cic", "dpp"])}
    values |= {"when": of_class(tree, [19724.0] * 4, "Date")}
    put_r(tmp_path / "a.rds", frame_of(tree, values, SAMPLES))
    cells, said = read(tmp_path / "a.rds", transpose=False)
    assert_holds(cells, COUNTS[:, :4], genes=["ara", "bab1", "cic", "dpp"])
    assert list(cells.obs["when"]) == [pd.Timestamp("2024-01-02")] * 4
    put_r(tmp_path / "b.rds", frame_of(tree, counts(), [f"g{i}" for i in range(10)]))
    cells, said = read(tmp_path / "b.rds")
    assert_holds(cells, genes=[f"g{i}" for i in range(10)])
    assert "because this is usual in R" in said


def test_matrices_that_are_delayed_without_operations(tmp_path):
    tree = r_tree()
    seed = tree.matrix(COUNTS.T.astype(float), GENES, SAMPLES)
    put_r(tmp_path / "a.rds", tree.s4("DelayedMatrix", "DelayedArray", seed=seed))
    assert_holds(read(tmp_path / "a.rds")[0])
    operation = tree.s4("DelayedUnaryIsoOpWithArgs", "DelayedArray", seed=seed)
    put_r(tmp_path / "b.rds", tree.s4("DelayedMatrix", "DelayedArray", seed=operation))
    with pytest.raises(ValueError, match=r"got a 'DelayedMatrix'\. In R"):
        vx.read(tmp_path / "b.rds")
    cube = tree.numbers(np.arange(8.0), dim=tree.numbers([2, 2, 2]))
    put_r(tmp_path / "c.rds", cube)
    with pytest.raises(ValueError, match="got an array of 3 dimensions"):
        vx.read(tmp_path / "c.rds")
    assert densify(read(tmp_path / "a.rds")[0].X).sum() == COUNTS.sum()
