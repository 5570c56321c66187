"""Simulated studies: designs, effects with known truth, scaled covariates, new labels."""

import json

import numpy as np
import pandas as pd
import pytest

import vaexprs as vx
from vaexprs.generation.sampler import CellSampler, Plan
from vaexprs.generation.scaling import scaled_mixture
from vaexprs.studies.effects import Effects

B, NK = "CD19+ B", "CD56+ NK"


@pytest.fixture(scope="module")
def fitted(cells):
    """Return a fit of eight donors of two batches, who differ in ten genes and in depth."""
    rng = np.random.default_rng(0)
    cells = cells.copy()
    donor = rng.integers(0, 8, cells.n_obs)
    x = cells.X.toarray().astype(int)
    kept = np.full(x.shape, 0.6)
    kept[:, :10] = rng.uniform(0.2, 1, (8, 10))[donor]
    kept[np.ix_(donor % 2 == 1, np.arange(20, 30))] = 0.2  # a batch effect
    cells.X = rng.binomial(x, kept * np.linspace(0.6, 1, 8)[donor][:, None]).astype(np.float32)
    cells.obs["donor"] = [f"d{i}" for i in donor]
    cells.obs["batch"] = np.where(donor % 2, "two", "one")
    cells = cells[cells.X.sum(axis=1) > 0].copy()
    return vx.fit_vae(
        cells,
        label_key="cell_type",
        covariate_keys=["batch"],
        donor_key="donor",
        epochs=12,
        seed=0,
        verbose=0,
    )


def simulate(fitted, design, effects=None, **arguments):
    return vx.simulate(fitted, design, effects, progress=False, **arguments)


def group_means(study, label=B, key="group"):
    """Return the mean counts of each group of a label."""
    cells = study.adata[study.adata.obs["cell_type"] == label]
    groups = cells.obs[key].astype(str).to_numpy()
    return {group: np.ravel(cells.X[groups == group].mean(axis=0)) for group in np.unique(groups)}


def test_cells_donors_and_groups_are_as_designed(fitted):
    design = vx.Design({"control": 3, "treated": 2}, cells={B: 10, NK: 5})
    study = simulate(fitted, design)
    obs = study.adata.obs
    assert obs.groupby("group", observed=True)["donor"].nunique().to_dict() == {"control": 3, "treated": 2}
    assert (pd.crosstab(obs["donor"], obs["cell_type"])[[B, NK]] == [10, 5]).all(axis=None)
    assert list(obs["group"].cat.categories) == ["control", "treated"]
    assert (obs.groupby("donor", observed=True)["batch"].nunique() == 1).all()
    assert json.loads(study.adata.uns["vaexprs"]["groups"]) == {"control": 3, "treated": 2}
    assert "5 donors, groups control, treated, 0 effects" in repr(study)


def test_numbers_of_cells_follow_a_table_or_the_data(fitted):
    table = pd.DataFrame({"cell_type": [B, B, NK], "n": [4, 6, 3], "group": ["control", "treated", None]})
    obs = simulate(fitted, vx.Design({"control": 2, "treated": 2}, cells=table)).adata.obs
    counted = pd.crosstab(obs["group"], obs["cell_type"])
    assert counted.loc["control", [B, NK]].tolist() == [8, 6]
    assert counted.loc["treated", [B, NK]].tolist() == [12, 6]
    obs = simulate(fitted, vx.Design({"control": 4})).adata.obs
    assert set(obs["donor"].value_counts()) <= set(fitted.donors.cells.sum(axis=1))


def test_groups_named_as_levels_have_these_levels(fitted):
    obs = simulate(fitted, vx.Design({"one": 2, "two": 2}, cells=20)).adata.obs
    assert (obs["batch"].astype(str) == obs["group"].astype(str)).all()


