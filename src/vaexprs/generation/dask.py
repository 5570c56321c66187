"""Run functions of a fit on the workers of a Dask cluster, with results in order.

The fit is sent to the workers as the files that `VAEFit.save` writes, and each process loads it once.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import CancelledError
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import lru_cache, partial
from importlib.metadata import version
from pathlib import Path
from threading import Lock
from typing import Any

from vaexprs.interface.errors import reason, require
from vaexprs.interface.parallel import T, in_order
from vaexprs.io.untrusted.keras_archive import ALLOWED
from vaexprs.model.load import load_vae
from vaexprs.model.vae_fit import VAEFit

ANSWER_SECONDS = 10.0  # maximum time for an answer of the scheduler
WORKERLESS_SECONDS = 60.0  # maximum time without workers; lost workers usually restart faster
RETRIES = 2  # number of times that a failed task is repeated
TASKS_A_THREAD = 2  # submitted tasks per thread: one running, one queued
VERSION = version("vaexprs")


@dataclass(frozen=True)
class SavedFit:
    """A fit as the contents of its saved files, to send to another process."""

    digest: str
    files: Mapping[str, bytes] = field(compare=False, repr=False)
    layers: Mapping[str, Any] = field(compare=False, repr=False)

    @classmethod
    def of(cls, fit: VAEFit) -> SavedFit:
        """Save a fit to memory, with the classes of the user's custom layers."""
        with tempfile.TemporaryDirectory() as folder:
            files = {path.name: path.read_bytes() for path in fit.save(Path(folder) / "model").iterdir()}
        kinds = {type(layer) for layer in fit.model.layers}
        known = {"vaexprs": {kind.__name__ for kind in kinds}, "keras": set(ALLOWED["keras.layers"])}
        custom = {
            kind.__name__: kind
            for kind in kinds
            if kind.__name__ not in known.get(kind.__module__.split(".")[0], ())
        }
        digest = hashlib.sha256(b"".join(files[name] for name in sorted(files))).hexdigest()
        return cls(digest, files, custom)

    def load(self) -> VAEFit:
        """Load the fit."""
        with tempfile.TemporaryDirectory() as folder:
            for name, content in self.files.items():
                (Path(folder) / name).write_bytes(content)
            return load_vae(folder, custom_objects=self.layers)


_loading = Lock()  # lets one thread of a worker load the fit while the others wait
_loaded = lru_cache(maxsize=1)(SavedFit.load)


def _identity(saved: SavedFit) -> SavedFit:
    return saved


def _run_task(saved: SavedFit, required: str, function: Callable[[VAEFit, Any], Any], part: Any) -> Any:
    """Run one task on a worker."""
    if required != VERSION:  # the worker joined after the versions were checked
        raise _version_error(f"a worker has {VERSION}", required)
    with _loading:
        fit = _loaded(saved)
    return function(fit, part)


def check_client(client: Any) -> None:
    """Raise TypeError unless `client` is a synchronous `distributed.Client`."""
    if not all(hasattr(client, name) for name in ("submit", "nthreads", "sync")):
        raise TypeError(
            f"client must be a distributed.Client, got {type(client).__name__}. "
            "Try distributed.Client('tcp://HOST:8786')."
        )
    if getattr(client, "asynchronous", False):
        raise TypeError(
            "client must be a distributed.Client with asynchronous=False, got an asynchronous one."
        )


def draw_on_cluster(
    client: Any, function: Callable[[VAEFit, T], Any], fit: VAEFit, parts: Iterable[T]
) -> Iterator[Any]:
    """Yield the results of a function of a fit and each part, in order, computed by a Dask cluster.

    Parameters
    ----------
    client
        A `distributed.Client`.
    function
        A pure function of a module of this package; calls are repeated if a worker is lost.
    fit, parts
        Its arguments.

    Raises
    ------
    ConnectionError
        If the scheduler does not answer, or there are no workers.
    ImportError
        If the scheduler or a worker does not have this version of vaexprs.
    """
    threads = _threads(client)
    if not threads:
        with suppress(TimeoutError):
            client.wait_for_workers(1, timeout=WORKERLESS_SECONDS)
        threads = _threads(client)
        if not threads:
            raise _no_workers_error(client)
    _check_versions(client)
    # a task instead of scatter(): its result is computed again if its worker is lost
    saved = client.submit(_identity, SavedFit.of(fit), pure=False)
    submit = partial(client.submit, _run_task, saved, VERSION, function, pure=False, retries=RETRIES)
    window = max(2, TASKS_A_THREAD * sum(threads.values()))
    yield from in_order((partial(submit, part) for part in parts), window, partial(_result, client))


