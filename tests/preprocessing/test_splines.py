"""Spline bases of continuous covariates, and the values that are refused."""

import numpy as np
import pandas as pd
import pytest

from vaexprs.preprocessing.conditions import Conditions, check_continuous_keys, column_of_numbers
from vaexprs.preprocessing.splines import Spline, choose_degrees

VALUES = np.random.default_rng(0).gamma(2, 10, 400)
NO_LEVELS = Conditions(None, {})


@pytest.mark.parametrize("degrees", [1, 2, 3, 4])
def test_basis_is_centred_and_uncorrelated_over_the_training_cells(degrees):
    spline = Spline.fit(VALUES, degrees)
    basis = spline.basis(VALUES)
    assert basis.shape == (400, degrees)
    assert basis.dtype == np.float32
    np.testing.assert_allclose(basis.mean(axis=0), 0, atol=1e-6)
    covariance = np.cov(basis.T, bias=True).reshape(degrees, degrees)
    assert (np.diag(covariance) <= 1 + 1e-5).all()
    np.testing.assert_allclose(covariance - np.diag(np.diag(covariance)), 0, atol=1e-5)
    assert np.diag(covariance)[0] == pytest.approx(1, abs=1e-5)


def test_one_degree_of_freedom_is_the_standardised_value():
    basis = Spline.fit(VALUES, 1).basis(VALUES)[:, 0]
    np.testing.assert_allclose(np.abs(basis), np.abs(VALUES - VALUES.mean()) / VALUES.std(), atol=1e-5)


@pytest.mark.parametrize("degrees", [1, 2, 3, 4])
def test_basis_is_smooth_and_linear_beyond_the_range(degrees):
    spline = Spline.fit(VALUES, degrees)
    for end, step in ((spline.low, -1.0), (spline.high, 1.0)):
        beyond = spline.basis(end + step * np.arange(5)).astype(float)
        np.testing.assert_allclose(np.diff(beyond, 2, axis=0), 0, atol=1e-5)
        inside = spline.basis([end, end - 1e-3 * step]).astype(float)
        np.testing.assert_allclose(
            (inside[0] - inside[1]) / 1e-3, beyond[1] - beyond[0], rtol=2e-2, atol=2e-3
        )


def test_a_spline_recovers_a_curve_that_a_line_does_not():
    curve = np.sin(VALUES / 10)
    error = []
    for degrees in (1, 4):
        basis = np.c_[np.ones(400), Spline.fit(VALUES, degrees).basis(VALUES)]
        error.append(np.var(curve - basis @ np.linalg.lstsq(basis, curve, rcond=None)[0]))
    assert error[1] < 0.2 * error[0]


def test_a_single_outlying_cell_does_not_inflate_the_basis():
    basis = Spline.fit(np.r_[np.repeat([1.0, 2.0, 3.0], 1000), 3.5], 3).basis([3.5])
    assert np.abs(basis).max() < 20


def test_saved_parameters_give_the_same_spline():
    spline = Spline.fit(VALUES, 3)
    assert Spline.from_dict(spline.to_dict()) == spline
    assert str(spline) == f"{VALUES.min():g} to {VALUES.max():g}, 3 degrees of freedom"
    assert str(Spline.fit(VALUES, 1)).endswith("linear")


@pytest.mark.parametrize(
    "damage",
    [{"knots": [1.0, 1.0]}, {"centre": [0.0]}, {"rotation": [[1.0], [np.nan]]}, {"knots": [], "centre": []}],
    ids=["knots", "centre", "nan", "empty"],
)
def test_damaged_parameters_are_refused(damage):
    with pytest.raises(ValueError, match="ascending knots"):
        Spline.from_dict(Spline.fit(VALUES, 1).to_dict() | damage)


def responses(curve, seed=1):
    values = np.random.default_rng(seed).standard_normal((len(curve), 300))
    values[:, :5] += curve[:, None]
    return values


@pytest.mark.parametrize(
    ("curve", "expected"),
    [(lambda t: 0 * t, {1}), (lambda t: t, {1}), (lambda t: 2 * np.cos(2 * np.pi * t), {2, 3, 4})],
    ids=["none", "line", "wave"],
)
def test_degrees_of_freedom_are_chosen_from_the_responses(curve, expected):
    t = np.random.default_rng(2).random(400)
    assert choose_degrees(t, responses(curve(t)), [np.arange(400)]) in expected


def test_cells_of_one_donor_are_one_observation():
    """Donors differ by more than age: with one observation per cell the differences would look like curves."""
    rng = np.random.default_rng(3)
    age, donor = np.arange(30.0, 42.0), np.repeat(np.arange(12), 50)
    differences = rng.standard_normal((12, 100))
    assert (
        choose_degrees(age[donor], differences[donor] + rng.standard_normal((600, 100)), [np.arange(600)])
        == 1
    )


