"""Opening cells: every public function opens each file once."""

from collections import Counter
from pathlib import Path

import h5py
import pytest

import vaexprs as vx
from vaexprs.io.formats import FORMATS, READERS, WRITERS
from vaexprs.io.open import open_cells
from vaexprs.io.stores import StoredCells


@pytest.fixture
def opened(monkeypatch):
    """Counter of how often each HDF5 file was opened for reading."""
    counts = Counter()
    original = h5py.File.__init__

    def counting(self, name, mode="r", *args, **kwargs):
        if mode == "r" and isinstance(name, (str, Path)):  # not a handle, which h5py wraps again
            counts[str(name).rpartition("/")[2]] += 1
        original(self, name, mode, *args, **kwargs)

    monkeypatch.setattr(h5py.File, "__init__", counting)
    return counts


@pytest.fixture
def folder(few, tmp_path):
    few[:60].write_h5ad(tmp_path / "train.h5ad")
    few[60:].write_h5ad(tmp_path / "real.h5ad")
    return tmp_path


@pytest.mark.seconds(20)
def test_fit_and_generate(folder, opened):
    fit = vx.fit_vae(folder / "train.h5ad", label_key="cell_type", epochs=1, verbose=0)
    assert opened == {"train.h5ad": 1}
    vx.gen_exprs(fit, 40, seed=0, out=folder / "generated.h5ad", progress=False)
    opened.clear()
    vx.transform(fit, folder / "real.h5ad", cell_type="CD56+ NK", progress=False)
    assert opened == {"real.h5ad": 1}


def test_evaluate_audit_and_plot(few, folder, opened):
    names = dict.fromkeys(["train.h5ad", "real.h5ad"], 1)
    few[::3].write_h5ad(folder / "generated.h5ad")
    made, real, train = (folder / f"{name}.h5ad" for name in ("generated", "real", "train"))
    opened.clear()
    vx.evaluate(made, real, train=train, label_key="cell_type", only=["gene_means"], progress=False)
    assert opened == names | {"generated.h5ad": 1}
    opened.clear()
    vx.audit_privacy(made, train, real)
    assert opened == names | {"generated.h5ad": 1}
    opened.clear()
    vx.plot_aug(made, "PCA", real=real)
    assert opened == {"generated.h5ad": 1, "real.h5ad": 1}


def test_what_is_open_is_not_opened_again(folder, opened):
    store = open_cells(folder / "real.h5ad")
    assert isinstance(store, StoredCells)
    assert open_cells(store) is store
    assert store.read().n_obs == 60
    assert opened == {"real.h5ad": 1}


def test_each_suffix_belongs_to_one_format():
    suffixes = [suffix for each in FORMATS for suffix in each.suffixes]
    assert len(suffixes) == len(set(suffixes)) == len(READERS)
    assert set(WRITERS) <= set(READERS)
    assert all(
        set(each.written) <= set(each.suffixes) and bool(each.written) == bool(each.writer)
        for each in FORMATS
    )
