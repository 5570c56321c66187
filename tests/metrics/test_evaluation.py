"""The scorecard on real cells: unchanged cells are within the baseline, each defect is off where expected."""

import re

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp

import vaexprs as vx
from vaexprs.metrics import answers as metric_answers
from vaexprs.metrics import baseline, registry
from vaexprs.metrics import learning_curve as evaluation
from vaexprs.metrics.baseline import baseline_interval, verdict_of
from vaexprs.metrics.registry import METRICS


@pytest.fixture(scope="module")
def thirds(cells):
    """Three sets of real cells, split at random: as if generated, real, training."""
    order = np.random.default_rng(0).permutation(cells.n_obs)
    return [cells[np.sort(order[i::3])].copy() for i in range(3)]


def like(cells, x, obs=None):
    return ad.AnnData(
        sp.csr_matrix(x, dtype=np.float32), obs=cells.obs if obs is None else obs, var=cells.var
    )


def score(generated, thirds, **kwargs):
    kwargs = {"label_key": "cell_type", "progress": False, "resamples": 5} | kwargs
    return vx.evaluate(generated, thirds[1], train=thirds[2], **kwargs)


@pytest.fixture(scope="module")
def table(thirds):
    return score(thirds[0], thirds)


@pytest.mark.slow
def test_the_table_is_tidy(table):
    assert list(table.columns) == [
        "metric", "label", "value", "floor", "floor_low", "floor_high", "verdict",
    ]  # fmt: skip
    assert not table.duplicated(["metric", "label"]).any()
    assert set(table["verdict"]) <= {"within", "close", "off"}
    assert np.isfinite(table[["value", "floor", "floor_low", "floor_high"]]).all(axis=None)
    assert (table["floor_low"] <= table["floor"] + 1e-12).all()
    assert (table["floor"] <= table["floor_high"] + 1e-12).all()
    assert set(table.loc[table["label"] == "all", "metric"]) == set(METRICS) - {
        "pseudobulk_r",
        "cells_needed",
    }
    assert {"all", "CD14+ Monocyte", "Dendritic"} <= set(table["label"])


@pytest.mark.slow
def test_real_cells_are_within_the_floor(table):
    rows = table[(table["label"] == "all") & ~table["metric"].str.contains("f1|cells_needed")]
    assert (rows["verdict"] == "within").mean() > 0.85
    assert not (rows["verdict"] == "off").any()
    lights = {answer.question: answer.light for answer in metric_answers.answers(table)}
    assert lights["Do they look real?"] == "green"
    assert lights["Are the differences between types kept?"] == "green"


@pytest.mark.slow
def test_verdicts_follow_from_the_numbers(table):
    for row in table.itertuples():
        if row.metric in METRICS:
            assert row.verdict == verdict_of(METRICS[row.metric], row.value, row.floor_low, row.floor_high)


def off(table):
    rows = table[table["label"] == "all"].set_index("metric")
    return rows, set(rows.index[rows["verdict"] != "within"])


@pytest.mark.slow
def test_a_copy_with_genes_shuffled_inside_types_loses_correlation_and_keeps_marginals(thirds):
    cells, rng = thirds[0], np.random.default_rng(1)
    x = cells.X.toarray()
    for label in cells.obs["cell_type"].unique():
        rows = np.flatnonzero(cells.obs["cell_type"] == label)
        x[rows] = rng.permuted(x[rows], axis=0)
    rows, _ = off(score(like(cells, x), thirds))
    assert rows.loc["within_correlation_r", "verdict"] == "off"
    assert rows.loc["within_correlation_slope", "value"] < 0.2
    assert rows.loc["forest_auc_pcs", "verdict"] == "off"
    good = {
        "gene_variance_r",
        "zero_difference",
        "sd_ratio",
        "marker_overlap",
        "gene_mean_ks",
        "mean_zero_gap",
    }
    assert not (rows.loc[sorted(good), "verdict"] == "off").any()


def test_too_uniform_cells_show_in_the_spread(thirds):
    cells = thirds[0]
    x = cells.X.toarray()
    for label in cells.obs["cell_type"].unique():
        rows = (cells.obs["cell_type"] == label).to_numpy()
        x[rows] = 0.5 * x[rows] + 0.5 * x[rows].mean(axis=0)
    rows, bad = off(score(like(cells, np.round(2 * x)), thirds, only=["sd_ratio", "mean_variance_gap"]))
    assert bad == {"sd_ratio", "mean_variance_gap"}
    assert rows.loc["sd_ratio", "value"] < 0.9


