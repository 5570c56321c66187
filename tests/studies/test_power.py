"""Power of planned studies: tables, sentences, tests of expression, figure and page."""

import json
import warnings
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp

import vaexprs as vx
from commands import run
from vaexprs.report.power import render_power, write_power
from vaexprs.studies.expression_tests import Samples, compute_p_values, size_factors
from vaexprs.studies.replicates import EXPRESSION

GRID = {"donors": [3, 8], "cells": [40], "log2_fold_change": [0.5, 3]}


@pytest.fixture(scope="module")
def fitted(cells):
    """A fit to cells of eight donors, who differ in depth and in ten frequent genes."""
    rng = np.random.default_rng(0)
    cells = cells.copy()
    donor = rng.integers(0, 8, cells.n_obs)
    x = np.asarray(sp.csr_matrix(cells.X).toarray())
    kept = np.full(x.shape, 0.6)
    kept[:, np.argsort(-x.sum(axis=0))[:10]] = rng.uniform(0.1, 1, (8, 10))[donor]
    cells.X = sp.csr_matrix(rng.binomial(x.astype(int), kept).astype(np.float32))
    cells.obs["donor"] = [f"d{i}" for i in donor]
    cells.obs["stim"] = np.where(rng.random(cells.n_obs) < 0.5, "no", "yes")
    cells = cells[np.ravel(cells.X.sum(axis=1)) > 0].copy()
    return vx.fit_vae(
        cells,
        label_key="cell_type",
        covariate_keys=["stim"],
        donor_key="donor",
        epochs=12,
        seed=0,
        verbose=0,
    )


@pytest.fixture(scope="module")
def result(fitted):
    return vx.power(fitted, GRID, label="CD34+", replicates=4, progress=False)


@pytest.fixture(scope="module")
def saved(fitted, tmp_path_factory):
    return fitted.save(tmp_path_factory.mktemp("power") / "model")


def counts(rng, n=12, genes=300, mean=30.0):
    return rng.negative_binomial(8, 8 / (8 + mean), (n, genes))


def test_power_rises_with_donors_and_effect(result):
    table = result.table.set_index(["donors", "log2_fold_change"])["power"]
    assert table[8, 3.0] > table[3, 3.0]
    assert table[8, 3.0] > table[8, 0.5] + 0.2
    assert result.table["power"].between(0, 1).all()
    known = result.table[result.table["power_low"].notna()]  # not where all replicates agree
    assert len(known) > 0
    assert (known["power_low"] <= known["power"]).all()
    assert (known["power_high"] >= known["power"]).all()
    assert (result.table["cells"] == 40).all()
    assert (result.table["replicates"] == 4).all()
    highest = result.by_expression.pivot_table(index="expression", values="power")["power"]
    assert highest[EXPRESSION[-1]] > highest[EXPRESSION[0]]


@pytest.mark.parametrize("jobs", [1, 3])
def test_the_seed_gives_the_table_with_any_number_of_jobs(fitted, result, jobs):
    same = vx.power(fitted, GRID, label="CD34+", replicates=4, jobs=jobs, progress=False)
    pd.testing.assert_frame_equal(same.table, result.table)
    pd.testing.assert_frame_equal(same.by_expression, result.by_expression)


def test_another_seed_gives_another_table(fitted, result):
    other = vx.power(fitted, GRID, label="CD34+", replicates=2, seed=1, progress=False)
    assert not np.allclose(other.table["power"], result.table["power"])


def test_sentences_name_the_smallest_design_with_enough_power(result):
    rows = [(4, 50, 0.82), (8, 50, 0.9), (4, 20, 0.7)]
    table = pd.DataFrame(
        [
            {"donors": n, "cells": c, "depth": 1.0, "log2_fold_change": 1.0, "test": "t-test", "power": p}
            | {"power_low": p, "power_high": p, "fdr": 0.04, "fdr_low": 0.02, "fdr_high": 0.06}
            for n, c, p in rows
        ]
    )
    quarters = pd.DataFrame({"power": np.linspace(0, 1, 12)})
    enough = replace(result, table=table, by_expression=quarters, label="B")
    assert enough.sentence == "4 donors a group with 50 'B' cells each find 82% of twofold changes at 5% FDR."
    few = replace(enough, table=table.assign(power=[0.3, 0.5, 0.2], log2_fold_change=0.5))
    assert few.sentence == (
        "None of the designs finds 80% of 1.4-fold changes at 5% FDR. The best, 8 donors a group with 50 'B' "
        "cells each, finds 50% (64% in the highest quarter of expression)."
    )
    false = replace(enough, table=table.assign(fdr=0.5, fdr_low=0.4), test="wilcoxon")
    assert false.sentences[-1] == (
        "The Wilcoxon test of cells does not control the false discovery rate: up to 50% of the genes that it "
        "finds are false."
    )
    assert enough.sentence in repr(enough)


