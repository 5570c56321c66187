"""Work on a fit done by the workers of a Dask cluster, in order and with little in flight.

The fit goes to the workers as the files that `VAEFit.save` writes, and each process loads it once.
"""

from __future__ import annotations

import hashlib
import logging
import os
import tempfile
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import CancelledError
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import lru_cache, partial
from importlib.metadata import version
from pathlib import Path
from threading import Lock
from typing import Any, TypeVar

from vaexprs._checks import reason, require
from vaexprs.result import VAEFit, load_vae

ANSWER = 10.0  # seconds in which a scheduler has to answer
WORKERLESS = 60.0  # seconds a cluster may be without workers: lost ones are started again in less
RETRIES = 2  # of a task that failed, where another worker may do better
TASKS_A_THREAD = 2  # in flight: one in work, one ready to be

T = TypeVar("T")


def in_order(submitted: Iterable[Callable[[], T]], window: int, wait: Callable[[T], Any]) -> Iterator[Any]:
    """Yield results in order, with so many calls under way at most.

    Parameters
    ----------
    submitted
        Functions that start a call each and return its future.
    window
        The most calls that are started and not yet taken.
    wait
        What waits for a future and returns its result.
    """
    waiting: deque[T] = deque()
    for submit in submitted:
        if len(waiting) >= window:
            yield wait(waiting.popleft())
        waiting.append(submit())
    while waiting:
        yield wait(waiting.popleft())


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
        own = {kind.__name__: kind for kind in kinds if kind.__module__.split(".")[0] not in ("keras", "vaexprs")}
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
    if version("vaexprs") != wanted:
        raise ImportError(f"vaexprs {version('vaexprs')}")
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
        raise TypeError("client must be a distributed.Client with asynchronous=False, got an asynchronous one.")


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
    # the fit comes from a task rather than scatter(): what a task made is made again where its worker is lost
    saved = client.submit(_given, SavedFit.of(fit), pure=False)
    submit = partial(client.submit, _work, saved, version("vaexprs"), function, pure=False, retries=RETRIES)
    window = max(2, TASKS_A_THREAD * sum(threads.values()))
    yield from in_order((partial(submit, part) for part in parts), window, partial(_result, client))


def _threads(client: Any) -> Mapping[str, int]:
    """Return the number of threads of each worker, as the scheduler says now."""
    try:
        return client.sync(client.scheduler.ncores, callback_timeout=ANSWER)
    except Exception as error:  # comm, timeout and closed-client errors each have a class of their own
        raise _lost(client) from error


def _lost(client: Any) -> ConnectionError:
    where = getattr(getattr(client, "scheduler", None), "address", None) or "its address"
    return ConnectionError(
        f"The Dask scheduler at {where} must answer within {ANSWER:g} s, and does not. Start the cluster again "
        "and generate once more: the same seed gives the same cells."
    )


def _result(client: Any, future: Any) -> Any:
    """Wait for a future as long as there are a scheduler and workers."""
    with_workers = time.monotonic()
    while True:
        try:
            return future.result(timeout=ANSWER)
        except CancelledError as error:
            raise _lost(client) from error
        except TimeoutError:
            if future.done():
                raise
        except (ImportError, AttributeError) as error:
            raise ImportError(
                f"The workers of the Dask cluster must have vaexprs {version('vaexprs')}, as this process has; "
                f"one of them says: {reason(error)}. Install it there: pip install "
                f"'vaexprs[dask]=={version('vaexprs')}'."
            ) from error
        now = time.monotonic()
        if _threads(client):
            with_workers = now
        elif now - with_workers > WORKERLESS:
            raise ConnectionError(
                f"The Dask cluster must have workers, and has had none for {WORKERLESS:g} s. "
                f"Start some: dask worker {client.scheduler.address}."
            )


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
    FileNotFoundError
        If it is neither an address nor a file.
    """
    distributed = require("distributed", "'vaexprs[dask]'", "Work on a Dask cluster")
    logging.getLogger("distributed").setLevel(logging.CRITICAL)  # the error says it in one sentence
    if os.path.exists(scheduler):
        where = {"scheduler_file": scheduler}
    elif ":" in scheduler:
        where = {"address": scheduler}
    else:
        raise FileNotFoundError(
            f"The Dask scheduler must be an address (tcp://host:8786) or a scheduler file, got {scheduler!r}."
        )
    try:
        client = distributed.Client(**where, timeout=ANSWER, set_as_default=False)
    except Exception as error:  # a stranger's file and address may raise any
        raise ConnectionError(
            f"A Dask scheduler must answer at {scheduler!r} within {ANSWER:g} s, and none does "
            f"({reason(error)}). Start one: dask scheduler; then workers: dask worker tcp://HOST:8786."
        ) from error
    try:
        yield client
    finally:
        with suppress(Exception):  # of a scheduler that is lost
            client.close(timeout=ANSWER)
