"""The peers of `benchmarks/peers.py` that need no other package generate counts of the labels asked for."""

import importlib
import json
import sys
from pathlib import Path

import anndata as ad
import numpy as np
import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
NUMBERS = {"Dendritic": 300, "CD19+ B": 40, "CD56+ NK": 7, "CD14+ Monocyte": 3}

pytestmark = pytest.mark.skipif(not BENCHMARKS.is_dir(), reason="the sdist has no benchmarks")


@pytest.fixture
def scripts(monkeypatch):
    """Import scripts by name."""
    for folder in (BENCHMARKS, BENCHMARKS / "peers"):
        monkeypatch.syspath_prepend(folder)
    return importlib.import_module


@pytest.fixture(scope="module")
def train(few):
    """Cells of four labels, 30, 30, 5 and 1 of them."""
    labels = few.obs["cell_type"].astype(str).to_numpy()
    rank = np.array([np.sum(labels[:i] == label) for i, label in enumerate(labels)])
    keep = {"CD56+ NK": 5, "CD14+ Monocyte": 1}
    return few[rank < np.array([keep.get(label, 30) for label in labels])].copy()


@pytest.mark.parametrize("peer", ["copula", "smote"])
def test_peers_generate_two_independent_sets(peer, train, scripts, tmp_path, monkeypatch):
    script, exchange = scripts(peer), scripts("exchange")

    def sets(seed):
        files = [tmp_path / name for name in ("train.h5ad", "numbers.json", "1.h5ad", "2.h5ad")]
        train.write_h5ad(files[0])
        files[1].write_text(json.dumps(NUMBERS))
        argv = [peer, *map(str, files), "--label-key", "cell_type", "--seed", str(seed)]
        monkeypatch.setattr(sys, "argv", argv)
        exchange.main(script.__doc__, script.fit)
        return [ad.read_h5ad(path) for path in files[2:]]

    one, two = sets(0)
    for cells in (one, two):
        x = cells.X.toarray()
        assert cells.obs["cell_type"].value_counts().to_dict() == NUMBERS
        assert list(cells.var_names) == list(train.var_names)
        assert (x >= 0).all()
        assert (x == np.round(x)).all()
        assert set(cells.uns["seconds"]) == {"fit", "generate"}
        for label in ("Dendritic", "CD19+ B"):
            real, made = (
                np.log1p(part[(part.obs["cell_type"] == label).to_numpy()].X.toarray()).mean(axis=0)
                for part in (train, cells)
            )
            assert np.corrcoef(real, made)[0, 1] > 0.95
    dendritic = [
        cells[(cells.obs["cell_type"] == "Dendritic").to_numpy()].X.toarray() for cells in (one, two)
    ]
    assert abs(np.corrcoef(*(x.sum(axis=1) for x in dendritic))[0, 1]) < 0.2
    assert np.mean((dendritic[0] == dendritic[1]).all(axis=1)) < 0.05
    again = sets(0)
    assert (again[0].X != one.X).nnz == (again[1].X != two.X).nnz == 0
    assert (sets(1)[0].X != one.X).nnz > 0


def test_dependencies_of_the_scripts(scripts):
    peers = scripts("peers")
    folder = BENCHMARKS / "peers"
    assert {folder / name for name in peers.SCRIPTS.values()} == set(folder.glob("*.py")) - {
        folder / "exchange.py"
    }
    assert peers.dependencies(folder / "scvi_tools.py") == ["scvi-tools>=1.4"]
    assert peers.dependencies(folder / "vaexprs_defaults.py") == []


def test_peers_that_are_closer_are_named(scripts):
    closer = scripts("peers").closer
    reference = {"genes": 0.70, "pcs": 0.60}
    assert closer({"genes": 0.68, "pcs": 0.595}, reference) == "genes"
    assert closer({"genes": 0.28, "pcs": 0.45}, reference) == "pcs"
