"""The table of `evaluate` for real cells: form, coverage, covariates, donors, few cells, mistakes.

Known-bad cells are in test_controls.py.
"""

import re
import warnings

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp

import vaexprs as vx
from vaexprs.metrics import answers as metric_answers
from vaexprs.metrics import baseline, registry
from vaexprs.metrics import learning_curve as evaluation
from vaexprs.metrics.registry import METRICS

CHEAP = [name for name, metric in METRICS.items() if not metric.slow and metric.question != "use"]


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


def answers_of(table):
    return {answer.question: answer for answer in metric_answers.answers(table)}


@pytest.fixture(scope="module")
def table(thirds):
    """All metrics but the random forests."""
    only = [name for name, metric in METRICS.items() if not metric.slow]
    return score(thirds[0], thirds, only=only, resamples=20)


@pytest.mark.slow
def test_the_table_is_tidy(table):
    assert list(table.columns) == [
        "metric", "label", "value", "floor", "floor_low", "floor_high", "verdict",
    ]  # fmt: skip
    assert not table.duplicated(["metric", "label"]).any()
    assert set(table["verdict"]) <= {"within", "close", "off", "not judged"}
    assert np.isfinite(table[["value", "floor", "floor_low", "floor_high"]]).all(axis=None)
    assert (table["floor_low"] <= table["floor"] + 1e-12).all()
    assert (table["floor"] <= table["floor_high"] + 1e-12).all()
    absent = {"cells_needed", "sd_ratio", "covariate_recall", "covariate_slope"}
    expected = {name for name, metric in METRICS.items() if not metric.slow} - absent
    assert set(table.loc[table["label"] == "all", "metric"]) == expected
    assert {"all", "CD14+ Monocyte", "Dendritic"} <= set(table["label"])
    for name in ("mmd", "component_variance", "copies"):
        assert set(table.loc[table["metric"] == name, "label"]) == {"all"}, name
    names = list(METRICS)
    assert table["metric"].map(names.index).is_monotonic_increasing
    assert table.attrs["cells"] == 201


@pytest.mark.slow
def test_real_cells_are_within_the_baseline(table):
    rows = table[(table["label"] == "all") & ~table["metric"].str.contains("f1|cells_needed")]
    assert (rows["verdict"] == "within").mean() > 0.85
    assert not (rows["verdict"] == "off").any()
    lights = {question: answer.light for question, answer in answers_of(table).items()}
    assert lights["Do they look real?"] == "green"
    assert lights["Are the differences between types kept?"] == "green"


@pytest.mark.slow
def test_a_forest_does_not_separate_real_cells(thirds):
    genes = np.argsort(-np.ravel(thirds[0].X.mean(axis=0)))[:100]
    few = [part[:, genes].copy() for part in thirds]
    table = score(few[0], few, only=["forest_auc_genes"], resamples=4)
    row = table[table["label"] == "all"].iloc[0]
    assert row["verdict"] == "within"
    assert row["floor"] == 0.5
    assert "A random forest has an AUC of" in metric_answers.answers(table)[0].sentence


def test_the_composition_asked_for_does_not_count(thirds):
    # only two types, one much more often than it is: each is compared with its own
    cells = thirds[0]
    names = cells.obs["cell_type"].astype(str)
    some = cells[(names == "CD14+ Monocyte") | ((names == "CD56+ NK") & (np.arange(cells.n_obs) % 2 == 0))]
    table = score(some.copy(), thirds, only=["deviance_ratio", "gene_means"])
    # eight cells of CD56+ NK are too few for these metrics
    assert set(table["label"]) == {"all", "CD14+ Monocyte"}
    assert (table["verdict"] != "off").all()
    assert any(re.search(r"generated cells.*'CD19\+ B'", note) for note in table.attrs["notes"])


@pytest.mark.slow
def test_the_interval_covers_real_against_real(cells):
    """95% are expected; of 40 splits at most 6 may be outside (p < 0.01). "off" is rare."""
    names = ["mmd", "gene_means", "library_size_ratio", "detected_genes_spread", "atypical_cells"]
    covered, off = dict.fromkeys(names, 0), 0
    few = cells[:, np.argsort(-np.ravel(cells.X.mean(axis=0)))[:150]]
    for seed in range(40):
        order = np.random.default_rng(seed).permutation(cells.n_obs)
        a, b, train = (few[order[i::3]].copy() for i in range(3))
        rows = vx.evaluate(
            a, b, train=train, label_key="cell_type", only=names, seed=seed, resamples=20, progress=False
        )
        rows = rows[rows["label"] == "all"]
        off += (rows["verdict"] == "off").any()
        for row in rows.itertuples():
            covered[row.metric] += row.floor_low <= row.value <= row.floor_high
    assert min(covered.values()) >= 34, covered
    assert off <= 4


