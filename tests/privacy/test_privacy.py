"""The audit on real cells: copies are caught, cells that tell nothing are cleared."""

import re
import warnings

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp

import vaexprs as vx
from vaexprs.privacy import answers as audit_answers
from vaexprs.privacy import intervals


@pytest.fixture(scope="module")
def thirds(cells):
    """Three sets of real cells, split at random: training, held out, never seen."""
    order = np.random.default_rng(5).permutation(cells.n_obs)
    return [cells[np.sort(order[i::3])].copy() for i in range(3)]


def audit(generated, thirds, **kwargs):
    return vx.audit_privacy(generated, thirds[0], thirds[1], **({"label_key": "cell_type"} | kwargs))


def changed(cells, x):
    return ad.AnnData(sp.csr_matrix(x, dtype=np.float32), obs=cells.obs, var=cells.var)


def test_a_copy_of_the_training_cells_fails(thirds):
    table = audit(thirds[0], thirds)
    assert list(table.columns) == ["metric", "value", "low", "high", "verdict"]
    rows = table.set_index("metric")
    assert rows.loc["copy_ratio", "value"] == 0
    assert rows.loc["membership_auc", "value"] >= 0.9
    assert rows.loc["membership_tpr_at_1pct_fpr", "value"] >= 0.9
    assert rows.loc["exact_copies", "value"] == 1
    failed = ["copy_ratio", "exact_copies", "close_copies", "membership_auc", "exposed_cells"]
    assert (rows.loc[failed, "verdict"] == "fail").all()
    assert audit_answers.answer(table).light == "red"
    exposed = table.attrs["exposed_cells"]
    assert len(exposed) == thirds[0].n_obs
    assert {cell["cell"] for cell in exposed} == set(thirds[0].obs_names)
    assert {cell["label"] for cell in exposed} == set(thirds[0].obs["cell_type"].astype(str))


def test_a_bootstrap_of_the_training_cells_fails(thirds):
    rows = np.random.default_rng(0).integers(thirds[0].n_obs, size=thirds[0].n_obs)
    again = thirds[0][rows]
    again = ad.AnnData(again.X, obs=again.obs.reset_index(drop=True).rename(str), var=again.var)
    table = audit(again, thirds).set_index("metric")
    assert table.loc["membership_auc", "value"] >= 0.75
    assert table.loc["membership_auc", "verdict"] == "fail"
    assert table.loc["exposed_cells", "value"] == pytest.approx(len(set(rows)) / thirds[0].n_obs, abs=0.05)


@pytest.mark.filterwarnings("ignore:The generated values are not whole")
@pytest.mark.parametrize("jitter", ["noise", "thinned", "redrawn", "added"])
def test_a_small_jitter_of_the_training_cells_fails(thirds, jitter):
    rng, x = np.random.default_rng(0), thirds[0].X.toarray()
    made = {
        "noise": lambda: np.round(x * np.exp(0.1 * rng.normal(size=x.shape))),
        "thinned": lambda: rng.binomial(x.astype(int), 0.9),
        "redrawn": lambda: rng.poisson(x),
        "added": lambda: x + rng.normal(0, 0.1, x.shape),
    }[jitter]()
    table = audit(changed(thirds[0], made), thirds)
    rows = table.set_index("metric")
    assert rows.loc["membership_auc", "low"] >= 0.9
    assert rows.loc["copy_ratio", "verdict"] == "fail"
    assert audit_answers.answer(table).light == "red"


@pytest.mark.slow
def test_fresh_real_cells_are_cleared(cells):
    """The interval of the AUC covers 0.5 in about 95 of 100 splits, so at least 26 of 30 (p > 0.99)."""
    covered = 0
    for seed in range(30):
        order = np.random.default_rng(seed).permutation(cells.n_obs)
        parts = [cells[np.sort(order[i::3])].copy() for i in range(3)]
        row = audit(parts[2], parts).set_index("metric").loc["membership_auc"]
        covered += row["low"] <= 0.5 <= row["high"]
    assert covered >= 26
    table = audit(parts[2], parts)
    assert not (table["verdict"] == "fail").any()
    assert table.set_index("metric").loc["copy_ratio", "value"] == pytest.approx(1, abs=0.15)
    assert len(table.attrs["exposed_cells"]) <= 2