def test_deeper_cells_show_in_the_library_sizes(thirds):
    only = ["library_size_ratio", "library_size_ks", "recall_real_to_generated"]
    rows, bad = off(score(like(thirds[0], 2 * thirds[0].X.toarray()), thirds, only=only))
    assert bad == {"library_size_ratio", "library_size_ks"}
    assert rows.loc["library_size_ratio", "value"] == pytest.approx(2, rel=0.1)


@pytest.mark.slow
def test_labels_mixed_up_show_in_the_recalls(thirds):
    cells, obs = thirds[0], thirds[0].obs.copy()
    obs["cell_type"] = np.random.default_rng(0).permutation(obs["cell_type"].astype(str))
    only = [name for name in METRICS if METRICS[name].question == "types"]
    only += ["marker_overlap", "logistic_auc_genes", "gene_mean_r", "library_size_ks"]
    table = score(like(cells, cells.X, obs), thirds, only=only)
    rows, bad = off(table)
    assert {"recall_real_to_generated", "recall_generated_to_real", "marker_overlap"} <= bad
    assert not (rows.loc[["logistic_auc_genes", "gene_mean_r", "library_size_ks"], "verdict"] == "off").any()
    lights = {answer.question: answer.light for answer in metric_answers.answers(table)}
    assert lights["Is each type right?"] == "red"


def test_the_composition_asked_for_does_not_count(thirds):
    # only two types, one much more often than it is: each is compared with its own
    cells = thirds[0]
    names = cells.obs["cell_type"].astype(str)
    some = cells[(names == "CD14+ Monocyte") | ((names == "CD56+ NK") & (np.arange(cells.n_obs) % 2 == 0))]
    table = score(some.copy(), thirds, only=["forest_auc_genes", "gene_mean_r"])
    assert set(table["label"]) == {"all", "CD14+ Monocyte", "CD56+ NK"} - (
        set() if "CD56+ NK" in set(table["label"]) else {"CD56+ NK"}
    )
    assert (table["verdict"] != "off").all()
    assert any(re.search(r"generated cells.*'CD19\+ B'", note) for note in table.attrs["notes"])


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", ["gene_mean_ks", "mmd", "wasserstein_2", "detected_genes_ks", "gene_correlation_r"]
)
def test_the_interval_covers_real_against_real(cells, name):
    """95 of 100 in the mean; each of 60 splits is its own test, of which at most 8 may fail (p < 0.01)."""
    covered = 0
    few = cells[:, np.argsort(-np.asarray(cells.X.mean(axis=0)).ravel())[:150]]
    for seed in range(60):
        order = np.random.default_rng(seed).permutation(cells.n_obs)
        a, b = few[order[:230]].copy(), few[order[230:]].copy()
        row = vx.evaluate(a, b, only=[name], seed=seed, progress=False).iloc[0]
        covered += row["floor_low"] <= row["value"] <= row["floor_high"]
    assert covered >= 52


@pytest.mark.slow
def test_the_same_seed_gives_the_same_table(thirds):
    only = ["logistic_auc_pcs", "mmd", "f1_smote_added", "cells_needed"]
    first, again, other = (score(thirds[0], thirds, only=only, seed=seed) for seed in (3, 3, 4))
    pd.testing.assert_frame_equal(first, again)
    assert not first["value"].equals(other["value"])


def test_training_cells_that_are_among_the_real_ones_are_left_out(thirds):
    a, b, train = thirds
    kwargs = {"label_key": "cell_type", "only": ["gene_mean_r"], "progress": False}
    table, alone = vx.evaluate(a, b, train=b, **kwargs), vx.evaluate(a, b, **kwargs)
    pd.testing.assert_frame_equal(table, alone)
    assert "training cells" in table.attrs["notes"][0]
    some = vx.evaluate(a, b, train=ad.concat([b[:9], train]), **kwargs)
    assert some.attrs["notes"][0].startswith(f"9 of {9 + train.n_obs} training cells")