def test_paired_groups_have_the_same_donors(fitted):
    design = vx.Design({"before": 3, "after": 3}, cells={B: 300}, paired=True)
    study = simulate(fitted, design)
    obs = study.adata.obs
    assert set(obs["donor"]) == {"donor_1", "donor_2", "donor_3"}
    # the effect of a donor is the same in both groups
    x = study.adata.X[:, :10].toarray()
    profile = pd.DataFrame(np.log(x + 0.1)).groupby([obs["group"].to_numpy(), obs["donor"].to_numpy()]).mean()
    before, after = (profile.loc[group] - profile.loc[group].mean() for group in ("before", "after"))
    assert np.corrcoef(before.to_numpy().ravel(), after.to_numpy().ravel())[0, 1] > 0.6


def test_the_truth_is_recovered_and_all_other_genes_are_exactly_null(fitted):
    effects = Effects(genes=30, log2_fold_change=1.5, sd=0.5, min_mean=0.05)
    study = simulate(fitted, vx.Design({"a": 20, "b": 20}, cells={B: 150}), effects, scale={"donor": 0})
    truth = study.truth.set_index("gene").loc[fitted.genes]
    assert (~truth["null"]).sum() == 30
    assert (truth["expected_log2_fold_change"][truth["null"]] == 0).all()
    assert (truth["expected_log2_fold_change"] == truth["log2_fold_change"]).all()
    assert (truth["log2_fold_change"] > 0).sum() == 15
    means = group_means(study)
    seen = (means["a"] > 0.02) & (means["b"] > 0.02)
    found = np.log2(means["b"][seen] / means["a"][seen])
    asked = truth["log2_fold_change"].to_numpy()[seen]
    assert np.polyfit(asked[asked != 0], found[asked != 0], 1)[0] == pytest.approx(1, abs=0.15)
    null = asked == 0
    depth = np.log2(means["b"][seen][null].sum() / means["a"][seen][null].sum())  # donors differ in depth
    assert abs(np.median(found[null]) - depth) < 0.05


def test_a_table_changes_the_named_genes_in_the_named_label(fitted):
    gene = str(
        fitted.genes[np.argmax(group_means(simulate(fitted, vx.Design({"a": 4}, cells={B: 100})))["a"])]
    )
    table = pd.DataFrame({"gene": [gene], "label": [B], "log2_fold_change": [-20]})
    study = simulate(fitted, vx.Design({"a": 3, "b": 3}, cells={B: 50, NK: 50}), table)
    column = list(fitted.genes).index(gene)
    assert group_means(study)["a"][column] > 1
    assert group_means(study)["b"][column] == 0
    assert group_means(study, NK)["b"][column] > 0
    changed = study.truth[~study.truth["null"]]
    assert changed[["gene", "label", "contrast"]].values.tolist() == [[gene, B, "b / a"]]


def test_effects_differ_between_labels_unless_shared(fitted):
    design = vx.Design({"a": 1, "b": 1}, cells={B: 5, NK: 5})
    for shared in (True, False):
        truth = simulate(fitted, design, Effects(genes=40, shared=shared)).truth
        genes = truth[~truth["null"]].groupby("label")["gene"].agg(set)
        assert (genes[B] == genes[NK]) is shared


def test_a_fitted_condition_is_part_of_the_expected_effect(fitted):
    design = vx.Design({"one": 10, "two": 10}, cells={B: 200})
    study = simulate(fitted, design, scale={"donor": 0})
    truth = study.truth.set_index("gene").loc[fitted.genes]
    assert (truth["log2_fold_change"] == 0).all()
    assert not truth["null"].any()
    means = group_means(study)
    frequent = means["one"] > 0.5
    found = np.log2(means["two"] / np.maximum(means["one"], 1e-9))[frequent]
    expected = truth["expected_log2_fold_change"].to_numpy()[frequent]
    assert np.corrcoef(found, expected)[0, 1] > 0.5


def test_an_effect_is_removed_halved_or_doubled_and_depth_is_kept(fitted):
    batch = slice(20, 30)
    distance, depth = {}, {}
    for factor in (0, 0.5, 1, 2):
        design = vx.Design({"one": 12, "two": 12}, cells={B: 200})
        study = simulate(fitted, design, scale={"batch": factor, "donor": 0})
        share = {group: mean / mean.sum() for group, mean in group_means(study).items()}
        distance[factor] = np.log(share["two"][batch].sum() / share["one"][batch].sum())
        depth[factor] = study.adata.X.sum(axis=1).mean()
    assert abs(distance[0]) < 0.15 < abs(distance[1])
    assert abs(distance[0.5]) < 0.8 * abs(distance[1]) < 0.8 * abs(distance[2])
    assert depth[0] == pytest.approx(depth[1], rel=0.1)


