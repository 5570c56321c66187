"""Matching of levels and depth, and selection of generated cells."""

import re

import numpy as np
import pytest
import scipy.sparse as sp

import vaexprs as vx
from vaexprs.comparison import matching

DEPTH = ["library_size_ratio", "detected_genes_ratio", "forest_auc_genes"]


@pytest.fixture(scope="module")
def halves(cells):
    held = np.arange(cells.n_obs) % 2 == 0
    train = cells[~held].copy()
    fit = vx.fit_vae(train, label_key="cell_type", covariate_keys=["phase"], verbose=0)
    return fit, train, cells[held].copy()


@pytest.fixture(scope="module")
def deep(halves):
    """Monocytes of one phase with some four times the counts that real ones have."""
    asked = {"labels": "CD14+ Monocyte", "covariates": {"phase": "G1"}, "library_size": 4_000}
    return vx.gen_exprs(halves[0], 200, **asked, progress=False)


@pytest.mark.slow
def test_cells_asked_for_with_a_depth_are_judged_at_that_of_real_ones(halves, deep):
    _, train, real = halves
    table = vx.evaluate(deep, real, train=train, only=DEPTH, progress=False)
    found = table[table["label"] == "all"].set_index("metric")
    assert 0.8 < found.loc["library_size_ratio", "value"] < 1.25
    assert found.loc["forest_auc_genes", "value"] < 0.8  # told apart by nothing but their depth it was 1
    notes = " ".join(table.attrs["notes"])
    assert "phase G1" in notes
    assert "4,000 counts" in notes


@pytest.mark.slow
def test_depth_asked_for_is_no_sign_of_copying(halves, deep):
    _, train, real = halves
    audit = vx.audit_privacy(deep, train, real).set_index("metric")
    assert 0.8 < audit.loc["copy_ratio", "value"] < 1.2
    assert audit.loc["copy_ratio", "verdict"] != "fail"
    assert audit.loc["close_copies", "verdict"] != "fail"


def test_real_ones_are_thinned_where_they_are_deeper():
    rng = np.random.default_rng(0)
    raw = {name: sp.csr_matrix(rng.poisson(mean, (200, 50)).astype(np.float32)) for name, mean in
           (("generated", 2), ("real", 8))}  # fmt: skip
    obs = {name: vx.demo_cells().obs[:200] for name in raw}
    notes = []
    same = matching.at_equal_depth(raw, obs, {"library_size": 100.0}, notes)
    assert same["generated"] is raw["generated"]
    assert same["real"].sum() / raw["generated"].sum() == pytest.approx(1, abs=0.02)
    assert "real cells" in notes[0]
    for other in ("real", np.ones(3)):  # files may hold any value
        assert matching.at_equal_depth(raw, obs, {"library_size": other}, notes) is raw
    for other in ("{", "[1]", "", 5):
        assert matching.with_requested_levels({}, {"covariates": other}, notes) == {}


def test_too_few_real_ones_with_the_levels_are_told(halves):
    fit, _, real = halves
    rare = real[(real.obs["phase"] != "S") | (np.arange(real.n_obs) % 10 == 0)]
    made = vx.gen_exprs(fit, 100, covariates={"phase": "S"}, progress=False)
    table = vx.evaluate(made, rare, only=["gene_means"], progress=False)
    n = (rare.obs["phase"] == "S").sum()
    assert re.search(rf"phase S\b.*\b{n}\b", table.attrs["notes"][0])
    without = vx.evaluate(made, rare[:, :].copy(), label_key="cell_type", only=["gene_means"], progress=False)
    assert without.attrs["notes"] == table.attrs["notes"]
    real = real.copy()
    del real.obs["phase"]
    table = vx.evaluate(made, real, only=["gene_means"], progress=False)
    assert "real cells" in table.attrs["notes"][0]


def test_of_augmented_cells_the_generated_ones_are_judged(halves):
    fit, train, real = halves
    both = vx.augment(train, "cell_type", fit=fit, progress=False)
    table = vx.evaluate(both, real, only=["gene_means"], progress=False)
    assert re.search(r"\b1,170\b.*\b350\b.*real", table.attrs["notes"][0])
    assert "Dendritic" not in set(table["label"])  # none was generated
    audit = vx.audit_privacy(both, train, real).set_index("metric")
    assert audit.loc["exact_copies", "value"] == 0
