"""What the recipe of generated cells says about them."""

import pytest

from vaexprs.comparison.provenance import has_dependent_cells


@pytest.mark.parametrize(
    ("recipe", "dependent"),
    [
        ({}, False),
        ({"seed": 0, "stratified": False}, False),
        ({"seed": 0, "stratified": True}, True),
        ({"interpolated": "[]"}, True),  # version 0.1 did not record it
        ({"interpolated": "[]", "stratified": False}, False),
        ({"transformed_to": "{}"}, False),
    ],
)
def test_cells_of_version_0_1_depend_on_each_other(recipe, dependent):
    assert has_dependent_cells(recipe) == dependent
