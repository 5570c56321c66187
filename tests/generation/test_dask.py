"""Generation on Dask clusters with real scheduler and worker processes, some of which are killed."""

import asyncio
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from contextlib import contextmanager

import keras
import numpy as np
import pytest

import vaexprs as vx
from commands import run
from vaexprs.generation import dask as cluster
from vaexprs.generation import generate, requests
from vaexprs.generation.sampler import BLOCK, Plan, draw_part

distributed = pytest.importorskip("distributed", reason="dask is not installed: pip install 'vaexprs[dask]'")

CELLS = 2_300  # nine blocks, the last one not full
HIDE = "import sys; sys.modules['vaexprs'] = None"
OLD = "import vaexprs; vaexprs.__version__ = '0.0.1'"


@contextmanager
def workers(n):
    """A client of n worker processes of one thread each."""
    with (
        distributed.LocalCluster(
            processes=True, n_workers=n, threads_per_worker=1, dashboard_address=None
        ) as local,
        distributed.Client(local, set_as_default=False) as client,
    ):
        yield client


@contextmanager
def in_this_process():
    """A client of one worker that is a thread of this process."""
    with (
        distributed.LocalCluster(
            processes=False, n_workers=1, threads_per_worker=1, dashboard_address=None
        ) as local,
        distributed.Client(local, set_as_default=False) as client,
    ):
        yield client


@contextmanager
def processes(folder, *, worker=None, scheduler=""):
    """A scheduler and, unless `worker` is None, a worker as processes, each with a line of code to begin with."""
    file = folder / "scheduler.json"
    started = [
        dask(
            "scheduler",
            scheduler,
            "--port",
            0,
            "--host",
            "127.0.0.1",
            "--scheduler-file",
            file,
            "--no-dashboard",
        )
    ]
    try:
        while not file.exists():
            assert started[0].poll() is None
            time.sleep(0.05)
        if worker is not None:
            started.append(a_worker(folder, worker))
        yield file, started
    finally:
        for process in started:
            process.kill()
            process.wait()


def a_worker(folder, code="", **settings):
    options = ["--nthreads", 1, "--no-nanny", "--no-dashboard", "--local-directory", folder / "scratch"]
    return dask("worker", code, "--scheduler-file", folder / "scheduler.json", *options, **settings)


def dask(what, code, *options, **settings):
    start = f"import sys; from distributed.cli.dask_{what} import main; sys.argv[0] = 'dask-{what}'; main()"
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, **settings}
    return subprocess.Popen([sys.executable, "-c", f"{code}\n{start}", *map(str, options)], **quiet)


@pytest.fixture
def small_tasks(monkeypatch):
    monkeypatch.setattr(generate, "VALUES_A_TASK", 1)  # a block of cells each


@pytest.fixture(scope="module")
def expected(conditional):
    return vx.gen_exprs(conditional, CELLS, seed=3, progress=False).adata


@pytest.fixture(scope="module")
def model(conditional, tmp_path_factory):
    return conditional.save(tmp_path_factory.mktemp("dask") / "model")


def same(a, b):
    return (a.X[:] != b.X[:]).nnz == 0 and a.obs.equals(b.obs)


def test_the_cells_are_the_same_from_a_worker_in_this_process(conditional, expected, small_tasks):
    with in_this_process() as client:
        made = vx.gen_exprs(conditional, CELLS, seed=3, progress=False, client=client)
    assert same(made.adata, expected)


@pytest.mark.cluster
@pytest.mark.parametrize("n", [1, 2, 3])
def test_the_cells_are_the_same_whatever_the_number_of_workers(
    conditional, expected, small_tasks, tmp_path, n
):
    with workers(n) as client:
        made = vx.gen_exprs(conditional, CELLS, seed=3, progress=False, client=client)
        assert same(made.adata, expected)
        made = vx.gen_exprs(
            conditional, CELLS, seed=3, progress=False, client=client, out=tmp_path / "g.h5ad"
        )
    assert same(vx.read(tmp_path / "g.h5ad"), expected)
    assert [path.name for path in tmp_path.iterdir()] == ["g.h5ad"]


@pytest.mark.cluster
@pytest.mark.parametrize("n", [1, 2])
def test_a_worker_killed_during_generation_does_not_change_the_cells(
    conditional, expected, small_tasks, tmp_path, n
):
    killed = []
    with workers(n) as client:
        pids = client.run(os.getpid)

        def kill():
            # once the first blocks are there, the worker that holds the fit
            while not (
                done := [
                    where for key, where in client.who_has().items() if "_run_task" in str(key) and where
                ]
            ):
                time.sleep(0.01)
            pid = pids[done[0][0]]
            os.kill(pid, signal.SIGKILL)
            killed.append(pid)

        thread = threading.Thread(target=kill)
        thread.start()
        out = tmp_path / "g.h5ad"
        vx.gen_exprs(conditional, CELLS, seed=3, progress=False, client=client, out=out)
        thread.join()
        assert killed[0] not in client.run(os.getpid).values()
    assert same(vx.read(out), expected)


