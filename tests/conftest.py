"""Real cells and real fits that several test files share."""

import os
import shutil
import signal
import tempfile
from pathlib import Path

# the same small networks are compiled again and again: once is enough
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(Path(tempfile.gettempdir()) / "vaexprs-tests-jax"))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")

# a shell starts what is to run in the background with Ctrl-C ignored, and tests send it
signal.signal(signal.SIGINT, signal.default_int_handler)

import vaexprs as vx  # first: it chooses Keras' backend

# isort: split
import anndata as ad
import keras
import numpy as np
import pytest
from hypothesis import HealthCheck, settings

HERE = Path(__file__).parent
# browser of the tests that open pages
REQUIRED = "VAEXPRS_BROWSER"
CHROMIUM = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
]
SHARED = HERE.parents[1] / "shared" / "data"

# Property tests: the same few examples each time, or with VAEXPRS_NIGHTLY=1 many new ones (CONTRIBUTING.md)
SLOW = {"deadline": None, "suppress_health_check": [HealthCheck.too_slow, HealthCheck.data_too_large]}
settings.register_profile("ci", max_examples=200, derandomize=True, database=None, **SLOW)
settings.register_profile("nightly", max_examples=5_000, print_blob=True, **SLOW)
settings.load_profile("nightly" if os.environ.get("VAEXPRS_NIGHTLY") else "ci")


@pytest.fixture(scope="session")
def cells():
    """700 blood cells x 765 genes of counts: obs cell_type (10 labels) and phase (3)."""
    return vx.demo_cells()


@pytest.fixture(scope="session")
def few(cells):
    """120 of the cells x 50 of the genes, four labels in turn."""
    labels = ["CD19+ B", "CD14+ Monocyte", "CD56+ NK", "Dendritic"]
    rows = np.stack([np.flatnonzero(cells.obs["cell_type"] == name)[:30] for name in labels], axis=1).ravel()
    genes = np.argsort(-np.asarray(cells.X.sum(axis=0)).ravel())[:50]
    return cells[rows, genes].copy()


@pytest.fixture(scope="session")
def conditional(cells):
    """Fit of the cells with label and one covariate, under the default likelihood."""
    return vx.fit_vae(cells, label_key="cell_type", covariate_keys=["phase"], verbose=0)


@pytest.fixture(scope="session")
def generated(conditional):
    return vx.gen_exprs(conditional, 400, seed=1)


@pytest.fixture(scope="session")
def simulated():
    """The original package's example: 300 cells x 1,000 genes in three groups (reference/README.md)."""
    with np.load(HERE / "reference" / "vae_seed1.npz", allow_pickle=False) as file:
        return {name: file[name] for name in file.files}


@pytest.fixture(scope="session")
def r_fit(simulated):
    """The original's first example under R's contract."""
    hidden = [keras.Input((1000,)), keras.layers.Dense(64, "relu")]
    output = [keras.layers.Dense(64, "relu"), keras.layers.Dense(1000, "sigmoid")]
    return vx.fit_vae(
        x_train=simulated["x_train"],
        encoder_layers=hidden,
        decoder_layers=output,
        epochs=20,
        batch_size=32,
        verbose=0,
    )


@pytest.fixture(scope="session")
def real_data():
    """Return a reader of the data sets that lie beside the project and are not part of it."""

    def read(name):
        path = SHARED / f"{name}.h5ad"
        if not path.exists():
            pytest.skip(f"the data set {name}.h5ad is not on this machine")
        return ad.read_h5ad(path)

    return read


@pytest.fixture(scope="module")
def browser():
    """Chromium; where there is none these tests are skipped, or fail if VAEXPRS_BROWSER is set."""
    missing = pytest.fail if os.environ.get(REQUIRED) else pytest.skip
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        missing("playwright is not installed: pip install playwright")
    found = next(filter(None, map(shutil.which, CHROMIUM)), None)
    if found is None:
        missing(f"no Chromium was found under the names {', '.join(CHROMIUM)}")
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=found, args=FLAGS)
        yield chromium
        chromium.close()