def test_with_a_factor_of_zero_all_levels_have_one_density(fitted):
    one, two = (
        scaled_mixture(fitted, {"cell_type": B, "batch": level}, {"batch": 0}) for level in ("one", "two")
    )
    x = np.random.default_rng(0).standard_normal((50, one.means.shape[1]))
    x[:, -1] = one.means[0, -1]
    y = x.copy()
    y[:, -1] += (two.weights @ two.means - one.weights @ one.means)[-1]  # depth is kept
    assert one.log_prob(x) == pytest.approx(two.log_prob(y))


def test_donors_vary_less_with_their_effects_scaled(fitted):
    def spread(scale):
        study = simulate(fitted, vx.Design({"a": 30}, cells={B: 100}), scale={"donor": scale})
        x = pd.DataFrame(study.adata.X[:, :10].toarray()).groupby(study.adata.obs["donor"].to_numpy()).sum()
        return np.log(x.div(study.adata.X.sum() / 30) + 1e-4).std().mean()

    assert spread(0) < 0.7 * spread(1) < 0.7 * spread(2)


def test_a_new_label_is_made_from_an_existing_one(fitted):
    genes = list(
        fitted.genes[np.argsort(-group_means(simulate(fitted, vx.Design({"a": 3}, cells={B: 90})))["a"])][
            40:60
        ]
    )
    design = vx.Design({"a": 3, "b": 3}, cells={B: 60, "activated B": 60}, new_labels={"activated B": B})
    table = pd.DataFrame({"gene": genes, "label": "activated B", "log2_fold_change": 2.0})
    study = simulate(fitted, design, table)
    assert set(study.adata.obs["cell_type"]) == {B, "activated B"}
    columns = fitted.genes.get_indexer(genes)
    for group in ("a", "b"):
        cells = study.adata[study.adata.obs["group"] == group]
        means = [cells[cells.obs["cell_type"] == label].X[:, columns].mean() for label in (B, "activated B")]
        assert means[1] / means[0] == pytest.approx(4, rel=0.3)
    changed = study.truth[~study.truth["null"]]
    assert set(changed["contrast"]) == {"activated B / CD19+ B"}
    assert sorted(changed["gene"]) == sorted(genes)


def test_depth_scales_the_library_sizes(fitted):
    full, half = (
        simulate(fitted, vx.Design({"a": 5}, cells=100, depth=depth)).adata.X.sum() for depth in (1, 0.5)
    )
    assert half / full == pytest.approx(0.5, rel=0.05)


def test_the_same_seed_gives_the_same_study(fitted):
    design, effects = vx.Design({"a": 2, "b": 2}, cells=20), Effects(genes=5)
    first, same, other = (simulate(fitted, design, effects, seed=seed) for seed in (1, 1, 2))
    assert (first.adata.X != same.adata.X).nnz == 0
    pd.testing.assert_frame_equal(first.truth, same.truth)
    assert not first.truth.equals(other.truth)


def test_cells_and_truth_are_written_side_by_side(fitted, tmp_path):
    out = tmp_path / "study.h5ad"
    design, effects = vx.Design({"a": 2, "b": 2}, cells=10), Effects(genes=5)
    study = simulate(fitted, design, effects, out=out)
    assert vx.read(out).shape == study.adata.shape
    pd.testing.assert_frame_equal(
        pd.read_csv(tmp_path / "study.truth.csv")[["gene", "label", "null"]],
        study.truth[["gene", "label", "null"]],
        check_dtype=False,
    )
    with pytest.raises(FileExistsError):
        simulate(fitted, design, effects, out=out)
    out.unlink()
    with pytest.raises(FileExistsError, match="truth"):
        simulate(fitted, design, effects, out=out)