@pytest.mark.cluster
def test_few_results_are_in_flight(conditional, expected, small_tasks):
    """At most two of nine tasks per thread are submitted ahead of the results that were taken."""
    with workers(1) as client:
        plan = Plan(*requests.plan_cells(conditional, CELLS, None, None), None, 3)
        blocks = cluster.draw_on_cluster(client, draw_part, conditional, plan.parts(1))
        first = next(blocks)
        assert (first != expected.X[:BLOCK]).nnz == 0
        tasks = [key for key in client.futures if "_run_task" in str(key)]
        assert 1 <= len(tasks) <= 3
        blocks.close()


@pytest.mark.cluster
def test_values_that_are_not_counts_and_layers_of_ones_own(few, tmp_path):
    cloudpickle = pytest.importorskip("cloudpickle")
    cloudpickle.register_pickle_by_value(sys.modules[__name__])  # as classes of a notebook are
    logs = few.copy()
    logs.X = logs.X.log1p()

    class Doubled(keras.layers.Layer):
        def call(self, x):
            return 2 * x

    layers = [keras.layers.Dense(16, "relu"), Doubled()]
    fit = vx.fit_vae(logs, layer="X", label_key="cell_type", decoder_layers=layers, epochs=2, verbose=0)
    with workers(1) as client:
        made = vx.gen_exprs(fit, 300, client=client, progress=False)
    assert np.array_equal(made.x_gen, vx.gen_exprs(fit, 300, progress=False).x_gen)


@pytest.mark.cluster
def test_the_command_generates_on_a_cluster(model, expected, tmp_path):
    with processes(tmp_path, worker="") as (file, _):
        options = ["-n", CELLS, "--seed", 3, "--dask", file, "--quiet", "--out", tmp_path / "g.zarr"]
        done = run("generate", model, *options)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert same(vx.read(tmp_path / "g.zarr"), expected)


def test_no_scheduler_at_the_address(model, tmp_path, monkeypatch):
    monkeypatch.setattr(cluster, "ANSWER_SECONDS", 0.5)
    done = run("generate", model, "-n", 5, "--dask", "tcp://127.0.0.1:9", "--out", tmp_path / "g.h5ad")
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert re.search(r"Dask scheduler.*tcp://127\.0\.0\.1:9\b.*\b0\.5 s\b", done.stderr), done.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.cluster
def test_a_scheduler_lost_in_mid_generation(model, tmp_path):
    with processes(tmp_path, worker="") as (file, started):
        address = json.loads(file.read_text())["address"]
        code = "from vaexprs import cli; from vaexprs.generation import dask as cluster; cluster.ANSWER_SECONDS = 1; cli.main()"
        command = [sys.executable, "-c", code, "generate", str(model)]
        options = ["-n", "2000000", "--dask", str(file), "--quiet", "--out", str(tmp_path / "g.h5ad")]
        client = subprocess.Popen([*command, *options], stderr=subprocess.PIPE, text=True)
        while not list(tmp_path.glob(".g.vaexprs-*.h5ad")):  # it has begun to write
            assert client.poll() is None
            time.sleep(0.05)
        started[0].kill()
        said = client.communicate()[1]
    assert client.returncode == 2
    assert said.count("\n") == 1, said
    assert re.search(rf"Dask scheduler.*{address}.*\b1 s\b", said), said
    assert list(tmp_path.glob("*g*.h5ad")) + list(tmp_path.glob(".g*")) == []


@pytest.mark.cluster
def test_a_cluster_without_workers(conditional, tmp_path, monkeypatch):
    monkeypatch.setattr(cluster, "WORKERLESS_SECONDS", 0.5)
    with (
        processes(tmp_path) as (file, _),
        cluster.connected(str(file)) as client,
        pytest.raises(ConnectionError, match=r"workers.*\b0\.5 s\b.*\bdask\b"),
    ):
        vx.gen_exprs(conditional, 5, client=client, out=tmp_path / "g.h5ad")
    assert not (tmp_path / "g.h5ad").exists()