def test_a_few_doses_can_have_a_curve():
    dose = np.tile([0.0, 1.0, 10.0], 100)
    assert choose_degrees(dose, responses(2.0 * (dose == 1), seed=2), [np.arange(300)]) == 2
    assert choose_degrees(dose, responses(dose / 5, seed=2), [np.arange(300)]) == 1


def test_conditions_code_levels_and_numbers():
    splines = {"age": Spline.fit(VALUES, 2), "dose": Spline.fit(VALUES, 1)}
    conditions = Conditions("type", {"type": ("B", "T")}, splines)
    frame = pd.DataFrame({"type": ["T", "B"], "age": [10.0, 20.0], "dose": [1.0, 2.0]})
    assert (conditions.n_levels, conditions.n_basis, conditions.width) == (2, 3, 5)
    assert conditions.all_keys == ["type", "age", "dose"]
    code = conditions.code(frame)
    np.testing.assert_array_equal(code[:, :2], [[0, 1], [1, 0]])
    np.testing.assert_array_equal(code[:, 2:4], splines["age"].basis([10, 20]))
    np.testing.assert_array_equal(code[:, 4:], splines["dose"].basis([1, 2]))
    np.testing.assert_array_equal(conditions.codes(frame).take(np.array([1]))[:], code[1:])
    assert not conditions.expand(conditions.columns(frame))[:, 2:].any()
    np.testing.assert_array_equal(conditions.one_hot(frame), code[:, :2])


@pytest.mark.parametrize(
    "column",
    [
        pd.Series([30, 41, 52]),
        pd.Series(["30", " 41", "52.0"]),
        pd.Series(["30", "41", "52"], dtype="category"),
        pd.Series([30, 41, 52], dtype="Int64"),
        pd.Series([30, 41, 52], dtype="category"),
        pd.Series([30.0, "41", 52], dtype=object),
    ],
    ids=["int", "text", "categories", "nullable", "numeric categories", "mixed"],
)
def test_numbers_are_read_from_columns_of_any_type(column):
    numbers = column_of_numbers(pd.DataFrame({"age": column}), "age")
    assert numbers.dtype == np.float64
    assert numbers.tolist() == [30, 41, 52]
    assert column_of_numbers(pd.DataFrame({"x": [True, False]}), "x").tolist() == [1, 0]


@pytest.mark.parametrize(
    ("column", "said"),
    [
        ([30.0, np.nan, 50.0], "'age' must have a value in every cell, got 1 missing"),
        ([30.0, np.inf, 50.0], "'age' must be a finite number in every cell, got inf in cell '1'"),
        (["30", "old", "50"], "got 'old' in cell '1'.*covariate_keys=\\['age'\\]"),
        (pd.to_datetime(["2020-01-01", "2021-01-01", "2022-01-01"]), "must be a column of numbers"),
        ([1j, 2j, 3j], "must be a column of numbers"),
        ([30, 30, 30], "at least 3 distinct values to be continuous, got 30. Use covariate_keys=\\['age'\\]"),
        ([0, 1, 1], "at least 3 distinct values to be continuous, got 0 and 1"),
    ],
    ids=["missing", "infinite", "text", "dates", "complex", "constant", "two"],
)
def test_columns_that_are_no_continuous_covariate_are_refused(column, said):
    obs = pd.DataFrame({"age": column}, index=["0", "1", "2"])
    with pytest.raises(ValueError, match=said):
        check_continuous_keys(obs, ["age"], NO_LEVELS)


def test_keys_are_refused():
    obs = pd.DataFrame({"age": [1, 2, 3], "type": ["B", "T", "T"]})
    known = Conditions("type", {"type": ("B", "T")})
    with pytest.raises(ValueError, match="continuous_keys must be a column of obs.*Did you mean 'age'"):
        check_continuous_keys(obs, ["Age"], known)
    with pytest.raises(ValueError, match="each column once, got 'age' twice"):
        check_continuous_keys(obs, ["age", "age"], known)
    with pytest.raises(ValueError, match="'type' cannot be in both label_key and continuous_keys"):
        check_continuous_keys(obs, ["type"], known)
    with pytest.raises(TypeError, match="continuous_keys must be a list"):
        check_continuous_keys(obs, 3, known)
    with pytest.raises(TypeError, match="continuous_keys must name columns"):
        check_continuous_keys(obs, [3], known)
    assert list(check_continuous_keys(obs, "age", known)) == ["age"]


@pytest.mark.parametrize("value", [40, 40.0, np.float32(40), np.int64(40), "40", " 4e1"])
def test_requested_numbers_of_any_type_are_equal(value):
    assert Conditions(None, {}, {"age": Spline.fit(VALUES, 1)}).check_any("age", value) == 40.0


@pytest.mark.parametrize("value", ["old", None, np.nan, "inf", [40], 4 + 2j, np.datetime64("2020-01-01")])
def test_requested_values_that_are_no_numbers_are_refused(value):
    with pytest.raises(
        ValueError, match="age must be a finite number, got .*Try a value of the training cells"
    ):
        Conditions(None, {}, {"age": Spline.fit(VALUES, 1)}).check_any("age", value)
