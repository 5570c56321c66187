"""Fixtures of private fits."""

import json

import pytest

import vaexprs as vx


@pytest.fixture
def load_with_guarantee(tmp_path):
    """Return a function that saves a fit, changes parts of its guarantee in the file, and loads it."""

    def load(fit, change):
        path = fit.save(tmp_path / "model")
        meta = json.loads((path / "meta.json").read_text())
        meta["guarantee"] |= change
        (path / "meta.json").write_text(json.dumps(meta))
        return vx.load_vae(path)

    return load