@pytest.mark.slow
def test_an_over_fitted_model_shows(thirds):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # of dispersions at their limit, where there are any
        fit = vx.fit_vae(
            thirds[0],
            label_key="cell_type",
            latent_dim=30,
            regularization=0.02,
            epochs=400,
            verbose=0,
        )
    generated = vx.gen_exprs(fit, 400, progress=False)
    rows = audit(generated, thirds).set_index("metric")
    assert rows.loc["membership_auc", "low"] > 0.5
    assert rows.loc["membership_auc", "verdict"] != "pass"


def test_a_few_copies_among_many_cells_are_found_and_listed(thirds):
    copied = thirds[0][:6].copy()
    mixed = ad.concat([thirds[2], copied], index_unique="-")
    table = audit(mixed, thirds)
    rows = table.set_index("metric")
    assert rows.loc["exact_copies", "value"] == pytest.approx(6 / mixed.n_obs)
    assert rows.loc["exact_copies", "verdict"] == "fail"
    assert {cell["cell"] for cell in table.attrs["exposed_cells"]} >= set(copied.obs_names)


def test_held_out_cells_that_were_trained_on_are_left_out(thirds):
    both = ad.concat([thirds[1], thirds[0][:50]])
    table = vx.audit_privacy(thirds[2], thirds[0], both, label_key="cell_type")
    assert table.attrs["notes"][0].startswith(f"50 of {both.n_obs} held-out cells")
    with pytest.raises(ValueError, match=r"holdout.*\b10 cells.*training cells"):
        vx.audit_privacy(thirds[2], thirds[0], thirds[0])


def test_cells_with_few_genes_are_the_same_only_by_name_too(thirds):
    a, b, c = (part[:, :8].copy() for part in thirds)
    table = vx.audit_privacy(c, a, b)
    assert table.set_index("metric").loc["exact_copies", "value"] == 0
    assert not any(re.match(r"\d+ of \d+ held-out cells", note) for note in table.attrs["notes"])
    copied = vx.audit_privacy(a, a, b).set_index("metric")
    assert copied.loc["exact_copies", "value"] == 1


def test_only_labels_that_were_generated_are_looked_at(thirds):
    one = thirds[0][thirds[0].obs["cell_type"] == "CD14+ Monocyte"].copy()
    table = audit(one, thirds)
    assert any(re.search(r"cells.*labels.*generated", note) for note in table.attrs["notes"])
    assert {cell["label"] for cell in table.attrs["exposed_cells"]} == {"CD14+ Monocyte"}
    assert table.set_index("metric").loc["membership_auc", "value"] >= 0.9


def donors_of(cells, n, first, rng):
    """Give the cells n donors, and each donor an expression of its own."""
    cells = cells.copy()
    donor = rng.integers(n, size=cells.n_obs)
    shift = np.exp(0.5 * rng.normal(size=(n, cells.n_vars)))
    cells.X = sp.csr_matrix(rng.poisson(cells.X.toarray() * shift[donor]), dtype=np.float32)
    cells.obs["donor"] = [f"d{first + d}" for d in donor]
    return cells


def test_donors_are_given_away_by_copies_and_not_by_others(thirds):
    rng = np.random.default_rng(0)
    train, held, fresh = (donors_of(part, 8, 8 * i, rng) for i, part in enumerate(thirds))
    kwargs = {"label_key": "cell_type", "donor_key": "donor"}
    copied = vx.audit_privacy(train, train, held, **kwargs)
    rows = copied.set_index("metric")
    assert rows.loc["donor_membership_auc", "value"] == 1
    assert 0.5 < rows.loc["donor_membership_auc", "low"] < 1
    assert rows.loc["donor_membership_tpr_at_1pct_fpr", "value"] == 1
    assert rows.loc["donor_copy_ratio", "verdict"] == "fail"
    assert any(re.search(r"(?i)donors.*\b8\b.*training.*\b8\b", note) for note in copied.attrs["notes"])
    del fresh.obs["donor"]  # generated cells need not have any
    rows = vx.audit_privacy(fresh, train, held, **kwargs).set_index("metric")
    assert rows.loc["donor_membership_auc", "low"] <= 0.5 <= rows.loc["donor_membership_auc", "high"]
    assert rows.loc["donor_copy_ratio", "verdict"] == "pass"


def test_one_donor_against_one_says_little(real_data):
    data = real_data("kang_muscat")
    donor = data.obs["donor"].astype(str)
    first = donor == sorted(set(donor))[0]
    train, held = data[first].copy(), data[~first].copy()
    audit = vx.audit_privacy(train[:300].copy(), train, held, donor_key="donor")
    assert not audit["metric"].str.startswith("donor").any()
    assert re.search(r"(?i)donor.*\b3\b", audit.attrs["notes"][-1])


