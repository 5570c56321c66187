"""Whatever leaves a private fit is a function of its noisy sums.

A fit is repeated with one unit's data changed, while each noisy sum is replaced by that of the first fit.
Model files, texts and warnings must then be the same to the last byte, and the exact sums may differ by at
most what the noise was planned for. Of private levels, noisy sums are replaced by name: those of the first fit
that only the changed unit has were below the threshold.
"""

import warnings
import zipfile
from pathlib import Path
from unittest.mock import patch

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp

import vaexprs as vx

pytest.importorskip("jax_privacy", reason="jax-privacy is not installed")

from vaexprs.differential_privacy import dp_sgd, levels, mechanisms
from vaexprs.differential_privacy.accounting import Privacy
from vaexprs.io import stores

CELL = 5  # row of the changed cell
ROUNDING = 1e-5  # of sums in float32


@pytest.fixture(scope="module")
def cells() -> ad.AnnData:
    demo = vx.demo_cells()
    counts = np.ravel(demo.X.sum(axis=0))
    kept = demo[:, np.sort(np.argsort(-counts)[:40])].copy()
    kept.obs = kept.obs[["cell_type"]].copy()
    kept.obs["donor"] = pd.Categorical([f"d{i % 40}" for i in range(kept.n_obs)])
    kept.obs["cell_type"] = kept.obs["cell_type"].cat.add_categories("rare")
    kept.obs.loc[kept.obs_names[CELL], "cell_type"] = "rare"
    return kept


def emptied(cells: ad.AnnData, rows) -> ad.AnnData:
    """Return the cells without the counts of some."""
    other = cells.copy()
    x = other.X.tolil()
    x[rows] = 0
    other.X = sp.csr_matrix(x)
    other.X.eliminate_zeros()
    return other


def outlying(cells: ad.AnnData, row: int) -> ad.AnnData:
    """Return the cells with the largest possible counts in one."""
    other = cells.copy()
    x = other.X.toarray()
    x[row] = 2**31 - 200
    other.X = sp.csr_matrix(x)
    return other


def run(given, sums=None, unit="cell", of_levels="public", **arguments):
    """Return the sums of a fit (exact, noisy, standard deviation of the noise), and all that leaves it."""
    found = []
    original = mechanisms.add_noise

    def noisy_levels(total, sd, randomness):
        first = (total, None, sd) if sums is None else sums[0]
        noisy = levels_with_noise(first[0], sd, randomness)  # as many random numbers as in the first fit
        if sums is not None:
            assert set(total.index) <= set(first[0].index)
            assert first[2] == sd
            noisy = first[1][total.index]
        found.append((total, noisy, sd))
        return noisy

    levels_with_noise = levels.with_noise

    def add_noise(total, sd, randomness):
        noisy = original(total, sd, randomness)
        if sums is not None:
            first = sums[len(found)]
            assert first[0].shape == np.shape(total)
            assert first[2] == sd
            noisy = first[1]
        found.append((np.array(total), noisy, sd))
        return noisy

    with (
        patch.object(mechanisms, "add_noise", add_noise),
        patch.object(dp_sgd, "add_noise", add_noise),
        patch.object(levels, "with_noise", noisy_levels),
        warnings.catch_warnings(record=True) as warned,
    ):
        warnings.simplefilter("always")
        fit = vx.fit_vae(
            given,
            privacy=Privacy(5.0, 1e-4, unit, levels=of_levels, insecure_test_seed=1),
            **({"label_key": "cell_type", "epochs": 1, "verbose": 0} | arguments),
        )
    made = vx.gen_exprs(fit, 5, progress=False).adata
    leaving = [repr(fit), fit._repr_html_(), made.X.toarray().tobytes(), str(made.uns), made.obs.to_csv()]
    leaving += sorted(str(w.message) for w in warned)
    leaving += [np.asarray(weight.value).tobytes() for weight in fit.model.weights]
    return found, fit, leaving


def files(fit: vx.VAEFit, path: Path) -> dict[str, bytes]:
    """Return the files of a saved model, and the members of archives in them, except for times of saving."""
    found = {}
    for file in sorted(fit.save(path).iterdir()):
        if zipfile.is_zipfile(file):
            with zipfile.ZipFile(file) as archive:
                found |= {f"{file.name}/{name}": archive.read(name) for name in archive.namelist()}
        else:
            found[file.name] = file.read_bytes()
    return {n: v for n, v in found.items() if not n.endswith(("metadata.json", "weights.h5"))}