def test_no_effect_has_no_power_and_five_percent_of_small_p_values(fitted):
    grid = {"donors": 8, "cells": 30}
    none = vx.power(
        fitted, grid, vx.Effects(log2_fold_change=0), label="CD34+", replicates=10, progress=False
    ).table.iloc[0]
    assert np.isnan(none["power"])
    assert 0.03 < none["type1"] < 0.07
    assert none["fdr"] < 0.4


def test_designs_may_be_paired_or_have_a_covariate(fitted):
    paired, plain = (
        vx.Design({"a": 4, "b": 4}, {"CD34+": 30, "Dendritic": 5}, paired=paired) for paired in (True, False)
    )
    levels = vx.Design(
        {"a": 3, "b": 4}, {"CD34+": 30}, depth=2, covariates={"a": {"stim": "no"}, "b": {"stim": "no"}}
    )
    effects = vx.Effects(genes=0.2, log2_fold_change=2, min_mean=0.1)
    found = vx.power(
        fitted, [paired, plain, levels], effects, label="CD34+", replicates=3, progress=False
    ).table
    assert found["donors"].tolist() == [4, 4, 3]
    assert found["depth"].tolist() == [1, 1, 2]
    assert (found["log2_fold_change"] == 2).all()
    assert found["power"].notna().all()
    one = vx.power(fitted, levels, effects, replicates=1, progress=False)
    assert one.label == "CD34+"
    assert np.isnan(one.table["power_low"][0])


@pytest.mark.slow
def test_cells_as_samples_give_false_discoveries(fitted):
    grid = {"donors": 4, "cells": 60}
    effects = vx.Effects(log2_fold_change=0)
    bulks, single = (
        vx.power(fitted, grid, effects, label="CD34+", test=test, replicates=6, progress=False).table
        for test in ("t-test", "wilcoxon")
    )
    assert single["type1"][0] > bulks["type1"][0] + 0.01
    assert single["fdr"][0] > bulks["fdr"][0]


@pytest.mark.slow
def test_pydeseq2_is_a_test_with_any_number_of_jobs(fitted):
    pytest.importorskip("pydeseq2")
    grid = {"donors": 4, "cells": 30, "log2_fold_change": 3}
    one, two = (
        vx.power(fitted, grid, label="CD34+", test="pydeseq2", replicates=2, jobs=jobs, progress=False).table
        for jobs in (1, 2)
    )
    pd.testing.assert_frame_equal(one, two)
    assert one["power"][0] > 0


@pytest.mark.parametrize(
    ("designs", "arguments", "message"),
    [
        ({"donors": [1, 4], "cells": 5}, {}, "'t-test' requires at least 2 donors a group, got 1"),
        ({"donors": 4}, {}, "numbers of cells"),
        ({"donors": 4, "cels": 5}, {}, "'cels'.*Did you mean 'cells'"),
        ({"donors": 4, "cells": []}, {}, "at least one number"),
        ({"donors": 4, "cells": 0}, {}, "cells must be at least 1"),
        ({"donors": 4, "cells": 5}, {"label": None}, "label must be one of the labels"),
        ({"donors": 4, "cells": 5}, {"label": "B"}, "got 'B'"),
        ({"donors": 4, "cells": 5}, {"test": "ttest"}, "Did you mean 't-test'"),
        ({"donors": 4, "cells": 5}, {"replicates": 0}, "replicates must be at least 1"),
        ({"donors": 4, "cells": 5}, {"fdr": 0}, "fdr must be above 0"),
        ({"donors": 4, "cells": 5}, {"effects": vx.Effects(genes=1_000_000)}, "genes must be at most"),
        (vx.Design({"a": 4}, 10), {}, "two groups, got 1"),
        (vx.Design({"no": 4, "yes": 4}, 10), {}, "must have the same covariates"),
        (vx.Design({"a": 4, "b": 4}, {"Dendritic": 5}), {}, "cells of the label 'CD34\\+'"),
    ],
)
def test_bad_designs_are_refused(fitted, designs, arguments, message):
    with pytest.raises(ValueError, match=message):
        vx.power(fitted, designs, **({"label": "CD34+", "progress": False} | arguments))


def test_other_types_are_refused(fitted, conditional, result):
    with pytest.raises(TypeError, match="designs must be a grid"):
        vx.power(fitted, 3, label="CD34+")
    with pytest.raises(TypeError, match="effects must be a vaexprs.Effects"):
        vx.power(fitted, GRID, {"genes": 3}, label="CD34+")
    with pytest.raises(TypeError, match="result of vaexprs.power"):
        vx.plot_power(result.table)
    with pytest.raises(ValueError, match="requires a fit with donor_key"):
        vx.power(conditional, GRID, label="CD34+")


