"""Private levels of label and covariates: the threshold, weights of units, and what a fit reveals of levels."""

import re
import zipfile

import numpy as np
import pandas as pd
import pytest
from scipy.stats import binomtest, norm

import vaexprs as vx
from commands import run

pytest.importorskip("jax_privacy", reason="jax-privacy is not installed")

from vaexprs.differential_privacy import fit as private_fit
from vaexprs.differential_privacy import marginals
from vaexprs.differential_privacy.accounting import Privacy, plan
from vaexprs.differential_privacy.fit import with_released_levels
from vaexprs.differential_privacy.levels import MAX_LEVELS, release_levels, sums_of_weights, threshold
from vaexprs.differential_privacy.mechanisms import Units
from vaexprs.differential_privacy.randomness import Randomness
from vaexprs.preprocessing.conditions import Conditions
from vaexprs.preprocessing.prepare import Cells, Preprocessing
from vaexprs.preprocessing.scaling import Scaling
from vaexprs.report import reproduce

DELTA = 0.2  # large, so that levels of one unit are released often enough to count them
KEYS = Conditions("type", {"type": ()})


def released(obs, units, multiplier=3.0, delta=DELTA, seed=1, conditions=KEYS):
    return release_levels(obs, conditions, units, multiplier, delta, Randomness(seed))


# the mechanism


def test_a_level_of_one_cell_is_released_with_a_probability_of_at_most_delta():
    alone, common = 4_000, 200  # cells with a level of their own are independent trials
    names = [f"own {i}" for i in range(alone)] + ["common"] * common
    units = Units(np.arange(alone + common), alone + common, single=True)
    levels = released(pd.DataFrame({"type": names}), units).conditions.levels["type"]
    assert "common" in levels
    n = len(levels) - 1
    assert binomtest(n, alone, DELTA, alternative="greater").pvalue > 1e-3, n / alone
    assert binomtest(n, alone, DELTA, alternative="less").pvalue > 1e-3, n / alone  # no higher than needed


@pytest.mark.parametrize("own", [1, 3, 20])
def test_that_any_level_of_one_donor_is_released_has_a_probability_of_at_most_delta(own):
    donors = 1_500
    names = [["common", *(f"{donor} {i}" for i in range(own))] for donor in range(donors)]
    units = Units(np.repeat(np.arange(donors), own + 1), donors)
    levels = released(pd.DataFrame({"type": np.ravel(names)}), units).conditions.levels["type"]
    assert "common" in levels
    n = len({level.split()[0] for level in levels} - {"common"})  # donors of whom any level was released
    assert binomtest(n, donors, DELTA, alternative="greater").pvalue > 1e-3, n / donors


@pytest.mark.parametrize("sd", [0.2, 1.0, 5.0, 100.0])
@pytest.mark.parametrize("delta", [1e-9, 1e-6, 0.1])
def test_the_threshold_is_the_smallest_for_any_number_of_levels_of_one_unit(sd, delta):
    least = threshold(sd, delta, 10)
    t = np.arange(1, 11)
    each = norm.sf((least - 1 / np.sqrt(t)) / (sd * 1.001))  # of a level: noise is larger by MARGIN
    any_of_them = -np.expm1(t * np.log1p(-each))
    assert any_of_them.max() <= delta
    assert any_of_them.max() == pytest.approx(delta, rel=1e-4)


def test_weights_of_a_unit_have_a_norm_of_one_whatever_its_levels():
    n = MAX_LEVELS + 20
    obs = pd.DataFrame({"type": [f"t{i}" for i in range(n)] + ["t3"] * 5, "batch": "b"})
    units = Units(np.zeros(n + 5, int), 1)
    sums = sums_of_weights(obs, ["type", "batch"], units)
    assert len(sums) == MAX_LEVELS
    assert np.linalg.norm(sums) == pytest.approx(1)
    assert {("type", "t3"), ("batch", "b")} <= set(sums.index)  # levels of most cells
    single = Units(np.arange(n + 5), n + 5, single=True)
    one = sums_of_weights(obs[:1], ["type", "batch"], Units(np.zeros(1, int), 1, single=True))
    assert np.linalg.norm(one) == pytest.approx(1)
    several = sums_of_weights(obs, ["type", "batch"], single)
    assert several["type", "t3"] == pytest.approx(6 / np.sqrt(2))


def test_released_levels_are_sorted_and_only_those_of_cells():
    names = np.repeat(["b", "a", "c"], [100, 300, 2])
    column = pd.Categorical(names, categories=["without cells", "c", "b", "a"])
    obs = pd.DataFrame({"type": column, "batch": "x"})
    conditions = Conditions("type", {"type": tuple(column.categories), "batch": ("x",)})
    found = released(obs, Units(np.arange(402), 402, single=True), delta=1e-6, conditions=conditions)
    assert found.conditions == Conditions("type", {"type": ("a", "b"), "batch": ("x",)})


