"""Argument checks and the wording of their errors."""

import json

import numpy as np
import pytest

from vaexprs.interface.errors import reason, require
from vaexprs.interface.validation import check_choice, check_integer, check_real, did_you_mean, listed

# isort: split
import keras  # after vaexprs, which chooses its backend


@pytest.mark.parametrize(
    ("word", "nearest"), [("log1", "log1p"), ("MinMax", "minmax"), ("cd4 t", "CD4 T"), ("non", "none")]
)
def test_nearest_option_is_suggested_as_it_is_spelled(word, nearest):
    assert did_you_mean(word, ["none", "log1p", "minmax", "CD4 T"]) == f" Did you mean {nearest!r}?"


def test_nothing_is_suggested_where_no_option_is_near():
    assert did_you_mean("zzz", ["none", "log1p"]) == ""
    assert did_you_mean("zzz", []) == ""
    assert did_you_mean(None, ["none", "NMF"]) == ""


def test_options_that_are_not_strings_are_suggested_too():
    assert did_you_mean(2021, [2020, 1066]) == " Did you mean '2020'?"


def test_five_items_are_shown_and_further_ones_counted():
    assert listed(list("abcde")) == "'a', 'b', 'c', 'd', 'e'"
    assert listed(list("abcdef")) == "'a', 'b', 'c', 'd', 'e' and 1 more"
    assert listed(range(2005)) == "'0', '1', '2', '3', '4' and 2,000 more"
    assert listed(list("abc"), 2) == "'a', 'b' and 1 more"
    assert listed([]) == ""


def test_reason_of_a_keras_error_is_its_informative_line():
    with pytest.raises(ValueError, match="The total size of the tensor must be unchanged") as caught:
        keras.layers.Reshape((7,))(np.ones((2, 5)))
    expected = "The total size of the tensor must be unchanged. Received: input_shape=(5,), target_shape=(7,)"
    assert reason(caught.value) == expected


def test_reason_is_the_first_line_or_else_the_class_of_the_error():
    assert reason(OSError("  \n file is cut \n somewhere")) == "file is cut"
    assert reason(OSError()) == "OSError"


def test_choice_is_returned():
    assert check_choice("kind", "log1p", ("none", "log1p")) == "log1p"


def test_wrong_choice_names_the_options_and_the_nearest():
    words = r"^kind .*'none', 'log1p'.*'log'.*'log1p'"
    with pytest.raises(ValueError, match=words):
        check_choice("kind", "log", ("none", "log1p"))


@pytest.mark.parametrize("value", [5, None, ["none"]])
def test_choice_of_another_type_is_refused_by_value(value):
    with pytest.raises(ValueError, match=r"^kind .*'none', 'log1p'") as caught:
        check_choice("kind", value, ("none", "log1p"))
    assert repr(value) in str(caught.value)


@pytest.mark.parametrize("value", [3, 3.0, np.int64(3), np.uint8(3), np.float32(3)])
def test_whole_number_of_any_type_becomes_an_int(value):
    checked = check_integer("epochs", value, 3)
    assert checked == 3
    assert type(checked) is int


@pytest.mark.parametrize(
    "value", [2.5, True, np.True_, "3", None, np.nan, np.inf, -np.inf, [3], np.array([3])]
)
def test_anything_but_a_whole_number_is_a_type_error(value):
    with pytest.raises(TypeError, match=r"^epochs .*whole number") as caught:
        check_integer("epochs", value, 1)
    assert repr(value) in str(caught.value)


def test_whole_number_below_the_minimum_is_refused_and_the_minimum_taken():
    assert check_integer("epochs", 1, 1) == 1
    with pytest.raises(ValueError, match=r"^epochs .*\b1\b.*\b0\b"):
        check_integer("epochs", 0, 1)


@pytest.mark.parametrize("value", [0.25, np.float32(0.25), np.float64(0.25)])
def test_real_number_of_any_type_becomes_a_float(value):
    checked = check_real("validation_split", value, 0, below=1)
    assert checked == 0.25
    assert type(checked) is float


@pytest.mark.parametrize("value", ["0.5", None, True, np.True_, 1j, [0.5]])
def test_anything_but_a_real_number_is_a_type_error(value):
    with pytest.raises(TypeError, match=r"^regularization .*number") as caught:
        check_real("regularization", value, 0)
    assert repr(value) in str(caught.value)


def test_real_minimum_is_taken_and_less_refused():
    assert check_real("regularization", 0, 0) == 0.0
    with pytest.raises(ValueError, match=r"^regularization .*\b0\b.*-0\.5\b"):
        check_real("regularization", -0.5, 0)


def test_real_upper_limit_is_refused_and_just_less_taken():
    just_less = float(np.nextafter(1, 0))
    assert check_real("validation_split", just_less, 0, below=1) == just_less
    with pytest.raises(ValueError, match=r"^validation_split .*\b0\b.*\b1\b.* 1\b"):
        check_real("validation_split", 1, 0, below=1)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_real_must_be_finite(value):
    with pytest.raises(ValueError, match=rf"^library_size .*{value}"):
        check_real("library_size", value, 0)


def test_infinite_real_is_refused_as_not_finite():
    with pytest.raises(ValueError, match="finite"):
        check_real("library_size", np.inf, 0)


def test_dependency_is_imported():
    assert require("json", "json", "Reading") is json


def test_missing_dependency_is_reported_with_the_pip_command():
    with pytest.raises(ImportError, match=r"no-such.*pip install no-such$") as caught:
        require("no_such_module", "no-such", "Drawing trees")
    assert isinstance(caught.value.__cause__, ModuleNotFoundError)


def test_a_warning_points_to_the_line_of_the_user():
    from sklearn.exceptions import ConvergenceWarning

    from vaexprs.mixture.gaussian_mixture import GaussianMixture

    values = np.random.default_rng(0).normal(size=(60, 2))
    with pytest.warns(ConvergenceWarning, match=r"max_iter.*\btol\b") as caught:
        GaussianMixture(3, max_iter=1, tol=0).fit(values)
    assert [warning.filename for warning in caught] == [__file__]
