"""Work on a fit done by the workers of a Dask cluster, in order and with little in flight.

The fit goes to the workers as the files that `VAEFit.save` writes, and each process loads it once.
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

from vaexprs.generation.sampler import T, in_order
from vaexprs.interface.errors import reason, require
from vaexprs.io.untrusted.keras_archive import ALLOWED
from vaexprs.model.load import load_vae
from vaexprs.model.vae_fit import VAEFit

ANSWER = 10.0  # seconds in which a scheduler has to answer
WORKERLESS = 60.0  # seconds a cluster may be without workers: lost ones are started again in less
RETRIES = 2  # of a task that failed, where another worker may do better
TASKS_A_THREAD = 2  # in flight: one in work, one ready to be
VERSION = version("vaexprs")


@dataclass(frozen=True)
class SavedFit:
    """A fit as the files it is saved in: what is sent to another process."""

    digest: str
    files: Mapping[str, bytes] = field(compare=False, repr=False)
    layers: Mapping[str, Any] = field(compare=False, repr=False)

    @classmethod
    def of(cls, fit: VAEFit) -> SavedFit:
        """Save a fit to memory, with the classes of the user's own layers."""
        with tempfile.TemporaryDirectory() as folder:
            files = {path.name: path.read_bytes() for path in fit.save(Path(folder) / "model").iterdir()}
        kinds = {type(layer) for layer in fit.model.layers}
        known = {"vaexprs": {kind.__name__ for kind in kinds}, "keras": set(ALLOWED["keras.layers"])}
        own = {
            kind.__name__: kind
            for kind in kinds
            if kind.__name__ not in known.get(kind.__module__.split(".")[0], ())
        }
        digest = hashlib.sha256(b"".join(files[name] for name in sorted(files))).hexdigest()
        return cls(digest, files, own)

    def load(self) -> VAEFit:
        """Load the fit."""
        with tempfile.TemporaryDirectory() as folder:
            for name, content in self.files.items():
                (Path(folder) / name).write_bytes(content)
            return load_vae(folder, custom_objects=self.layers)


_loading = Lock()  # threads of one worker wait for the first of them
_loaded = lru_cache(maxsize=1)(SavedFit.load)


def _given(saved: SavedFit) -> SavedFit:
    return saved


def _work(saved: SavedFit, wanted: str, function: Callable[[VAEFit, Any], Any], part: Any) -> Any:
    """Do one task on a worker."""
    if wanted != VERSION:  # of a worker that came later
        raise _other_version(f"a worker has {VERSION}", wanted)
    with _loading:
        fit = _loaded(saved)
    return function(fit, part)


def check_client(client: Any) -> None:
    """Raise TypeError unless `client` is a `distributed.Client` that answers in place."""
    if not all(hasattr(client, name) for name in ("submit", "nthreads", "sync")):
        raise TypeError(
            f"client must be a distributed.Client, got {type(client).__name__}. "
            "Make one: distributed.Client('tcp://HOST:8786')."
        )
    if getattr(client, "asynchronous", False):
        raise TypeError(
            "client must be a distributed.Client with asynchronous=False, got an asynchronous one."
        )


def drawn_by(
    client: Any, function: Callable[[VAEFit, T], Any], fit: VAEFit, parts: Iterable[T]
) -> Iterator[Any]:
    """Yield what a function makes of a fit and each part, in order, worked out by a Dask cluster.

    Parameters
    ----------
    client
        A `distributed.Client`.
    function
        A pure function of a module of this package: it may be called again where a worker is lost.
    fit, parts
        Its arguments.

    Raises
    ------
    ConnectionError
        If the scheduler does not answer any more, or there are no workers.
    ImportError
        If a worker does not have this version of vaexprs.
    """
    threads = _threads(client)
    if not threads:
        with suppress(TimeoutError):
            client.wait_for_workers(1, timeout=WORKERLESS)
        threads = _threads(client)
        if not threads:
            raise _workerless(client)
    _check_versions(client)
    # the fit comes from a task rather than scatter(): what a task made is made again where its worker is lost
    saved = client.submit(_given, SavedFit.of(fit), pure=False)
    submit = partial(client.submit, _work, saved, VERSION, function, pure=False, retries=RETRIES)
    window = max(2, TASKS_A_THREAD * sum(threads.values()))
    yield from in_order((partial(submit, part) for part in parts), window, partial(_result, client))