def test_numbers_of_units_are_those_of_the_release():
    rng = np.random.default_rng(0)
    obs = pd.DataFrame({"type": rng.choice(["a", "b"], 3_000, p=[0.8, 0.2]), "batch": "x"})
    conditions = Conditions("type", {"type": (), "batch": ()})
    cells = Units(np.arange(3_000), 3_000, single=True)
    n = [(obs["type"] == "a").sum(), (obs["type"] == "b").sum(), 3_000]
    found = released(obs, cells, multiplier=0.1, conditions=conditions)
    numbers, sd = found.numbers_of_units(cells)
    np.testing.assert_allclose(numbers, n, atol=1)
    assert sd == pytest.approx(0.1 * np.sqrt(2))
    donors = Units(np.arange(3_000) // 10, 300)  # nearly all have both types
    numbers, _ = released(obs, donors, multiplier=0.1, conditions=conditions).numbers_of_units(donors)
    present = obs.groupby(donors.of)["type"].nunique()
    np.testing.assert_allclose(numbers[2], 300, rtol=0.02)
    assert numbers[1] == pytest.approx(300 * (present == 2).mean(), rel=0.05)


def test_no_released_level_is_an_error_that_depends_on_the_release_only():
    messages = set()
    for n in (20, 21):
        obs = pd.DataFrame({"type": np.arange(n).astype(str)})
        with pytest.raises(
            ValueError, match=r"'type'.*needs about 78 cells.*larger epsilon.*counts as"
        ) as one:
            released(obs, Units(np.arange(n), 400, single=True), multiplier=16.0, delta=1e-6)
        messages.add(str(one.value))
    assert len(messages) == 1
    with pytest.raises(ValueError, match=r"'type'.*units \(more"):
        released(obs[:0], Units(np.zeros(0, int), 400), multiplier=16.0, delta=1e-6)


def test_marginals_do_not_change_if_cells_with_other_levels_are_left_out():
    rng = np.random.default_rng(0)
    n, genes = 3_000, 20
    depth = rng.lognormal(8, 0.3, n)
    x = rng.poisson(depth[:, None] * rng.dirichlet(np.ones(genes))).astype(np.float32) + 1
    names = np.array(["a", "b", *(f"own {i}" for i in range(n - 2))])
    names[: n // 2] = rng.choice(["a", "b"], n // 2, p=[0.8, 0.2])
    obs = pd.DataFrame({"type": names}, index=np.arange(n).astype(str))
    genes = pd.Index([f"g{i}" for i in range(genes)])
    scaling = Scaling("counts", np.zeros(0), np.zeros(0), 1.0)
    prepared = Preprocessing(genes, KEYS, scaling, "nb", Cells(x, obs))
    guarantee = plan(Privacy(100, 1e-5, levels="private"), units=n, rate=0.2, steps=0, cells_per_unit=1)
    prepared, units, levels = with_released_levels(
        prepared, Units(np.arange(n), n, single=True), guarantee, Randomness(1)
    )
    assert len(prepared.train) == n // 2
    assert units.n == n
    found = marginals.release_marginals(
        prepared.train.x, prepared.train.obs, prepared.conditions, units, 0.1, Randomness(2), levels
    )
    assert found.units == pytest.approx(n / 2, rel=0.01)
    np.testing.assert_allclose(found.share, [0.8, 0.2], atol=0.02)
    assert found.library_middle == pytest.approx(np.log(x.sum(axis=1)).mean(), abs=0.05)
    assert found.library_spread == pytest.approx(np.log(x.sum(axis=1)).std(), abs=0.05)


# the fit


@pytest.fixture(scope="module")
def cells():
    demo = vx.demo_cells()
    kept = demo[:, np.sort(np.argsort(-np.ravel(demo.X.sum(axis=0)))[:40])].copy()
    kept.obs = kept.obs[["cell_type"]].copy()
    kept.obs["cell_type"] = kept.obs["cell_type"].cat.add_categories(["secret type", "unused type"])
    kept.obs.loc[kept.obs_names[5], "cell_type"] = "secret type"
    return kept


def fitted(cells, epsilon=10.0, seed=None, **arguments):
    privacy = Privacy(epsilon, 1e-4, levels="private", insecure_test_seed=seed)
    return vx.fit_vae(cells, privacy=privacy, **({"label_key": "cell_type", "verbose": 0} | arguments))


@pytest.fixture(scope="module")
def fit(cells):
    return fitted(cells, epochs=1)


def contents(path) -> str:
    """Return the content of a file, with archives unpacked, so that ASCII text is found in it."""
    if not zipfile.is_zipfile(path):
        return path.read_bytes().decode("latin-1")
    with zipfile.ZipFile(path) as archive:
        parts = [archive.read(name) for name in archive.namelist()]
    return "".join(
        part.decode("latin-1").replace("\0", "") for part in parts
    )  # names have 4 bytes per letter


@pytest.mark.seconds(30)
def test_a_model_names_released_levels_only_and_says_that_levels_are_protected(fit, tmp_path):
    assert "Dendritic" in fit.levels["cell_type"]
    assert list(fit.levels["cell_type"]) == sorted(fit.levels["cell_type"])
    path = fit.save(tmp_path / "model")
    made = vx.gen_exprs(fit, 20, progress=False).adata
    texts = [repr(fit), str(made.uns), made.obs.to_csv(), *map(contents, path.iterdir())]
    assert any("Dendritic" in text for text in texts)
    assert not any("secret" in text or "unused" in text for text in texts)
    assert "including the levels" in fit.guarantee.sentence
    assert "few cells have" in fit.guarantee.explanation
    statements = reproduce.privacy_statements(fit)
    assert re.search(
        r"Mechanisms: levels \(noise multiplier \d.*threshold.*1e-05\), marginals", statements[1]
    )
    code = reproduce.code(fit, {}, 10, given=False, label_key=None, donor_key=None, layer=None, seed=0)
    assert "unit='cell', levels='private')" in code
    assert vx.load_vae(path).guarantee == fit.guarantee


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"levels": 0.0}, r"levels 0"),
        ({"threshold_delta": 0.0}, r"levels \d"),
        ({"threshold_delta": 1e-4}, r"threshold_delta 0\.0001"),
        ({"levels": 0.1}, r"epsilon.*at least"),
    ],
)
def test_a_release_of_levels_that_the_guarantee_cannot_contain_is_refused(
    fit, load_with_guarantee, change, words
):
    with pytest.raises(ValueError, match=words):
        load_with_guarantee(fit, change)


