"""Known-bad cells are noticed, and fresh real cells are not: the controls of the scorecard.

`benchmarks/scorecard.py` prints the whole table, for more cells and with random forests.
"""

import numpy as np
import pytest

import vaexprs as vx
from controls import CONTROLS, evenly_spread_draws, roles, unchanged
from vaexprs.metrics.answers import answers, label_lights
from vaexprs.metrics.registry import METRICS

CHEAP = [
    name
    for name, metric in METRICS.items()
    if metric.question in ("looks", "types", "differences") and not metric.slow
]
CELLS = 230  # a third of the demo cells
# controls that need a type with more cells than the rarest of the demo data has
RARE = {"rarest_from_its_mean"}
# what must be off, of each control; without an entry any metric will do
EXPECTED = {
    "zeros_to_ones": {"detected_genes_ratio"},
    "zeros_inflated": {"detected_genes_ratio"},
    "doublets": {"library_size_spread"},
    "junk": {"detected_genes_spread"},
    "rarest_replaced": {"recall_real_to_generated"},
    "genes_scaled": {"gene_means"},
    "genes_copied": {"gene_means"},
    "genes_independent": {"library_size_spread", "within_correlation_ratio"},
    "types_collapsed": {"library_size_spread", "within_correlation_ratio", "dispersion_ratio"},
    "library_smaller": {"library_size_ratio"},
    "library_larger": {"library_size_ratio"},
    "dispersion_doubled": {"dispersion_ratio"},
    "dispersion_halved": {"dispersion_ratio"},
    "copied": {"copies"},
}
# noticed only with more cells than the demo data have: see benchmarks/scorecard.md
NEED_MORE = {"module_shuffled", "subcluster_missing"}


def lights(table):
    return {answer.question: answer.light for answer in answers(table)[:3]}


def evaluated(parts, seed=0, only=CHEAP, **kwargs):
    made, real, train = parts
    return vx.evaluate(
        made, real, train=train, label_key="cell_type", only=only, seed=seed, progress=False, **kwargs
    )


@pytest.fixture(scope="module")
def parts(cells):
    return roles(cells, "cell_type", CELLS, np.random.default_rng(0))


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(set(CONTROLS) - RARE - NEED_MORE))
def test_known_bad_cells_are_off_and_turn_an_answer(parts, name):
    made, real, train, spare = parts
    spoiled = CONTROLS[name](made, spare, "cell_type", np.random.default_rng(0))
    table = evaluated((spoiled, real, train))
    off = set(table.loc[table["verdict"] == "off", "metric"])
    assert off
    assert EXPECTED.get(name, off) <= off
    assert set(lights(table).values()) & {"amber", "red"}


@pytest.mark.slow
def test_fresh_real_cells_are_green(cells):
    green = []
    for seed in range(8):
        made, real, train, _ = roles(cells, "cell_type", CELLS, np.random.default_rng(seed))
        green.append(set(lights(evaluated((made, real, train), seed)).values()) == {"green"})
    assert sum(green) >= 7


@pytest.mark.slow
def test_the_rarest_type_decides_on_itself(real_data):
    """Forty cells of the rarest type that are Poisson draws of its mean are red; the other types are not."""
    cells = real_data("pbmc_facs")
    cells = cells[:, np.argsort(-np.ravel(cells.X.mean(axis=0)))[:1000]].copy()
    made, real, train, spare = roles(cells, "cell_type", 1000, np.random.default_rng(0))
    for name in ("rarest_from_its_mean", "rarest_replaced"):
        spoiled = CONTROLS[name](made, spare, "cell_type", np.random.default_rng(0))
        table = evaluated((spoiled, real, train), resamples=20)
        found = label_lights(table)
        assert found.pop(str(made.obs["cell_type"].value_counts().idxmin())) == "red", name
        assert sum(light != "green" for light in found.values()) <= 1
        assert lights(table)["Is each type right?"] == "red"


@pytest.mark.slow
def test_a_missing_part_of_a_type_is_off(cells):
    """T cells of four types have one label; all cytotoxic ones are missing."""
    coarse = cells.copy()
    fine = coarse.obs["cell_type"].astype(str)
    coarse.obs["cell_type"] = np.where(fine.str.startswith(("CD4", "CD8")), "T cell", fine)
    coarse.obs["fine"] = fine.to_numpy()
    made, real, train, _ = roles(coarse, "cell_type", CELLS, np.random.default_rng(0))
    made = made[made.obs["fine"] != "CD8+ Cytotoxic T"].copy()
    table = evaluated((made, real, train), only=["subpopulations", "gene_means", "recall_real_to_generated"])
    assert label_lights(table)["T cell"] in ("amber", "red")
    verdicts = table.set_index(["metric", "label"])["verdict"]
    assert verdicts["subpopulations", "T cell"] == "off"


def test_fresh_cells_and_cells_with_other_depth_by_a_few_metrics(parts):
    """A quick version of the tests above, for every change."""
    made, real, train, spare = parts
    only = ["library_size_ratio", "recall_real_to_generated", "copies"]
    rng = np.random.default_rng(0)
    fresh = evaluated((unchanged(made, spare, "cell_type", rng), real, train), only=only, resamples=10)
    assert not (fresh["verdict"] == "off").any()
    for name in ("library_smaller", "rarest_replaced", "copied"):
        spoiled = CONTROLS[name](made, spare, "cell_type", rng)
        table = evaluated((spoiled, real, train), only=only, resamples=10)
        assert (table["verdict"] == "off").any(), name


def test_cells_more_alike_than_independent_ones_are_off():
    """Draws from the truth that are evenly spread agree too well; independent ones do not."""
    rng = np.random.default_rng(3)
    real, train, fresh = (evenly_spread_draws(400, 300, rng, spread=False) for _ in range(3))
    even = evenly_spread_draws(400, 300, rng, spread=True)
    only = ["gene_means", "library_size_ratio"]
    good = evaluated((fresh, real, train), only=only).set_index(["metric", "label"])
    bad = evaluated((even, real, train), only=only).set_index(["metric", "label"])
    assert good.loc[("gene_means", "all"), "verdict"] != "off"
    assert bad.loc[("gene_means", "all"), "verdict"] == "off"
    assert bad.loc[("gene_means", "all"), "value"] < bad.loc[("gene_means", "all"), "floor_low"]
