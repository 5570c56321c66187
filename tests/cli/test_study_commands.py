"""`vaexprs simulate` and `vaexprs power`, and donors of `fit` and `generate`."""

import re

import anndata as ad
import numpy as np
import pandas as pd
import pytest

import vaexprs as vx
from commands import run


@pytest.fixture(scope="module")
def folder(few, tmp_path_factory):
    """A folder with a model of donors, fitted by the command."""
    folder = tmp_path_factory.mktemp("studies")
    cells = few.copy()
    cells.obs["donor"] = [f"d{i % 4}" for i in range(cells.n_obs)]
    cells.obs["stim"] = np.where(np.arange(cells.n_obs) // 4 % 2, "stim", "ctrl")
    cells.write_h5ad(folder / "cells.h5ad")
    done = run(
        "fit", folder / "cells.h5ad", "--label-key", "cell_type", "--covariate-key", "stim",
        "--donor-key", "donor", "--out", folder / "model", "--epochs", 3,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "donor (4)" in done.stdout
    return folder


def test_generate_draws_new_donors(folder, tmp_path):
    for donors, n in (("5", 5), ("ctrl=2 --donors stim=3", 5)):
        words = ["-n", 40, "--donors", *donors.split(), "--out", tmp_path / f"{donors[:2]}.h5ad"]
        done = run("generate", folder / "model", *words)
        assert done.returncode == 0, done.stderr
        made = ad.read_h5ad(tmp_path / f"{donors[:2]}.h5ad")
        assert made.obs["donor"].nunique() == n


def test_simulate_does_what_python_does(folder, tmp_path):
    effects = pd.DataFrame({"gene": vx.load_vae(folder / "model").genes[:2], "log2_fold_change": [1.0, -2.0]})
    effects.to_csv(tmp_path / "effects.csv", index=False)
    done = run(
        "simulate", folder / "model", "--donors", "a=2", "--donors", "b=3",
        "--cells-per-label", "CD19+ B=4", "--cells-per-label", "Dendritic=2",
        "--effects", tmp_path / "effects.csv", "--covariate", "stim=ctrl", "--covariate", "b:stim=stim",
        "--scale", "stim=0.5", "--depth", 2, "--seed", 7, "--out", tmp_path / "study.h5ad",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "30 cells" in done.stdout
    assert "study.truth.csv" in done.stdout
    design = vx.Design(
        {"a": 2, "b": 3},
        {"CD19+ B": 4, "Dendritic": 2},
        depth=2,
        covariates={"a": {"stim": "ctrl"}, "b": {"stim": "stim"}},
    )
    fit = vx.load_vae(folder / "model")
    mine = vx.simulate(fit, design, effects, scale={"stim": 0.5}, seed=7, progress=False)
    made = ad.read_h5ad(tmp_path / "study.h5ad")
    assert (made.X != mine.adata.X).nnz == 0
    truth = pd.read_csv(tmp_path / "study.truth.csv")
    assert truth["log2_fold_change"].tolist() == mine.truth["log2_fold_change"].tolist()


def test_simulate_draws_effects_of_labels(folder, tmp_path):
    done = run(
        "simulate", folder / "model", "--donors", "a=2", "--donors", "b=2", "--cells", 20, "--paired",
        "--genes", 5, "--log2-fold-change", 2, "--direction", "up", "--label", "CD19+ B",
        "--out", tmp_path / "study.h5ad", "--quiet",
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (0, ""), done.stderr
    truth = pd.read_csv(tmp_path / "study.truth.csv")
    altered = truth[truth["log2_fold_change"] != 0]
    assert altered["log2_fold_change"].tolist() == pytest.approx([2.0] * 5)
    assert set(altered["label"]) == {"CD19+ B"}
    assert ad.read_h5ad(tmp_path / "study.h5ad").obs["donor"].nunique() == 2


STUDY = ["simulate", "model", "--out", "s.h5ad"]
POWER = ["power", "model", "--cells", "5", "--label", "Dendritic"]


@pytest.mark.parametrize(
    ("words", "error"),
    [
        ([*STUDY, "--donors", "8"], r"--donors must look like 'control=8'"),
        ([*STUDY, "--donors", "a=x"], r"--donors must give a whole number.*'a=x'"),
        ([*STUDY, "--donors", "a=2", "--donors", "a=3"], r"'a' twice"),
        ([*STUDY, "--donors", "a=2", "--cells", "5", "--cells-per-label", "B=5"], r"--cells and"),
        ([*STUDY, "--donors", "a=2", "--effects", "e.csv", "--label", "B"], r"--effects and --label"),
        ([*STUDY, "--donors", "a=2", "--effects", "no.csv"], r"'no\.csv'"),
        ([*STUDY, "--donors", "a=2", "--effects", "cells.h5ad"], r"cells\.h5ad' must be a CSV file"),
        ([*STUDY, "--donors", "a=2", "--scale", "stim=x"], r"--scale must give a number"),
        ([*STUDY, "--donors", "a=2", "--scale", "batch=0"], r"'batch'"),
        ([*STUDY, "--donors", "a=2", "--covariate", "stim=none"], r"'none'"),
        ([*STUDY, "--donors", "a=2", "--genes", "5"], r"two groups"),
        (["generate", "model", "-n", "9", "--donors", "many", "--out", "g.h5ad"], r"--donors must look"),
        (["fit", "cells.h5ad", "--donor-key", "dono", "--out", "m"], r"'dono'.*'donor'"),
        ([*POWER, "--donors", "1"], r"at least 2 donors"),
        ([*POWER, "--donors", "4", "--genes", "x"], r"--genes must be a number"),
        ([*POWER, "--donors", "4", "--test", "limma"], r"test must be one of"),
        ([*POWER, "--donors", "4", "--out", "power.pdf"], r"--out must be a \.html"),
        ([*POWER, "--donors", "4", "--json", "--csv"], r"--json and --csv"),
        (["power", "model", "--cells", "5", "--donors", "4"], r"label must be one of"),
    ],
)
def test_bad_input_is_one_sentence_and_status_2(folder, words, error):
    done = run(*words, cwd=folder)
    assert done.returncode == 2
    assert re.search(error, done.stderr), done.stderr
    assert "Traceback" not in done.stderr
    assert done.stderr.strip().count("\n") == 0