def test_a_missing_package_is_named(fitted, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "pydeseq2", None)
    with pytest.raises(ImportError, match="pip install pydeseq2"):
        vx.power(fitted, GRID, label="CD34+", test="pydeseq2", progress=False)


def test_size_factors_ignore_altered_genes():
    rng = np.random.default_rng(0)
    x = counts(rng)
    x[6:] *= 3
    expected = np.repeat([1, 3], 6) / np.sqrt(3)
    assert size_factors(x) == pytest.approx(expected, rel=0.1)
    x[6:, :3] *= 1_000
    assert size_factors(x) == pytest.approx(expected, rel=0.1)
    few = x[:, :5]
    assert size_factors(few) == pytest.approx(few.sum(axis=1) / np.exp(np.log(few.sum(axis=1)).mean()))


@pytest.mark.parametrize("test", ["t-test", "wilcoxon", "pydeseq2"])
def test_tests_find_altered_genes_and_leave_out_rare_ones(test):
    if test == "pydeseq2":
        pytest.importorskip("pydeseq2")
    rng = np.random.default_rng(1)
    n = 12 if test != "wilcoxon" else 200
    x = counts(rng, n, 60)
    treated = np.arange(n) >= n // 2
    x[treated, :2] *= 4  # balanced: totals do not differ
    x[~treated, 2:4] *= 4
    x[:, 59] = 0
    x[0, 59] = 9
    samples = Samples(sp.csr_matrix(x) if test == "wilcoxon" else x, treated)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        p, adjusted = compute_p_values(test, samples, 0.05)
    assert np.isnan(p[59])
    assert np.isnan(adjusted[59])
    assert (adjusted[:4] < 0.05).all()
    assert np.mean(adjusted[4:59] < 0.05) < 0.2


def test_pairs_are_compared_within_donors():
    rng = np.random.default_rng(2)
    donor = rng.gamma(2, 1, (6, 40)) * 100
    effect = np.where(np.arange(40) < 5, 1.6, 1.0)
    x = rng.poisson(np.concatenate([donor, donor[::-1] * effect]))
    treated, donors = np.arange(12) >= 6, np.concatenate([np.arange(6), np.arange(6)[::-1]])
    paired = compute_p_values("t-test", Samples(x, treated, donors), 0.05)[1]
    plain = compute_p_values("t-test", Samples(x, treated), 0.05)[1]
    assert (paired[:5] < 0.05).sum() > (plain[:5] < 0.05).sum()


def test_the_figure_has_a_panel_for_each_effect(result):
    figure = vx.plot_power(result)
    assert [panel.get_title() for panel in figure.axes] == ["log2 fold change 0.5", "log2 fold change 3"]
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["40 cells"]


def test_the_page_is_self_contained_and_escapes_names(result, tmp_path):
    hostile = replace(result, label="</h1><script>alert(1)</script>")
    page = render_power(hostile, {"model": "<b>"})
    assert "<script" not in page
    assert "&lt;b&gt;" in page
    assert "http-equiv" in page
    assert 'src="data:image/svg+xml;base64,' in page
    path = write_power(result, tmp_path / "power.html")
    text = path.read_text()
    assert all(f'data-value="{value!r}"' in text for value in result.table["power"])
    with pytest.raises(FileExistsError):
        write_power(result, path)
    with pytest.raises(ValueError, match=r"must end in \.html"):
        write_power(result, tmp_path / "power.pdf")
    assert "donors" in result._repr_html_()


def test_the_command_writes_page_and_table(saved, fitted, tmp_path):
    words = ["power", saved, "--label", "CD34+", "--donors", 3, "--donors", 5, "--cells", 20, "--genes", 0.2]
    words += ["--log2-fold-change", 2, "--replicates", 2, "--seed", 3]
    done = run(*words, "--out", tmp_path / "power.html")
    assert done.returncode == 0, done.stderr
    assert "at 5% FDR" in done.stdout
    assert "Power of planned studies of CD34+" in (tmp_path / "power.html").read_text()
    done = run(*words, "--out", tmp_path / "power.json", "-q")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    rows = json.loads((tmp_path / "power.json").read_text())
    grid = {"donors": [3, 5], "cells": 20, "log2_fold_change": 2.0}
    mine = vx.power(fitted, grid, vx.Effects(0.2), label="CD34+", replicates=2, seed=3, progress=False)
    assert [row["power"] for row in rows] == pytest.approx(mine.table["power"].tolist())