def test_mistakes_get_one_clear_sentence(thirds):
    a, b, c = (part.copy() for part in thirds)
    with pytest.raises(ValueError, match=r"generated.*\b10 cells.*\b5\b"):
        vx.audit_privacy(c[:5].copy(), a, b)
    with pytest.raises(ValueError, match=r"donor_key.*\bobs\b.*\btrain\b.*'donor'"):
        vx.audit_privacy(c, a, b, donor_key="donor")
    for part in (a, b):
        part.obs["donor"] = "one"
    with pytest.raises(ValueError, match=r"holdout.*donors.*\btrain\b.*'one'"):
        vx.audit_privacy(c, a, b, donor_key="donor")
    with pytest.raises(ValueError, match=r"holdout.*genes.*\b1 of 765\b"):
        vx.audit_privacy(c, a, b[:, 1:].copy())
    of = [part.obs["cell_type"] for part in (c, b)]
    kinds = of[0].value_counts().index[:2]
    few_alike = [
        pd.concat([levels[levels == kind][:n] for kind, n in zip(kinds, numbers, strict=True)]).index
        for levels, numbers in zip(of, ((20, 2), (2, 20)), strict=True)
    ]
    with pytest.raises(
        ValueError,
        match=r"\b10 generated.*held-out cells.*labels.*\b4\b",
    ):
        vx.audit_privacy(c[few_alike[0]].copy(), a, b[few_alike[1]].copy(), label_key="cell_type")
    with pytest.raises(TypeError, match=r"holdout.*AnnData.*\bNoneType\b"):
        vx.audit_privacy(c, a, None)
    with pytest.raises(TypeError, match=r"seed.*whole number.*\b0\.5\b"):
        vx.audit_privacy(c, a, b, seed=0.5)


def test_the_auc_is_that_of_scikit_learn():
    from sklearn.metrics import roc_auc_score

    rng = np.random.default_rng(0)
    inside, outside = rng.integers(0, 6, 50).astype(float), rng.integers(1, 7, 70).astype(float)
    known = roc_auc_score(np.repeat([1, 0], [50, 70]), np.concatenate([inside, outside]))
    assert intervals.attack_auc(inside, outside) == pytest.approx(known)


def test_true_positives_count_what_is_above_all_but_one_percent():
    outside = np.arange(200.0)
    assert intervals.true_positive_rate(np.array([196.5, 197.5, 198.5, 250]), outside) == 0.75
    assert intervals.true_positive_rate(np.array([48.0, 49.0, 50.0]), np.arange(50.0)) == pytest.approx(1 / 3)


def test_newcombes_interval_stays_inside_and_widens_with_few():
    assert intervals.newcombe_interval(1.0, 1, 1) == pytest.approx((0.2065, 1.0), abs=1e-3)
    low, high = intervals.newcombe_interval(0.75, 50, 50)
    assert 0.6 < low < 0.75 < high < 0.85
    assert intervals.newcombe_interval(0.5, 8, 8)[0] == pytest.approx(
        1 - intervals.newcombe_interval(0.5, 8, 8)[1]
    )


def test_the_answer_without_an_audit():
    assert audit_answers.answer(None).light == "unknown"
    assert "real cells" in audit_answers.answer(None).sentence


@pytest.mark.parametrize(
    ("beyond", "light", "end"),
    [
        ([], "green", "chance level)."),
        (["membership_auc_distance"], "green", "chance level)."),  # of several attacks
        (["exposed_cells"], "amber", "Exposed training cells."),
        (["close_copies", "exposed_cells"], "amber", "Close copies; Exposed training cells."),
    ],
)
def test_the_answer_names_what_is_beyond_chance(beyond, light, end):
    names = [name for name in audit_answers.AUDITS if not name.startswith("donor")]
    verdicts = ["caution" if name in beyond else "pass" for name in names]
    table = pd.DataFrame({"metric": names, "value": 0.51, "low": 0.47, "high": 0.55, "verdict": verdicts})
    answer = audit_answers.answer(table)
    assert answer.light == light
    assert answer.sentence.endswith(end)


def test_the_same_seed_gives_the_same_table(thirds):
    assert audit(thirds[2], thirds, seed=1).equals(audit(thirds[2], thirds, seed=1))