@pytest.mark.slow
def test_what_generated_cells_are_worth_to_a_classifier(thirds):
    a, b, train = thirds
    few = train[np.concatenate([
        np.flatnonzero(train.obs["cell_type"] != "CD56+ NK"),
        np.flatnonzero(train.obs["cell_type"] == "CD56+ NK")[:2],
    ])].copy()  # fmt: skip
    only = ["f1_generated_added", "f1_oversampling_added", "f1_smote_added", "cells_needed"]
    table = vx.evaluate(a, b, train=few, label_key="cell_type", only=only, progress=False)
    rows = table[table["label"] == "CD56+ NK"].set_index("metric")
    # two training cells, and real ones in place of the generated: better than nothing
    assert rows.loc["f1_generated_added", "value"] > rows.loc["f1_generated_added", "floor"]
    assert rows.loc["cells_needed", "floor"] == 2
    assert rows.loc["cells_needed", "value"] > 2
    curve = pd.DataFrame(table.attrs["learning_curve"])
    assert set(curve["method"]) == {"real", "generated", "oversampling", "SMOTE"}
    real = curve[(curve["label"] == "CD56+ NK") & (curve["method"] == "real")]
    assert real["n"].is_monotonic_increasing
    assert real["n"].iloc[0] == 2
    assert ((curve["low"] <= curve["f1"]) & (curve["f1"] <= curve["high"])).all()


def test_donors_have_pseudobulks_of_their_own(real_data):
    data = real_data("kang_muscat")
    order = np.random.default_rng(0).permutation(data.n_obs)
    a, b = data[order[:700]].copy(), data[order[700:]].copy()
    kwargs = {"label_key": "cell_type", "donor_key": "stim", "only": ["pseudobulk_r"], "progress": False}
    table = vx.evaluate(a, b, **kwargs)
    assert set(table["label"]) == {"all", "ctrl", "stim"}
    assert (table["value"] > 0.9).all()
    a.obs["stim"] = a.obs["stim"].astype(str).map({"ctrl": "stim", "stim": "ctrl"})
    swapped = vx.evaluate(a, b, **kwargs)
    assert (swapped["value"] < -0.5).all()
    assert (swapped["verdict"] == "off").all()


def test_independent_counts_fail_on_correlation_and_a_copy_is_within(real_data):
    """Three ways to make cells of pbmc_facs, ranked rightly."""
    data = real_data("pbmc_facs")
    genes = np.argsort(-np.asarray(data.X.mean(axis=0)).ravel())[:500]
    order = np.random.default_rng(0).permutation(data.n_obs)
    train, real = data[order[:1500], genes].copy(), data[order[1500:3000], genes].copy()
    rng = np.random.default_rng(1)
    x, labels = train.X.toarray(), train.obs["cell_type"].to_numpy(str)
    for label in np.unique(labels):
        mean, variance = x[labels == label].mean(axis=0), x[labels == label].var(axis=0)
        theta = np.clip(mean**2 / np.maximum(variance - mean, 1e-6), 1e-3, 1e6)
        shape = ((labels == label).sum(), len(genes))
        x[labels == label] = rng.poisson(rng.gamma(np.broadcast_to(theta, shape)) * mean / theta)
    only = [
        "within_correlation_r",
        "within_correlation_slope",
        "gene_variance_ks",
        "forest_auc_pcs",
        "sd_ratio",
    ]
    kwargs = {"train": train, "label_key": "cell_type", "only": only, "progress": False}
    copy, _ = off(vx.evaluate(train, real, **kwargs))
    independent, _ = off(vx.evaluate(like(train, x), real, **kwargs))
    assert (copy["verdict"] == "within").all()
    assert independent.loc["within_correlation_r", "value"] < 0.1
    assert (independent.loc[["within_correlation_r", "within_correlation_slope"], "verdict"] == "off").all()
    assert independent.loc["forest_auc_pcs", "value"] > copy.loc["forest_auc_pcs", "value"] + 0.1
    assert independent.loc["gene_variance_ks", "verdict"] != "off"


@pytest.mark.slow
def test_values_that_are_not_counts(thirds):
    parts = []
    for part in thirds:
        x = part.X.toarray()
        parts.append(ad.AnnData(np.log1p(1e4 * x / x.sum(axis=1, keepdims=True)), obs=part.obs, var=part.var))
    settings = {"label_key": "cell_type", "only": None, "progress": False, "resamples": 3}
    table = vx.evaluate(parts[0], parts[1], layer="X", **settings)
    assert not table["metric"].str.contains("library|detected|f1").any()
    assert (table.loc[table["label"] == "all", "verdict"] == "within").mean() > 0.8