def compare(cells, other, tmp_path, bound, **arguments) -> None:
    """Compare two fits; `bound` is the maximum difference of sums in units of a unit's contribution."""
    sums, fit, leaving = run(cells, **arguments)
    again, second, left = run(other, sums, **arguments)
    assert left == leaving
    assert files(second, tmp_path / "two") == files(fit, tmp_path / "one")
    assert len(again) == len(sums)
    moved = []
    if fit.guarantee.levels:
        (first, _, sd), (other_first, *_) = sums.pop(0), again.pop(0)
        difference = first.sub(other_first, fill_value=0)
        moved = [np.linalg.norm(difference) / sd * fit.guarantee.levels]
        assert "rare" in first["cell_type"].index
        assert "rare" not in fit.levels["cell_type"]
    n = len(sums) - 2 - fit.guarantee.steps  # releases before training

    def distance(part):
        return np.sqrt(sum(np.sum(((a[0] - b[0]) / a[2]) ** 2) for a, b in part))

    pairs = list(zip(sums, again, strict=True))
    moved += [distance(pairs[:n]) * fit.guarantee.marginals]
    moved += [distance([pair]) * fit.guarantee.training for pair in pairs[n:-2]]
    assert 0 < max(moved) <= bound + ROUNDING
    assert moved[0] > 0


@pytest.mark.seconds(30)
@pytest.mark.parametrize("arguments", [{}, {"unit": "donor"}], ids=["cell", "donor"])
def test_nothing_else_tells_that_a_unit_is_there(cells, arguments, tmp_path):
    rows = [CELL] if not arguments else np.flatnonzero(cells.obs["donor"] == f"d{CELL}")
    compare(cells, emptied(cells, rows), tmp_path, 1.0, **arguments)


@pytest.mark.slow
@pytest.mark.parametrize(
    "arguments",
    [
        {"likelihood": "zinb"},
        {"likelihood": "poisson", "label_key": None},
        {"covariate_keys": ["donor"]},
        {"use_generator": True},
    ],
    ids=str,
)
def test_nothing_else_tells_that_a_cell_is_there_with_other_arguments(cells, arguments, tmp_path):
    compare(cells, emptied(cells, [CELL]), tmp_path, 1.0, **arguments)


@pytest.mark.slow
@pytest.mark.parametrize(
    "arguments", [{}, {"unit": "donor"}, {"covariate_keys": ["batch"]}, {"row": CELL + 1}], ids=str
)
def test_nothing_else_tells_that_a_unit_with_private_levels_is_there(cells, arguments, tmp_path):
    arguments = dict(arguments)
    cells = cells.copy()
    cells.obs["batch"] = np.where(np.arange(cells.n_obs) % 2, "odd", "even")
    cells.obs.loc[cells.obs_names[CELL], "batch"] = "of one cell"
    rows = [arguments.pop("row", CELL)]  # the only cell of its levels, or one of many
    if "unit" in arguments:
        rows = np.flatnonzero(cells.obs["donor"] == f"d{CELL}")
    compare(cells, emptied(cells, rows), tmp_path, 1.0, of_levels="private", **arguments)


@pytest.mark.slow
def test_nothing_else_tells_the_counts_of_a_cell(cells, tmp_path):
    # two contributions may differ by twice the largest
    compare(cells, outlying(cells, CELL), tmp_path, 2.0)


@pytest.mark.slow
@pytest.mark.parametrize("unit", ["cell", "donor"])
def test_nothing_else_tells_that_a_cell_on_disk_is_there(cells, unit, tmp_path, monkeypatch):
    monkeypatch.setattr(stores, "IN_MEMORY", 1)
    rows = [CELL] if unit == "cell" else np.flatnonzero(cells.obs["donor"] == f"d{CELL}")
    cells.write_h5ad(tmp_path / "cells.h5ad")
    emptied(cells, rows).write_h5ad(tmp_path / "emptied.h5ad")
    compare(tmp_path / "cells.h5ad", tmp_path / "emptied.h5ad", tmp_path, 1.0, unit=unit)


@pytest.mark.slow
def test_the_number_of_cells_with_counts_is_not_told(cells, tmp_path):
    few = cells[:10].copy()
    for folder in ("ten", "none"):
        (tmp_path / folder).mkdir()
    compare(few, emptied(few, [CELL]), tmp_path / "ten", 1.0)
    one = emptied(few, [row for row in range(10) if row != CELL])
    compare(one, emptied(few, list(range(10))), tmp_path / "none", 1.0)