def test_private_levels_require_a_label_or_a_covariate(cells):
    with pytest.raises(ValueError, match=r"levels='private' requires label_key or covariate_keys"):
        fitted(cells, label_key=None)
    with pytest.raises(ValueError, match=r"levels must be one of 'public', 'private', got 'noisy'"):
        Privacy(3, levels="noisy")


@pytest.mark.seconds(30)
def test_a_level_for_each_cell_is_no_error_but_that_none_is_released(cells):
    # whether each cell has a level of its own may depend on a single cell
    each = cells.copy()
    each.obs["cell_type"] = each.obs_names
    with pytest.raises(ValueError, match=r"^No level of 'cell_type' was released"):
        fitted(each)


class Planned(Exception):
    """Ends a fit when its steps are planned."""


def test_whether_to_train_does_not_depend_on_private_levels(cells, monkeypatch):
    few, many = cells.copy(), cells.copy()
    few.obs["cell_type"] = np.where(np.arange(700) % 2, "a", "b")
    many.obs["cell_type"] = [f"type {i % 20}" for i in range(700)]

    def planned(privacy, *, steps, **_):
        raise Planned(steps)

    monkeypatch.setattr(private_fit, "plan", planned)

    def steps(given, levels):
        with pytest.raises(Planned) as found:
            vx.fit_vae(given, label_key="cell_type", privacy=Privacy(0.25, 1e-4, levels=levels), verbose=0)
        return found.value.args[0]

    assert steps(few, "public") > steps(many, "public") == 0  # more levels have more weights
    assert steps(few, "private") == steps(many, "private")


def test_private_levels_from_the_shell(cells, tmp_path):
    cells.write_h5ad(tmp_path / "cells.h5ad")
    command = ("fit", "cells.h5ad", "--out", "model", "--label-key", "cell_type", "--levels")
    done = run(*command, "private", cwd=tmp_path)
    assert done.returncode == 2
    assert re.search(r"--levels requires --epsilon", done.stderr), done.stderr
    done = run(*command, "noisy", "--epsilon", "3", cwd=tmp_path)
    assert done.returncode == 2
    assert re.search(r"levels must be one of.*'noisy'", done.stderr), done.stderr
    done = run(*command, "private", "--epsilon", "0.1", cwd=tmp_path)
    assert done.returncode == 2
    assert re.search(r"No level of 'cell_type' was released.*--levels public", done.stderr), done.stderr
    assert not (tmp_path / "model").exists()