def test_the_same_seed_gives_the_same_table(thirds):
    only = ["mmd", "gene_means", "recall_real_to_generated"]
    first, again, other = (score(thirds[0], thirds, only=only, seed=seed) for seed in (3, 3, 4))
    pd.testing.assert_frame_equal(first, again)
    assert not first["value"].equals(other["value"])


def test_training_cells_that_are_among_the_real_ones_are_left_out(thirds):
    a, b, train = thirds
    kwargs = {"label_key": "cell_type", "only": ["gene_means"], "progress": False}
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
    # two training cells, and real ones in place of the generated: not worse than any alternative
    assert rows.loc["f1_generated_added", "verdict"] == "within"
    assert rows.loc["cells_needed", "floor"] == 2
    assert rows.loc["cells_needed", "value"] >= 2
    curve = pd.DataFrame(table.attrs["learning_curve"])
    assert set(curve["method"]) == {"real", "generated", "oversampling", "SMOTE"}
    real = curve[(curve["label"] == "CD56+ NK") & (curve["method"] == "real")]
    assert real["n"].is_monotonic_increasing
    assert real["n"].iloc[0] == 2
    assert ((curve["low"] <= curve["f1"]) & (curve["f1"] <= curve["high"])).all()


def with_rare_labels(data, seed):
    """Split cells into test cells, training cells with 5 or 50 of each label in turn, and up to 100 others."""
    order = np.random.default_rng(seed).permutation(data.n_obs)
    test, rest = np.split(order, [min(1000, data.n_obs // 3)])
    labels = data.obs["cell_type"].to_numpy(str)
    train, new = [], []
    for i, label in enumerate(np.unique(labels)):
        own = rest[labels[rest] == label]
        n = 5 if i % 2 else 50
        train.append(own[:n])
        new.append(own[n : n + 100])
    return [data[np.sort(rows)].copy() for rows in (test, np.concatenate(train), np.concatenate(new))]


def repeated(train, like_cells, seed, permute):
    """Return training cells, repeated to the label sizes of other cells; genes permuted within labels."""
    rng = np.random.default_rng(seed)
    labels, wanted = train.obs["cell_type"].to_numpy(str), like_cells.obs["cell_type"].value_counts()
    rows = [np.resize(rng.permutation(np.flatnonzero(labels == name)), n) for name, n in wanted.items()]
    x = [train.X[r].toarray() for r in rows]
    cells = train[np.concatenate(rows)].copy()
    cells.obs_names_make_unique()
    return like(cells, np.concatenate([rng.permuted(part, axis=0) if permute else part for part in x]))


def use_of(generated, real, train, seed):
    kwargs = {"label_key": "cell_type", "only": ["f1_generated_added"], "progress": False, "resamples": 3}
    table = vx.evaluate(generated, real, train=train, seed=seed, **kwargs)
    return metric_answers.answers(table)[-1]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["demo", "pbmc_facs"])
def test_new_real_cells_help_a_classifier_and_training_cells_do_not(name, cells, real_data):
    data = cells if name == "demo" else real_data(name)
    data = data[:, np.argsort(-np.asarray(data.X.mean(axis=0)).ravel())[:2000]].copy()
    lights = {"new": [], "repeated": [], "permuted": []}
    for seed in range(3):
        test, train, new = with_rare_labels(data, seed)
        lights["new"].append(use_of(new, test, train, seed).light)
        for kind in ("repeated", "permuted"):
            other = repeated(train, new, seed, kind == "permuted")
            lights[kind].append(use_of(other, test, train, seed).light)
    if name == "pbmc_facs":
        assert lights["new"].count("green") >= 2
    assert "red" not in lights["new"]
    assert "green" not in lights["repeated"] + lights["permuted"]


def test_the_use_of_cells_of_a_single_label_is_not_measured(thirds):
    parts = [part[part.obs["cell_type"] == "CD14+ Monocyte"].copy() for part in thirds]
    assert score(parts[0], parts, only=["f1_generated_added"]).empty


@pytest.mark.parametrize(
    ("value", "low", "high", "light"),
    [
        (0.9, 0.75, 0.85, "green"),
        (0.84, 0.75, 0.85, "amber"),
        (0.7, 0.75, 0.85, "red"),
        (0.9, 0.63, 1.0, "unknown"),
        (0.99, 0.63, 0.97, "green"),
    ],
)
def test_the_light_of_use_follows_from_the_interval_of_the_difference(value, low, high, light):
    row = ("f1_generated_added", "all", value, 0.8, low, high, "within")
    rows = pd.DataFrame([row, (row[0], "B", *row[2:])], columns=list(registry.COLUMNS))
    found, sentence = evaluation.use_light(rows)
    assert found == light
    assert f"{value:.2f} with generated cells, 0.80 with" in sentence
    width = max(high - 0.8, 0.8 - low)
    assert f"{value - 0.8 - width:+.3f} to {value - 0.8 + width:+.3f}" in sentence
    assert ("Not judged" in sentence) == (light == "unknown")
    rows[["value", "floor_low", "floor_high"]] = 0.805, 0.801, 0.801
    assert evaluation.use_light(rows)[0] == "amber"  # a difference below 0.01


def test_labels_without_held_out_cells_are_named(thirds):
    """They are among the training cells, so that the label itself is known."""
    made, real, train = thirds
    label = "CD14+ Monocyte"
    real = real[real.obs["cell_type"] != label].copy()
    table = vx.evaluate(
        made, real, train=train, label_key="cell_type", only=["gene_means"], resamples=3, progress=False
    )
    assert label in table.attrs["too_few"]
    assert any("without real cells" in note and label in note for note in table.attrs["notes"])
    assert metric_answers.label_lights(table)[label] == "unknown"


@pytest.mark.parametrize(("n", "light"), [(7, "unknown"), (10, "green")])
def test_few_held_out_cells_do_not_look_real(n, light):
    rows = [
        ("copies", "all", 0.0, 0.0, 0.0, 0.002, "within"),
        ("gene_means", "all", 1.0, 1.0, 0.5, 2.0, "not judged"),
    ]
    table = pd.DataFrame(rows, columns=list(registry.COLUMNS))
    table.attrs["cells"] = n
    looks = metric_answers.answers(table)[0]
    assert looks.light == light
    assert looks.sentence.startswith("Not judged: there are too few real cells") == (light == "unknown")
    table.loc[1, "verdict"] = "off"  # what differs is reported for any number of cells
    assert metric_answers.answers(table)[0].light in ("amber", "red")


def test_the_baseline_of_generated_cells_is_the_best_alternative():
    f1 = {"real": [0.5, 0.6], "generated": [0.7, 0.8], "oversampling": [0.6, 0.7], "SMOTE": [0.4, 0.5]}
    points = pd.DataFrame(
        [
            ("B", name, 5, 5 * (name != "real"), i, v)
            for name, values in f1.items()
            for i, v in enumerate(values)
        ],
        columns=["label", "method", "n", "added", "split", "f1"],
    )
    rows = {(row[0], row[1]): row[2:6] for row in evaluation.utility_rows(points, set(evaluation.UTILITY))}
    for label in ("B", "all"):
        # the values differ between splits, the differences do not
        assert rows["f1_generated_added", label] == pytest.approx((0.75, 0.65, 0.65, 0.65))
        assert rows["f1_smote_added", label] == pytest.approx((0.45, 0.55, 0.55, 0.55))
    assert rows["cells_needed", "B"] == (5, 5, 5, 5)


# ---- covariates and donors

COVARIATE = ["covariate_recall", "covariate_slope"]


def test_shuffled_levels_of_a_covariate_are_off(real_data):
    data = real_data("kang_muscat")
    order = np.random.default_rng(0).permutation(data.n_obs)
    parts = [data[np.sort(order[i::3])].copy() for i in range(3)]
    kwargs = {"only": COVARIATE, "covariate_keys": ["stim"]}
    good = score(parts[0], parts, **kwargs).set_index(["metric", "label"])
    levels = ["stim: ctrl", "stim: stim"]
    assert set(good.index) == {
        ("covariate_recall", "stim"),
        *((name, level) for name in COVARIATE for level in levels),
    }
    assert not (good["verdict"] == "off").any()
    assert good.loc["covariate_recall", "value"].min() > 0.8
    shuffled = parts[0].copy()
    shuffled.obs["stim"] = np.random.default_rng(1).permutation(shuffled.obs["stim"].astype(str))
    table = score(shuffled, parts, **kwargs)
    bad = table.set_index(["metric", "label"])
    assert bad.loc[("covariate_recall", "stim"), "verdict"] == "off"
    assert bad.loc[("covariate_recall", "stim"), "value"] < 0.65
    assert (bad.loc["covariate_slope", "verdict"] == "off").all()
    assert bad.loc["covariate_slope", "value"].abs().max() < 0.3
    assert answers_of(table)["Are the differences between types kept?"].light == "red"


def test_covariates_of_the_recipe_are_compared(thirds):
    made = thirds[0].copy()
    made.uns["vaexprs"] = {"covariate_keys": '["phase"]', "stratified": False}
    table = score(made, thirds, only=COVARIATE)
    # of 17 cells in G2M there are too few per side
    assert {"phase", "phase: G1", "phase: S"} == set(table["label"])
    assert not (table["verdict"] == "off").any()
    assert score(made, thirds, only=COVARIATE, covariate_keys=[]).empty
    without = made.copy()
    del without.obs["phase"]
    assert score(without, thirds, only=COVARIATE).empty
    with pytest.raises(ValueError, match=r"covariate_keys\[0\].*'phase'"):
        score(without, thirds, only=COVARIATE, covariate_keys=["phase"])


def with_donors(thirds, made, real, train):
    parts = [part.copy() for part in thirds]
    for part, names in zip(parts, (made, real, train), strict=True):
        part.obs["donor"] = np.resize(names, part.n_obs)
    return parts


@pytest.mark.parametrize(
    ("real", "train", "judged"), [("c", "ab", False), ("cd", "ab", True), ("c", "a", False)]
)
def test_held_out_donors_are_compared_with_donors_if_there_are_four(thirds, real, train, judged):
    parts = with_donors(thirds, list(train), list(real), list(train))
    table = score(parts[0], parts, donor_key="donor", only=["gene_means", "deviance_ratio"], resamples=8)
    assert len(table)
    assert np.isfinite(table[["value", "floor", "floor_low", "floor_high"]]).all(axis=None)
    note = next(note for note in table.attrs["notes"] if "other donors (donor)" in note)
    assert ("nothing was judged" in note) != judged
    light = answers_of(table)["Do they look real?"]
    if judged:
        assert not (table["verdict"] == "off").any()
        assert light.light == "green"
    else:
        assert set(table["verdict"]) == {"not judged"}
        assert light.light == "unknown"
        assert "too few donors" in light.sentence


def test_donors_of_both_sets_are_compared_like_a_covariate(thirds):
    parts = with_donors(thirds, ["a", "b"], ["a", "b"], ["a", "b"])
    table = score(parts[0], parts, donor_key="donor", only=[*COVARIATE, "gene_means"], resamples=4)
    assert {"donor", "donor: a", "donor: b"} <= set(table["label"])
    assert not any("other donors" in note for note in table.attrs["notes"])


# ---- few or dependent cells


@pytest.mark.parametrize(("train", "of_all_cells"), [(slice(60, 120), "green"), (None, "unknown")])
def test_types_that_all_have_few_cells_are_not_judged(few, train, of_all_cells):
    """Real cells against real cells, five of each type: metrics of all cells are fine, but show no type."""
    parts = [few[:20].copy(), few[40:60].copy(), None if train is None else few[train].copy()]
    table = vx.evaluate(
        parts[0], parts[1], train=parts[2], label_key="cell_type", resamples=5, progress=False
    )
    assert len(table.attrs["too_few"]) == 4
    assert metric_answers.light_of(metric_answers.rows_of(table, "types")) == of_all_cells
    found = answers_of(table)["Is each type right?"]
    assert found.light == "unknown"
    assert found.sentence.startswith("Not judged, with too few real cells: 'CD14+ Monocyte', 'CD19+ B'")


def test_labels_with_few_cells_are_off_or_not_judged(thirds):
    few = {"CD34+": 6, "CD56+ NK": 9}  # number of real and training cells
    parts = [
        part[[
            label not in few or i < few[label]
            for label, i in zip(part.obs["cell_type"], part.obs.groupby("cell_type", observed=True).cumcount(), strict=True)
        ]].copy()
        for part in thirds
    ]  # fmt: skip
    table = score(parts[0], parts, only=["recall_real_to_generated", "atypical_cells"], resamples=20)
    for label in few:
        rows = table[table["label"] == label]
        assert len(rows) == 2
        assert set(rows["verdict"]) == {"not judged"}
        assert label in table.attrs["too_few"]
        assert metric_answers.label_lights(table)[label] == "unknown"
    assert "Dendritic" not in table.attrs["too_few"]
    found = answers_of(table)["Is each type right?"]
    assert found.light == "green"
    assert re.search(r"Not judged, with too few real cells: .*'CD34\+'.*'CD56\+ NK'", found.sentence)
    others = parts[0].copy()  # other cells under the name of a rare label
    labels = others.obs["cell_type"].astype(str).to_numpy()
    rows = np.flatnonzero(labels == "CD56+ NK")
    x = others.X.toarray()
    x[rows] = x[np.flatnonzero(labels == "Dendritic")[: len(rows)]]
    wrong = score(like(others, x), parts, only=["recall_real_to_generated"], resamples=20)
    assert wrong.set_index("label").loc["CD56+ NK", "verdict"] == "off"
    assert metric_answers.label_lights(wrong)["CD56+ NK"] == "red"


def test_cells_of_stratified_random_numbers_are_never_good(thirds):
    made = thirds[0].copy()
    made.uns["vaexprs"] = {"stratified": True}
    only = ["gene_means", "library_size_ratio", "recall_real_to_generated"]
    table = score(made, thirds, only=only)
    assert set(table["verdict"]) == {"not judged"}
    sentence = table.attrs["dependent"]
    assert "stratified" in sentence
    assert sentence in table.attrs["notes"]
    for question in ("Do they look real?", "Is each type right?"):
        assert answers_of(table)[question] == (question, "unknown", sentence)
    deeper = like(made, 3 * made.X.toarray())
    deeper.uns = made.uns
    rows = score(deeper, thirds, only=only).set_index(["metric", "label"])
    assert rows.loc[("library_size_ratio", "all"), "verdict"] == "off"
    assert set(rows["verdict"]) == {"off", "not judged"}


@pytest.mark.slow
def test_a_second_set_of_the_fit_is_used_by_the_forest(few, monkeypatch):
    from vaexprs.generation import again

    drawn = []
    draw_again = again.draw_again
    monkeypatch.setattr(again, "draw_again", lambda *args: drawn.append(draw_again(*args)) or drawn[-1])
    fit = vx.fit_vae(few[:60], label_key="cell_type", epochs=2, verbose=0)
    made = vx.gen_exprs(fit, 80, seed=0, progress=False)
    kwargs = {
        "train": few[:60],
        "only": ["forest_auc_genes", "gene_means"],
        "resamples": 3,
        "progress": False,
    }
    table = vx.evaluate(made, few[60:], fit=fit, **kwargs)
    (second,) = drawn
    sizes = [cells.obs["cell_type"].value_counts().to_dict() for cells in (made.adata, second)]
    assert sizes[0] == sizes[1]
    assert (second.X != made.adata.X).nnz > 0
    value = table.set_index(["metric", "label"])["value"]
    assert 0 <= value["forest_auc_genes", "all"] <= 1
    alone = vx.evaluate(made, few[60:], **kwargs).set_index(["metric", "label"])["value"]
    assert len(drawn) == 1
    assert alone["gene_means", "all"] == value["gene_means", "all"]
    assert alone["forest_auc_genes", "all"] != value["forest_auc_genes", "all"]


# ---- values, files, mistakes


@pytest.mark.slow
def test_values_that_are_not_counts(thirds):
    parts = []
    for part in thirds:
        x = part.X.toarray()
        parts.append(ad.AnnData(np.log1p(1e4 * x / x.sum(axis=1, keepdims=True)), obs=part.obs, var=part.var))
    settings = {"label_key": "cell_type", "only": CHEAP, "progress": False, "resamples": 10}
    table = vx.evaluate(parts[0], parts[1], layer="X", **settings)
    assert "sd_ratio" in set(table["metric"])
    assert not table["metric"].str.contains("library|detected|dispersion").any()
    assert (table.loc[table["label"] == "all", "verdict"] == "within").mean() > 0.8
    assert not (table["verdict"] == "off").any()


def test_expected_counts_are_compared_with_a_warning(thirds):
    """Counts with noise have hardly any zeros, so nearly all genes are detected."""
    x = thirds[0].X.toarray()
    noisy = like(thirds[0], x + np.random.default_rng(0).normal(0, 0.2, x.shape))
    with pytest.warns(UserWarning, match=r"whole numbers.*counts"):
        table = score(noisy, thirds, only=["detected_genes_ratio", "library_size_ratio"])
    rows = table[table["label"] == "all"].set_index("metric")
    assert rows.loc["detected_genes_ratio", "verdict"] == "off"
    assert rows.loc["detected_genes_ratio", "value"] > 1.5
    assert rows.loc["library_size_ratio", "value"] > 1


def test_without_labels_there_are_metrics_of_all_cells_only(thirds):
    table = vx.evaluate(
        thirds[0], thirds[1], only=["gene_means", "recall_real_to_generated"], resamples=3, progress=False
    )
    assert set(table["label"]) == {"all"}
    assert any("without labels" in note for note in table.attrs["notes"])
    lights = {answer.question: answer for answer in metric_answers.answers(table)}
    assert lights["Is each type right?"].light == "unknown"
    assert "label" in lights["Is each type right?"].sentence


@pytest.mark.slow
def test_generated_objects_and_files_are_taken(generated, cells, tmp_path):
    generated.adata.write_h5ad(tmp_path / "g.h5ad")
    cells.write_h5ad(tmp_path / "r.h5ad")
    only = ["gene_means", "recall_real_to_generated"]
    tables = [
        vx.evaluate(a, b, only=only, progress=False)
        for a, b in ((generated, cells), (tmp_path / "g.h5ad", tmp_path / "r.h5ad"))
    ]
    pd.testing.assert_frame_equal(*tables)
    assert "CD14+ Monocyte" in set(tables[0]["label"])  # the label that they were made with


def test_real_cells_may_have_more_genes_in_another_order(thirds):
    a, b, _ = thirds
    only = ["gene_means", "recall_real_to_generated"]
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
            r"\bonly\b.*metrics.*'gene_mean'.*'gene_means'",
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
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.filterwarnings("ignore", "Observation names")
        table = vx.evaluate(made, b, label_key="cell_type", only=CHEAP, progress=False, resamples=5)
    rows = table[table["label"] == "all"].set_index("metric")
    if what in ("no counts", "all alike"):
        assert rows.loc["mmd", "verdict"] == "off"
        assert answers_of(table)["Do they look real?"].light == "red"
    if what.startswith("a copy"):
        assert rows.loc["copies", "value"] == 1
        assert rows.loc["copies", "verdict"] == "off"
        assert answers_of(table)["Do they look real?"].light == "red"


@pytest.mark.parametrize(
    ("n", "words"),
    [(40, "With 20 cells per side, only large differences can be"), (None, "small differences cannot")],
)
def test_few_cells_limit_what_is_detected(thirds, n, words):
    few = vx.evaluate(thirds[0], thirds[1][:n].copy(), only=["gene_means"], resamples=3, progress=False)
    assert words in metric_answers.answers(few)[0].sentence
    few.attrs["cells"] = 500
    assert "detected" not in metric_answers.answers(few)[0].sentence


def test_the_number_of_real_cells_is_read_off_the_rising_curve():
    curve = pd.DataFrame({"n": [5, 10, 20, 40], "f1": [0.2, 0.4, 0.3, 0.6]})
    assert evaluation._cells_needed(curve, 0.4) == 10
    assert 20 < evaluation._cells_needed(curve, 0.5) < 40
    assert evaluation._cells_needed(curve, 0.9) == 40
    assert evaluation._cells_needed(curve, 0.1) == 5


def test_metrics_say_what_they_are():
    for name, metric in METRICS.items():
        assert metric.question in registry.QUESTIONS, name
        assert 0 <= metric.close < metric.far, name
        assert metric.kind in ("any", "counts", "values"), name
        assert metric.per in ("label", "all"), name
        assert metric.limits[0] < metric.limits[1], name
        assert metric.what.endswith("."), name
        assert metric.scale in baseline.SCALES, name
