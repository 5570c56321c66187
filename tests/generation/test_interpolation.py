"""interpolate: generate cells between two labels."""

import numpy as np
import pytest
import scipy.sparse as sp

import vaexprs as vx
from vaexprs.data.matrix import log_normalised


@pytest.fixture(scope="module")
def way(conditional):
    return vx.interpolate(conditional, "CD34+", "CD19+ B", 1_100, progress=False)


def test_positions_are_even_and_there_is_no_label(way):
    assert way.obs["position"].value_counts(sort=False).to_dict() == {i / 10: 100 for i in range(11)}
    assert list(way.obs) == ["position", "phase"]
    assert way.uns["vaexprs"]["interpolated"] == '["CD34+", "CD19+ B"]'
    assert np.array_equal(way.X.data, np.round(way.X.data))


def test_the_path_leads_from_start_to_end(way, cells):
    """The distance to the mean of the first label grows from step to step, that to the second shrinks."""
    real, made = (log_normalised(sp.csr_matrix(a.X)).toarray() for a in (cells, way))
    steps = np.stack([made[way.obs["position"] == t].mean(axis=0) for t in way.obs["position"].unique()])
    first, last = (real[cells.obs["cell_type"] == name].mean(axis=0) for name in ("CD34+", "CD19+ B"))
    away = np.linalg.norm(steps - first, axis=1)
    near = np.linalg.norm(steps - last, axis=1)
    assert (np.diff(away) > -0.15).all()
    assert (np.diff(near) < 0.15).all()
    between = np.linalg.norm(first - last)
    assert away[0] < 0.3 * between
    assert near[-1] < 0.3 * between
    assert 0.3 * between < away[5] < 0.9 * between


def test_library_sizes_at_the_ends_are_like_the_real_ones(way, cells):
    totals = np.asarray(way.X.sum(axis=1)).ravel()
    real = np.asarray(cells.X.sum(axis=1)).ravel()
    for t, name in ((0.0, "CD34+"), (1.0, "CD19+ B")):
        mine = np.log(totals[way.obs["position"] == t]).mean()
        assert mine == pytest.approx(np.log(real[cells.obs["cell_type"] == name]).mean(), abs=0.15)


def test_covariates_and_numbers_asked_for(conditional):
    made = vx.interpolate(
        conditional, "CD34+", "CD56+ NK", 7, steps=3, covariates={"phase": "S"}, library_size=900
    )
    assert made.obs["position"].tolist() == [0.0] * 3 + [0.5] * 2 + [1.0] * 2
    assert set(made.obs["phase"]) == {"S"}
    assert 600 < made.X.sum(axis=1).mean() < 1_200
    again = vx.interpolate(
        conditional, "CD34+", "CD56+ NK", 7, steps=3, covariates={"phase": "S"}, library_size=900
    )
    assert (again.X != made.X).nnz == 0


def test_values_that_are_not_counts(few):
    logs = few.copy()
    logs.X = logs.X.log1p()
    fit = vx.fit_vae(logs, label_key="cell_type", likelihood="gaussian", epochs=2, verbose=0)
    made = vx.interpolate(fit, "CD19+ B", "Dendritic", 20)
    assert made.shape == (20, 50)
    assert np.isfinite(made.X).all()


@pytest.mark.parametrize(
    ("args", "kwargs", "error", "words"),
    [
        (("CD34+", "NK", 5), {}, ValueError, r"cell_type.*'NK'.*'CD56\+ NK'"),
        (("CD34+", "CD34+", 5), {}, ValueError, r"labels.*'CD34\+'"),
        (("CD34+", "CD19+ B", 0), {}, ValueError, r"num_samples.*\b1\b.*\b0\b"),
        (("CD34+", "CD19+ B", 5), {"steps": 1}, ValueError, r"steps.*\b2\b.*\b1\b"),
        (("CD34+", "CD19+ B", 5), {"covariates": {"fase": "S"}}, ValueError, r"'phase'"),
    ],
)
def test_invalid_arguments(conditional, args, kwargs, error, words):
    with pytest.raises(error, match=words):
        vx.interpolate(conditional, *args, **kwargs)


def test_a_fit_without_labels(few):
    fit = vx.fit_vae(few, epochs=1, verbose=0)
    with pytest.raises(ValueError, match=r"label_key"):
        vx.interpolate(fit, "a", "b", 5)