def test_expected_counts_are_taken_with_a_warning(thirds):
    """Decoder means, or counts with noise: no zeros left, and the scorecard sees it."""
    x = thirds[0].X.toarray()
    noisy = like(thirds[0], x + np.random.default_rng(0).normal(0, 0.2, x.shape))
    only = ["gene_mean_r", "zero_difference", "library_size_ratio"]
    with pytest.warns(UserWarning, match=r"whole numbers.*counts"):
        rows, _ = off(score(noisy, thirds, only=only))
    assert rows.loc["zero_difference", "verdict"] == "off"
    assert rows.loc["zero_difference", "value"] < -0.2
    assert rows.loc["library_size_ratio", "value"] > 1


def test_without_labels_there_are_figures_for_all_cells_only(thirds):
    table = vx.evaluate(
        thirds[0], thirds[1], only=["gene_mean_r", "recall_real_to_generated"], progress=False
    )
    assert table["label"].tolist() == ["all"]
    lights = {answer.question: answer for answer in metric_answers.answers(table)}
    assert lights["Is each type right?"].light == "unknown"
    assert "label" in lights["Is each type right?"].sentence


@pytest.mark.slow
def test_generated_objects_and_files_are_taken(generated, cells, tmp_path):
    generated.adata.write_h5ad(tmp_path / "g.h5ad")
    cells.write_h5ad(tmp_path / "r.h5ad")
    only = ["gene_mean_r"]
    tables = [
        vx.evaluate(a, b, only=only, progress=False)
        for a, b in ((generated, cells), (tmp_path / "g.h5ad", tmp_path / "r.h5ad"))
    ]
    pd.testing.assert_frame_equal(*tables)
    assert "CD14+ Monocyte" in set(tables[0]["label"])  # the label that they were made with


def test_real_cells_may_have_more_genes_in_another_order(thirds):
    a, b, _ = thirds
    only = ["gene_mean_r"]
    fewer = a[:, 100:400].copy()
    tables = [
        vx.evaluate(fewer, real, only=only, progress=False)
        for real in (b[:, ::-1].copy(), b[:, 100:400].copy())
    ]
    pd.testing.assert_frame_equal(*tables)


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        (
            {"label_key": "cell_typ"},
            ValueError,
            r"label_key.*\bobs\b.*'cell_type'",
        ),
        (
            {"only": ["gene_mean"]},
            ValueError,
            r"\bonly\b.*metrics.*'gene_mean'.*'gene_mean_",
        ),
        ({"resamples": 2}, ValueError, r"resamples.*\b3\b.*\b2\b"),
        ({"seed": -1}, ValueError, r"seed.*\b0\b.*-1\b"),
        ({"donor_key": "cell_type"}, ValueError, r"donor_key.*label_key"),
        ({"donor_key": "donor"}, ValueError, r"donor_key.*\bobs\b.*generated cells"),
        (
            {"generated": np.ones((3, 3))},
            TypeError,
            r"generated.*gen_exprs.*\bndarray\b",
        ),
        ({"layer": "counts"}, ValueError, r"^layer\b"),
        ({"real": None}, TypeError, r"^real\b.*AnnData.*DataFrame.*NoneType\.$"),
        ({"train": 5}, TypeError, r"^train\b.*AnnData.*DataFrame.*\bint\.$"),
    ],
)
def test_mistakes_get_one_clear_sentence(thirds, change, error, words):
    generated, real = change.pop("generated", thirds[0]), change.pop("real", thirds[1])
    with pytest.raises(error, match=words):
        vx.evaluate(generated, real, **({"label_key": "cell_type", "progress": False} | change))


def test_sets_that_cannot_be_compared(thirds):
    a, b, _ = thirds
    with pytest.raises(ValueError, match=r"real\b.*genes.*\b5 of 765\b"):
        vx.evaluate(a, b[:, 5:].copy())
    other = b.copy()
    other.X = other.X * 0.5
    with pytest.raises(ValueError, match=r"generated counts, real other"):
        vx.evaluate(a, other)
    with pytest.raises(ValueError, match=r"\b5 generated.*\b10 real.*\b2\b"):
        vx.evaluate(a[:2].copy(), b)
    strange = a.copy()
    strange.obs["cell_type"] = "neuron"
    with pytest.raises(ValueError, match=r"labels.*\b0\b.*'CD14"):
        vx.evaluate(strange, b, label_key="cell_type")
    named = b.copy()
    named.obs["cell_type"] = "all"
    with pytest.raises(ValueError, match=r"(?i)label.*'all'.*'cell_type'"):
        vx.evaluate(a, named, label_key="cell_type")
    nan = a.copy()
    nan.X = nan.X.toarray() * np.nan
    with pytest.raises(ValueError, match=r"generated.*finite"):
        vx.evaluate(nan, b)


