"""Real cells and real fits that several test files share."""

import os
import shutil
import signal
import tempfile
import time
from pathlib import Path

# the same small networks are compiled again and again: once is enough
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(Path(tempfile.gettempdir()) / "vaexprs-tests-jax"))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")

# One thread each: xdist runs a process per core, and small matrices wait longer for threads than they compute.
for name in ("OMP", "OPENBLAS", "MKL", "NUMBA"):
    os.environ.setdefault(f"{name}_NUM_THREADS", "1")
os.environ.setdefault("LOKY_MAX_CPU_COUNT", "1")
os.environ.setdefault("NPROC", "1")
os.environ.setdefault("XLA_FLAGS", "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1")

# a shell starts what is to run in the background with Ctrl-C ignored, and tests send it
signal.signal(signal.SIGINT, signal.default_int_handler)

import vaexprs as vx  # first: it chooses Keras' backend

# isort: split
import anndata as ad
import jax
import keras
import numpy as np
import pytest
from hypothesis import HealthCheck, settings
from numba.core import event as numba_event

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
# processor seconds that an unmarked test may take; 0 for no limit
TEST_SECONDS = float(os.environ.get("VAEXPRS_TEST_SECONDS", 5))
MARKERS = ("slow", "cluster", "multiprocess", "faults", "browser", "docs", "r", "nightly")
SHARED = HERE.parents[1] / "shared" / "data"

# Property tests: the same few examples each time, or many new ones: 200 with VAEXPRS_NIGHTLY=1, or the number given
NIGHTLY = os.environ.get("VAEXPRS_NIGHTLY", "")
SLOW = {"deadline": None, "suppress_health_check": [HealthCheck.too_slow, HealthCheck.data_too_large]}
settings.register_profile("ci", max_examples=25, derandomize=True, database=None, **SLOW)
settings.register_profile("nightly", max_examples=max(200, int(NIGHTLY or 0)), print_blob=True, **SLOW)
settings.load_profile("nightly" if NIGHTLY else "ci")


def pytest_collection_modifyitems(items):
    """Mark tests by what they need."""
    for item in items:
        for fixture, marker in (("browser", "browser"), ("has_r", "r"), ("real_data", "slow")):
            if fixture in item.fixturenames:
                item.add_marker(marker)


compiling = 0.0  # seconds in which XLA and numba compiled: nearly none where their caches have the programs


def count_compilation(event, seconds, **_):
    global compiling
    if event == "/jax/core/compile/backend_compile_duration":
        compiling += seconds


class CompilationByNumba(numba_event.Listener):
    """Adds the time of the outermost compilation: compiling a function compiles those that it calls."""

    def __init__(self):
        self.started = []

    def on_start(self, event):
        self.started.append(time.perf_counter())

    def on_end(self, event):
        global compiling
        start = self.started.pop()
        if not self.started:
            compiling += time.perf_counter() - start


jax.monitoring.register_event_duration_secs_listener(count_compilation)
numba_event.register("numba:compile", CompilationByNumba())


def processor_seconds():
    """Return the time that this process and those it waited for have computed, without compilation."""
    return sum(os.times()[:4]) - compiling


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item):
    """Fail an unmarked test that computes too long: the tests of every change must stay fast."""
    start = processor_seconds()
    result = yield
    taken = processor_seconds() - start
    own = item.get_closest_marker("seconds")
    limit = own.args[0] if own and TEST_SECONDS else TEST_SECONDS
    if 0 < limit < taken and not any(map(item.get_closest_marker, MARKERS)):
        pytest.fail(
            f"{item.name} took {taken:.1f} s of processor time, and an unmarked test may take {limit:g} s. "
            f"Make it smaller, or mark it @pytest.mark.slow (or one of {', '.join(MARKERS[1:])}).",
            pytrace=False,
        )
    return result


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