def test_expected_counts_are_the_mean_of_generated_cells(fitted):
    plan = Plan([{"cell_type": B, "batch": "one"}], np.zeros(1, int), None, 0)
    expected = CellSampler.of(fitted, plan, donors=False).expected(0, 4096)
    study = simulate(fitted, vx.Design({"one": 1}, cells={B: 4000}), scale={"donor": 0})
    made = group_means(study)["one"]
    frequent = expected > 0.2
    shape = (made / made.sum())[frequent] / (expected / expected.sum())[frequent]
    assert np.median(np.abs(np.log(shape))) < 0.05


BAD = [
    ({"groups": {}}, None, TypeError, "groups must map"),
    ({"groups": {"a": 0}}, None, ValueError, "at least 1"),
    ({"cells": {"B cell": 5}}, None, ValueError, "labels of the study"),
    ({"cells": {B: 0}}, None, ValueError, "at least one cell"),
    ({"cells": "many"}, None, TypeError, "cells must be"),
    ({"depth": 0}, None, ValueError, "depth must be above 0"),
    ({"covariates": {"c": {"batch": "one"}}}, None, ValueError, "must name groups"),
    ({"covariates": {"a": {"batch": "three"}}}, None, ValueError, "batch must be one of"),
    ({"groups": {"a": 2, "b": 3}, "paired": True}, None, ValueError, "same number of donors"),
    ({"new_labels": {B: NK}}, None, ValueError, "must be new"),
    ({}, {"gene": ["GEN"], "log2_fold_change": [1]}, ValueError, "gene must be in the model"),
    ({}, {"gene": ["CD3D"]}, ValueError, "must have a column 'log2_fold_change'"),
    ({}, {"gene": ["0"], "log2_fold_change": [np.inf]}, ValueError, "must be a number between"),
    ({}, {"gene": ["0"], "log2_fold_change": [1], "label": ["T"]}, ValueError, "label must be in"),
    ({}, {"gene": ["0", "0"], "log2_fold_change": [1, 2]}, ValueError, "twice"),
    ({}, {"gene": ["top"], "log2_fold_change": [12]}, ValueError, "fit into the library"),
    ({"groups": {"a": 2}}, Effects(), ValueError, "require two groups"),
    ({}, Effects(genes=10**6), ValueError, "genes must be at most"),
    ({}, Effects(direction="sideways"), ValueError, "direction must be"),
]


@pytest.mark.parametrize(("design", "effects", "error", "message"), BAD)
def test_bad_input_is_refused_in_one_sentence(fitted, design, effects, error, message):
    if isinstance(effects, dict) and "gene" in effects:
        frequent = fitted.genes[np.argmax(fitted.model.get_layer("output").bias)]
        names = {"0": str(fitted.genes[0]), "top": str(frequent)}
        effects = effects | {"gene": [names.get(gene, gene) for gene in effects["gene"]]}
    with pytest.raises(error, match=message):
        simulate(fitted, vx.Design(**({"groups": {"a": 2, "b": 2}, "cells": 5} | design)), effects)


@pytest.mark.parametrize("scale", [{"sex": 0}, {"cell_type": 0}, {"batch": -1}, {"batch": "half"}, 0])
def test_bad_scales_are_refused(fitted, scale):
    with pytest.raises((ValueError, TypeError), match="scale"):
        simulate(fitted, vx.Design({"a": 2}, cells=5), scale=scale)


def test_donors_of_a_fit_without_donors_do_not_differ_and_a_warning_says_so(conditional):
    with pytest.warns(UserWarning, match="do not differ"):
        study = simulate(conditional, vx.Design({"a": 2}, cells=20))
    assert study.adata.obs["donor"].nunique() == 2
    with pytest.raises(ValueError, match="cells must be given"):
        simulate(conditional, vx.Design({"a": 1}))


def test_a_fit_to_values_that_are_not_counts_is_refused(conditional):
    with pytest.raises(TypeError, match="must be a vaexprs.Design"):
        simulate(conditional, {"a": 2})
