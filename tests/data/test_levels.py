"""Levels of any type: text, numbers, logical values and dates mean the same level if they are equal."""

import datetime

import numpy as np
import pandas as pd
import pytest

from vaexprs.data.levels import find_level, is_level, level_name, storable


@pytest.mark.parametrize(
    ("value", "levels", "level"),
    [
        (np.int64(1), ["0", "1"], "1"),
        (1.0, ["0", "1"], "1"),
        (0, ["0.0", "3.5"], "0.0"),
        (np.float32(0.1), ["0.0", "0.1"], "0.1"),
        ("0.10", ["0.0", "0.1"], "0.1"),
        (np.True_, ["False", "True"], "True"),
        ("TRUE", ["False", "True"], "True"),
        (False, ["FALSE", "TRUE"], "FALSE"),
        ("true", ["FALSE", "TRUE"], "TRUE"),
        (datetime.date(2024, 1, 2), ["2024-01-02", "2024-03-04"], "2024-01-02"),
        (np.datetime64("2024-01-02"), ["2024-01-02 00:00:00"], "2024-01-02 00:00:00"),
        (pd.Timestamp("2024-01-02"), ["2024-01-02"], "2024-01-02"),
        ("2024-01-02T00:00:00.000", ["2024-01-02"], "2024-01-02"),
        ("B cell", ["B cell"], "B cell"),
        (1, ["1", "1.0"], "1"),  # the text comes first
        (2, ["2.0", "2.00"], None),  # two levels mean it
        ("b cell", ["B cell"], None),
        (True, ["1", "0"], None),
        (np.nan, ["nan2", "a"], None),
        ("1_0", ["10"], None),
        ("01", ["1"], None),  # a name, such as that of a donor
        (1, ["01"], None),
        (None, ["a"], None),
        (True, ["T", "F"], "T"),
        (False, ["F", "M"], None),  # sexes
        ("true", ["T", "B"], None),  # cell types
        (True, ["TRUE", "FALSE", "unknown"], "TRUE"),
        (2**53 + 1, [str(2**53)], None),  # identifiers
        (2**53 + 1, [f"{2**53 + 1}"], f"{2**53 + 1}"),
        (1, ["1e0", "2"], "1e0"),
    ],
)
def test_a_value_means_a_level(value, levels, level):
    assert find_level(value, levels) == level


def test_names_of_levels():
    assert level_name(pd.Timestamp("2024-01-02")) == "2024-01-02"
    assert level_name(pd.Timestamp("2024-01-02 03:04")) == "2024-01-02 03:04:00"
    assert level_name(np.float32(0.1)) == "0.1"
    assert level_name(np.False_) == "False"
    assert level_name(b"B cell") == "B cell"


def test_storable_columns_keep_their_names():
    frame = pd.DataFrame({0: pd.to_datetime(["2024-01-02"] * 2), "a": [1, 2]})
    assert list(storable(frame).columns) == [0, "a"]
    assert list(storable(frame)[0]) == ["2024-01-02"] * 2
    assert frame[0].dtype.kind == "M"


def test_what_can_be_a_level():
    assert all(map(is_level, ["a", 1, 1.5, True, np.int8(1), np.bool_(True), np.datetime64("2024-01-02")]))
    assert not any(map(is_level, [None, ["a"], 1j, {"a": 1}]))