@pytest.mark.cluster
@pytest.mark.parametrize(
    ("code", "words"),
    [
        ({"worker": HIDE}, r"tcp://127\.0\.0\.1:[0-9]+"),
        ({"worker": OLD}, r"tcp://127\.0\.0\.1:[0-9]+.*\b0\.0\.1\b"),
        ({"worker": "", "scheduler": HIDE}, r"scheduler"),
    ],
)
def test_workers_without_this_version(conditional, tmp_path, code, words):
    with processes(tmp_path, **code) as (file, _), cluster.connected(str(file)) as client:
        client.wait_for_workers(1)
        with pytest.raises(
            ImportError,
            match=rf"vaexprs {re.escape(vx.__version__)}.*{words}",
        ):
            vx.gen_exprs(conditional, 5, client=client)


@pytest.mark.cluster
def test_losses_during_generation(conditional, expected, tmp_path, monkeypatch):
    """The worker, then its version, then the scheduler."""

    def begun():
        plan = Plan(*requests.plan_cells(conditional, CELLS, None, None), None, 3)
        blocks = cluster.draw_on_cluster(client, draw_part, conditional, plan.parts(1))
        assert (next(blocks) != expected.X[:BLOCK]).nnz == 0
        return blocks

    with (
        processes(tmp_path, worker="") as (file, started),
        distributed.Client(scheduler_file=str(file), timeout=1, set_as_default=False) as client,
    ):
        client.wait_for_workers(1)
        address = client.scheduler.address
        one, other = begun(), begun()
        started[1].kill()
        with monkeypatch.context() as patch:
            patch.setattr(cluster, "ANSWER_SECONDS", 0.5)
            patch.setattr(cluster, "WORKERLESS_SECONDS", 0.5)
            with pytest.raises(
                ConnectionError,
                match=rf"workers.*\b0\.5 s\b.*dask worker {address}",
            ):
                list(one)
        # an old installation, which comes when versions have been compared
        mark = tmp_path / "old" / "vaexprs-0.0.1.dist-info"
        mark.mkdir(parents=True)
        (mark / "METADATA").write_text("Metadata-Version: 2.1\nName: vaexprs\nVersion: 0.0.1\n")
        started.append(a_worker(tmp_path, env={**os.environ, "PYTHONPATH": str(mark.parent)}))
        with pytest.raises(
            ImportError,
            match=rf"vaexprs {re.escape(vx.__version__)}.*worker.*\b0\.0\.1\b",
        ):
            list(other)
        asleep = client.submit(time.sleep, 100)
        monkeypatch.setattr(cluster, "ANSWER_SECONDS", 1)
        started[0].kill()
        lost = rf"Dask scheduler.*{address}.*\b1 s\b"
        with pytest.raises(ConnectionError, match=lost):
            cluster._result(client, asleep)
        with pytest.raises(ConnectionError, match=lost):
            vx.gen_exprs(conditional, 5, client=client, out=tmp_path / "g.h5ad")
    assert not list(tmp_path.glob("*g*.h5ad"))


def late(fit, part):
    raise TimeoutError("the disk did not answer")


def test_a_task_that_times_out_by_itself_says_so(conditional):
    """It is not mistaken for a running task."""
    with (
        in_this_process() as client,
        pytest.raises(TimeoutError, match="^the disk did not answer$"),
    ):
        list(cluster.draw_on_cluster(client, late, conditional, [0]))


def test_an_invalid_scheduler(model, tmp_path):
    (tmp_path / "note.txt").write_text("no JSON")
    for name in ("nowhere", "foo://bar:1", tmp_path / "note.txt"):
        done = run("generate", model, "-n", 5, "--dask", name, "--out", tmp_path / "g.h5ad")
        assert done.returncode == 2
        assert done.stderr.count("\n") == 1
        assert re.search(r"Dask scheduler.*tcp://HOST:8786.*scheduler file", done.stderr), done.stderr


def test_an_invalid_client(conditional):
    with pytest.raises(TypeError, match=r"client.*distributed\.Client.*\bstr\b"):
        vx.gen_exprs(conditional, 5, client="tcp://127.0.0.1:8786")


def test_an_asynchronous_client_is_refused(conditional):
    settings = {"processes": False, "n_workers": 0, "dashboard_address": None, "set_as_default": False}

    async def ask():
        async with distributed.Client(asynchronous=True, **settings) as client:
            with pytest.raises(TypeError, match=r"asynchronous=False"):
                vx.gen_exprs(conditional, 5, client=client)

    asyncio.run(ask())


def test_without_dask_it_says_what_to_install(model, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "distributed", None)
    done = run("generate", model, "-n", 5, "--dask", "tcp://127.0.0.1:9", "--out", tmp_path / "g.h5ad")
    assert done.returncode == 2
    assert "pip install 'vaexprs[dask]'" in done.stderr
