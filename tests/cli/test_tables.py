"""Tables on the command line: numeric labels, annotation in another file."""

import numpy as np
import pandas as pd
import pytest

import commands


@pytest.mark.slow
def test_a_numeric_label_with_annotation_in_another_table(tmp_path):
    names = [f"c{i}" for i in range(60)]
    frame = pd.DataFrame(np.random.default_rng(0).poisson(5, (60, 10)), names, [f"g{i}" for i in range(10)])
    frame["zeta"] = np.arange(60) % 3
    frame.to_csv(tmp_path / "a.csv")
    pd.DataFrame({"tumour": [True, False] * 30}, index=names[::-1]).to_csv(tmp_path / "m.csv")

    def run(*arguments, status=0):
        done = commands.run(*arguments, cwd=tmp_path)
        assert done.returncode == status, done.stderr
        return done

    options = ["--label-key", "zeta", "--covariate-key", "tumour", "--epochs", 1, "--quiet", "--out", "model"]
    run("fit", "a.csv", "--obs", "m.csv", "--no-transpose", *options)
    made = ["--label", 1, "-n", 5, "--covariate", "tumour=TRUE", "--out", "made.csv", "--quiet"]
    run("generate", "model", *made)
    obs = pd.read_csv(tmp_path / "made.obs.csv", dtype=str)
    assert set(obs["zeta"]) == {"1"}
    assert set(obs["tumour"]) == {"True"}
    assert list(pd.read_csv(tmp_path / "made.csv", index_col=0)) == [f"g{i}" for i in range(10)]
    frame.iloc[:8].to_csv(tmp_path / "few.csv")
    said = run("fit", "few.csv", "--no-transpose", *options[:2], "--out", "m2", status=2).stderr
    assert "at least 10 cells to fit, got 8 cells" in said
