"""Data sets beside the project: skipped, with the reason, where they are absent."""

import subprocess
import sys

import numpy as np
import pytest
import scanpy as sc

import vaexprs as vx
from conftest import SHARED

INTERFERON = ["ISG15", "IFI6", "IFIT1", "IFIT3", "MX1", "LY6E"]


def test_yan_end_to_end_within_two_gigabytes(real_data):
    """90 cells x 20,214 genes of RPKM, six stages of the embryo."""
    real_data("yan")
    code = f"""
import re, numpy as np, vaexprs as vx
cells = vx.read({str(SHARED / "yan.h5ad")!r})
fit = vx.fit_vae(cells, label_key="cell_type", verbose=0)
made = vx.gen_exprs(fit, 200)
real, new = np.log1p(cells.X.toarray()), np.log1p(made.x_gen)
on = (real > 0).mean(axis=0) > 0.1
print(fit.likelihood.name, fit.preprocessing.scaling.kind)
print(np.corrcoef(real.mean(axis=0), new.mean(axis=0))[0, 1])
print(np.median(new[:, on].std(axis=0) / real[:, on].std(axis=0)))
print(abs((real == 0).mean() - (new == 0).mean()))
# not ru_maxrss, which a child process takes over from its parent
print(int(re.search(r"VmHWM:\\s+(\\d+)", open("/proc/self/status").read())[1]) / 2**20)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    kind, r, sd_ratio, zeros, gigabytes = done.stdout.strip().splitlines()
    assert kind == "gaussian log1p"
    assert float(r) > 0.99
    assert 0.85 < float(sd_ratio) < 1.15
    assert float(zeros) < 0.03
    assert float(gigabytes) < 2


@pytest.fixture(scope="module")
def kang(real_data):
    cells = real_data("kang_muscat")
    fit = vx.fit_vae(cells, label_key="cell_type", covariate_keys=["stim", "donor"], verbose=0)
    return cells, fit


def test_interferon_genes_are_up_in_stimulated_cells_of_one_donor(kang):
    """As in the real cells of that donor: log fold changes of generated on real ones."""
    cells, fit = kang
    donor = str(cells.obs["donor"].astype(str).min())
    folds = {}
    for name, state in (("real", None), ("generated", "stim")):
        parts = []
        for level in ("ctrl", "stim"):
            if name == "real":
                here = (cells.obs["stim"] == level) & (cells.obs["donor"].astype(str) == donor)
                part = cells[here.to_numpy()].copy()
            else:
                part = vx.gen_exprs(fit, 400, covariates={"donor": donor, "stim": level}).adata
                assert set(part.obs["donor"].astype(str)) == {donor}
                assert set(part.obs["stim"]) == {level}
            sc.pp.normalize_total(part, target_sum=1e4)
            sc.pp.log1p(part)
            parts.append(np.asarray(part[:, INTERFERON].X.mean(axis=0)).ravel())
        folds[name] = parts[1] - parts[0]
        assert state in (None, "stim")
    assert (folds["real"] > 0.5).all()
    np.testing.assert_allclose(folds["generated"], folds["real"], rtol=0.3)


def test_bulk_samples(real_data):
    """40 samples x 21,363 genes of bulk counts, two regions of the brain."""
    cells = real_data("gtex_brain40_damirseq")
    fit = vx.fit_vae(cells, label_key="cell_type", epochs=30, verbose=0)
    made = vx.gen_exprs(fit, 80).adata
    totals = [np.log(np.asarray(x.X.sum(axis=1))).mean() for x in (cells, made)]
    assert totals[1] == pytest.approx(totals[0], abs=0.15)
    real, new = (np.log1p(np.asarray(x.X.mean(axis=0))).ravel() for x in (cells, made))
    assert np.corrcoef(real, new)[0, 1] > 0.99