def _threads(client: Any) -> Mapping[str, int]:
    """Return the number of threads of each worker, as the scheduler says now."""
    return _asked(client, client.scheduler.ncores)


def _asked(client: Any, function: Callable[..., Any], *arguments: Any) -> Any:
    """Return what the scheduler answers."""
    try:
        return client.sync(function, *arguments, callback_timeout=ANSWER)
    except Exception as error:  # comm, timeout and closed-client errors each have a class of their own
        raise _lost(client) from error


def _check_versions(client: Any) -> None:
    """Raise ImportError unless scheduler and workers have this version: a task they cannot read ends them."""

    # sent as code, being inside a function: it must run where vaexprs is not
    def installed() -> str:
        try:
            import vaexprs
        except ImportError:
            return "none"
        return vaexprs.__version__

    found = {"the scheduler": _asked(client, client.run_on_scheduler, installed)}
    found |= _asked(client, client.run, installed)
    for where, found_version in found.items():
        if found_version != VERSION:
            raise _other_version(f"{where} has {found_version}")


def _other_version(told: str, wanted: str = VERSION) -> ImportError:
    return ImportError(
        f"Scheduler and workers of the Dask cluster must have vaexprs {wanted}, as the process has that asks "
        f"them; {told}. Install it there: pip install 'vaexprs[dask]=={wanted}'."
    )


def _workerless(client: Any) -> ConnectionError:
    return ConnectionError(
        f"The Dask cluster must have workers, and has had none for {WORKERLESS:g} s. "
        f"Start some: dask worker {client.scheduler.address}."
    )


def _lost(client: Any) -> ConnectionError:
    where = getattr(getattr(client, "scheduler", None), "address", None) or "its address"
    return ConnectionError(
        f"The Dask scheduler at {where} must answer within {ANSWER:g} s, and does not. Start the cluster "
        "again and generate once more: the same seed gives the same cells."
    )


def _result(client: Any, future: Any) -> Any:
    """Wait for a future as long as there are a scheduler and workers."""
    from distributed import KilledWorker

    with_workers = time.monotonic()
    while True:
        try:
            return future.result(timeout=ANSWER)
        except CancelledError as error:
            raise _lost(client) from error
        except KilledWorker as error:
            raise ConnectionError(
                "The workers of the Dask cluster must live through a task, and several died in the same one. "
                "Give them more memory: dask worker --memory-limit 8GB."
            ) from error
        except TimeoutError:
            if future.done():
                raise
        now = time.monotonic()
        if _threads(client):
            with_workers = now
        elif now - with_workers > WORKERLESS:
            raise _workerless(client)


@contextmanager
def connected(scheduler: str) -> Iterator[Any]:
    """Give a client of the cluster whose scheduler is at an address, or described by a file.

    Parameters
    ----------
    scheduler
        An address (``tcp://host:8786``), or a file that ``dask scheduler --scheduler-file`` writes.

    Raises
    ------
    ConnectionError
        If no scheduler answers.
    ValueError
        If it is neither an address nor a scheduler file.
    """
    distributed = require("distributed", "'vaexprs[dask]'", "Work on a Dask cluster")
    for name in list(logging.root.manager.loggerDict):
        if name.partition(".")[0] == "distributed":  # each has a level of its own
            logging.getLogger(name).setLevel(logging.CRITICAL + 1)  # the error says it in one sentence
    address = _address(scheduler)
    try:
        client = distributed.Client(address, timeout=ANSWER, set_as_default=False)
    except OSError as error:
        raise ConnectionError(
            f"A Dask scheduler must answer at {address} within {ANSWER:g} s, and none does. "
            "Start one: dask scheduler; then workers: dask worker tcp://HOST:8786."
        ) from error
    try:
        yield client
    finally:
        with suppress(Exception):  # of a scheduler that is lost
            client.close(timeout=ANSWER)


def _address(scheduler: str) -> str:
    """Return the address of a scheduler, which may be in a scheduler file."""
    from distributed.comm import get_address_host

    address = scheduler
    try:
        if os.path.isfile(scheduler):
            address = str(json.loads(Path(scheduler).read_text(encoding="utf-8"))["address"])
        if ":" not in address:
            raise ValueError("there is no such file")
        get_address_host(address)
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"The Dask scheduler must be an address (tcp://HOST:8786) or a scheduler file "
            f"(dask scheduler --scheduler-file FILE), got {scheduler!r}: {reason(error)}."
        ) from error
    return address