def _threads(client: Any) -> Mapping[str, int]:
    """Return the current number of threads of each worker, from the scheduler."""
    return _call_scheduler(client, client.scheduler.ncores)


def _call_scheduler(client: Any, function: Callable[..., Any], *arguments: Any) -> Any:
    """Return the scheduler's answer to a call."""
    try:
        return client.sync(function, *arguments, callback_timeout=ANSWER_SECONDS)
    except Exception as error:  # comm, timeout and closed-client errors have different classes
        raise _lost_scheduler_error(client) from error


def _check_versions(client: Any) -> None:
    """Raise ImportError unless scheduler and workers have this version: other versions crash on our tasks."""

    # a nested function is sent as code, so that it also runs without vaexprs
    def installed() -> str:
        try:
            import vaexprs
        except ImportError:
            return "none"
        return vaexprs.__version__

    versions = {"the scheduler": _call_scheduler(client, client.run_on_scheduler, installed)}
    versions |= _call_scheduler(client, client.run, installed)
    for process, found in versions.items():
        if found != VERSION:
            raise _version_error(f"{process} has {found}")


def _version_error(found: str, required: str = VERSION) -> ImportError:
    return ImportError(
        f"The scheduler and workers of the Dask cluster must have vaexprs {required}, the version of this "
        f"process, but {found}. Install it there: pip install 'vaexprs[dask]=={required}'."
    )


def _no_workers_error(client: Any) -> ConnectionError:
    return ConnectionError(
        f"The Dask cluster has had no workers for {WORKERLESS_SECONDS:g} s. "
        f"Start workers with: dask worker {client.scheduler.address}."
    )


def _lost_scheduler_error(client: Any) -> ConnectionError:
    address = getattr(getattr(client, "scheduler", None), "address", None) or "its address"
    return ConnectionError(
        f"The Dask scheduler at {address} did not answer within {ANSWER_SECONDS:g} s. Restart the cluster "
        "and repeat the command: the same seed gives the same cells."
    )


def _result(client: Any, future: Any) -> Any:
    """Return the result of a future; wait for it as long as there are a scheduler and workers."""
    from distributed import KilledWorker

    with_workers = time.monotonic()
    while True:
        try:
            return future.result(timeout=ANSWER_SECONDS)
        except CancelledError as error:
            raise _lost_scheduler_error(client) from error
        except KilledWorker as error:
            raise ConnectionError(
                "Several workers of the Dask cluster died while running the same task. "
                "Increase their memory limit: dask worker --memory-limit 8GB."
            ) from error
        except TimeoutError:
            if future.done():
                raise
        now = time.monotonic()
        if _threads(client):
            with_workers = now
        elif now - with_workers > WORKERLESS_SECONDS:
            raise _no_workers_error(client)


@contextmanager
def connected(scheduler: str) -> Iterator[Any]:
    """Yield a client of the cluster with the given scheduler.

    Parameters
    ----------
    scheduler
        An address (``tcp://host:8786``), or a file written by ``dask scheduler --scheduler-file``.

    Raises
    ------
    ConnectionError
        If no scheduler answers.
    ValueError
        If it is neither an address nor a scheduler file.
    """
    distributed = require("distributed", "'vaexprs[dask]'", "Work on a Dask cluster")
    for name in list(logging.root.manager.loggerDict):
        if name.partition(".")[0] == "distributed":  # each logger has its own level
            logging.getLogger(name).setLevel(logging.CRITICAL + 1)  # the exception has all information
    address = _address(scheduler)
    try:
        client = distributed.Client(address, timeout=ANSWER_SECONDS, set_as_default=False)
    except OSError as error:
        raise ConnectionError(
            f"No Dask scheduler answered at {address} within {ANSWER_SECONDS:g} s. "
            "Start one with dask scheduler, and workers with dask worker tcp://HOST:8786."
        ) from error
    try:
        yield client
    finally:
        with suppress(Exception):  # the scheduler may be lost
            client.close(timeout=ANSWER_SECONDS)


def _address(scheduler: str) -> str:
    """Return the address of a scheduler given as an address or a scheduler file."""
    from distributed.comm import get_address_host

    address = scheduler
    try:
        if os.path.isfile(scheduler):
            address = str(json.loads(Path(scheduler).read_text(encoding="utf-8"))["address"])
        if ":" not in address:
            raise ValueError("file not found")
        get_address_host(address)
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"The Dask scheduler must be an address (tcp://HOST:8786) or a scheduler file "
            f"(dask scheduler --scheduler-file FILE), got {scheduler!r}: {reason(error)}."
        ) from error
    return address