@pytest.mark.slow
@pytest.mark.parametrize("what", ["one gene", "no counts", "all alike", "a copy of the real cells"])
def test_hopeless_cells_are_judged_without_an_error(thirds, what):
    a, b, _ = thirds
    made = {
        "one gene": a[:, :1].copy(),
        "no counts": like(a, 0 * a.X.toarray()),
        "all alike": like(a, np.ones(a.shape)),
        "a copy of the real cells": b,
    }[what]
    only = [name for name in METRICS if not name.startswith("forest")]
    table = vx.evaluate(made, b, label_key="cell_type", only=only, progress=False, resamples=3)
    rows = table[table["label"] == "all"].set_index("metric")
    if what in ("no counts", "all alike"):
        assert rows.loc["mmd", "verdict"] == "off"
        assert rows.loc["nearest_same", "value"] == 1
    if what.startswith("a copy"):
        assert rows.loc["gene_mean_r", "verdict"] == "within"


def test_the_floor_is_students_prediction_interval():
    values = np.array([1.0, 2.0, 3.0])
    low_high = 4.302653 * 1 * np.sqrt(1 + 1 / 3)
    metric = METRICS["zero_difference"]
    assert baseline_interval(metric, values) == pytest.approx((2, 2 - low_high, 2 + low_high), rel=1e-5)
    assert baseline_interval(METRICS["forest_auc_genes"], values / 4)[2] == 1  # cut to what an AUC can be
    assert baseline_interval(METRICS["detected_genes_ks"], np.zeros(3)) == (0, 0, 0)
    logs = baseline_interval(METRICS["sd_ratio"], np.array([0.5, 1.0, 2.0]))
    assert logs[0] == pytest.approx(1)
    assert logs[1] * logs[2] == pytest.approx(1)


@pytest.mark.parametrize(
    ("name", "value", "verdict"),
    [
        ("forest_auc_genes", 0.3, "within"),
        ("forest_auc_genes", 0.6, "within"),
        ("forest_auc_genes", 0.7, "close"),
        ("forest_auc_genes", 0.71, "off"),
        ("lisi", 0.7, "within"),
        ("lisi", 0.35, "close"),
        ("lisi", 0.2, "off"),
        ("sd_ratio", 0.5, "within"),
        ("sd_ratio", 0.38, "close"),
        ("sd_ratio", 0.66, "off"),
        ("wasserstein_1", 0.62, "close"),
        ("wasserstein_1", 0.64, "off"),
    ],
)
def test_verdicts_with_a_floor_from_04_to_06(name, value, verdict):
    assert verdict_of(METRICS[name], value, 0.4, 0.6) == verdict


@pytest.mark.slow
def test_few_cells_are_said_to_show_little(table, thirds):
    answers = metric_answers.answers(table)
    assert f"{table.attrs['cells']} cells" not in answers[0].sentence
    few = vx.evaluate(thirds[0], thirds[1][:40].copy(), only=["gene_mean_r"], resamples=3, progress=False)
    assert few.attrs["cells"] == 20
    assert "20 cells" in metric_answers.answers(few)[0].sentence


def test_the_number_of_real_cells_is_read_off_the_rising_curve():
    curve = pd.DataFrame({"n": [5, 10, 20, 40], "f1": [0.2, 0.4, 0.3, 0.6]})
    assert evaluation._cells_needed(curve, 0.4) == 10
    assert 20 < evaluation._cells_needed(curve, 0.5) < 40
    assert evaluation._cells_needed(curve, 0.9) == 40
    assert evaluation._cells_needed(curve, 0.1) == 5


def test_metrics_say_what_they_are():
    for name, metric in METRICS.items():
        assert metric.question in registry.QUESTIONS, name
        assert metric.better in ("low", "high", "near"), name
        assert metric.what.endswith("."), name
        assert metric.scale in baseline.SCALES, name
