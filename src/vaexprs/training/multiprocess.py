"""Several processes that train one model, over JAX's own runtime for them."""

from __future__ import annotations

import hashlib
import json
import os
import socket
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np

from vaexprs.interface.errors import reason
from vaexprs.interface.validation import check_integer, listed

CONNECT_SECONDS = 60  # to wait for the coordinator and the other processes
LEAVE_SECONDS = 2
SILENT_SECONDS = 30  # after which a process that says nothing is given up
WORDS = 1 << 16  # bytes in which processes tell each other what they were asked to do ...
MAX_WORDS = 512  # ... and of one thing among it; of a longer one a digest
ASK = (
    "Is process 0 running, and its port open?",
    "Does srun start all processes, and was its environment (SLURM_...) left as it is?",
)  # by whether it is SLURM that says where they are


def join(
    processes: int | None = None,
    coordinator: str | None = None,
    process_id: int | None = None,
    *,
    timeout: int | None = None,
) -> Any:
    """Join the other processes of a fit; call it in each of them, first of all.

    Parameters
    ----------
    processes
        How many there are. None for SLURM's own: then coordinator and number come from its environment.
    coordinator
        ``HOST:PORT`` at which process 0 listens.
    process_id
        Number of this one, from 0.
    timeout
        Seconds to wait for the others; by default ``VAEXPRS_CONNECT_SECONDS`` of the environment, or 60.

    Returns
    -------
    A ``keras.distribution.DataParallel`` for the `distribution` of `fit_vae`: each process trains on its part
    of each batch, and gradients are averaged over all of them.

    Raises
    ------
    ValueError
        If a number or the address is missing or wrong.
    ConnectionError
        If the coordinator or the others do not answer.
    """
    timeout = timeout or _connect_seconds()
    given = {"processes": processes, "coordinator": coordinator, "process_id": process_id}
    missing = [name for name, value in given.items() if value is None]
    if missing and (len(missing) < len(given) or not in_slurm_step()):
        raise ValueError(
            f"Several processes need processes, coordinator and process_id, got no {missing[0]}. Under SLURM "
            "start them with srun and leave out all three."
        )
    where: dict[str, Any] = {"cluster_detection_method": "slurm"}
    if not missing:
        count = check_integer("processes", processes, 1)
        number = check_integer("process_id", process_id, 0)
        if number >= count:
            raise ValueError(f"process_id must be less than processes, {count}, got {number}.")
        host, _, port = str(coordinator).rpartition(":")
        if not host or not port.isdecimal() or not 0 < int(port) < 2**16:
            raise ValueError(f"coordinator must look like 'HOST:PORT', got {coordinator!r}.")
        where = {"coordinator_address": coordinator, "num_processes": count, "process_id": number}
        if number:
            _wait_for(host, int(port), timeout)
        else:
            _check_free(int(port))
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # what goes wrong is told in our words
    import jax
    import keras

    if keras.backend.backend() != "jax":
        raise ValueError(
            f"Several processes need Keras on JAX, got the backend {keras.backend.backend()!r}. Unset "
            "KERAS_BACKEND."
        )
    config: Any = jax.config
    config.update("jax_cpu_collectives_implementation", "gloo")
    # or JAX would end this process with a stack of its own when another one is lost
    config.update("jax_enable_recoverability", True)
    config.update("jax_enable_preemption_service", False)
    try:
        jax.distributed.initialize(
            **where, initialization_timeout=timeout, heartbeat_timeout_seconds=SILENT_SECONDS
        )
    except (RuntimeError, OSError, ValueError, KeyError) as error:  # a KeyError of what srun should have set
        raise ConnectionError(
            f"The other processes could not be joined at {coordinator or 'the SLURM coordinator'} within "
            f"{timeout} s: {reason(error).rstrip('.')}. {ASK[coordinator is None]}"
        ) from error
    return keras.distribution.DataParallel(auto_shard_dataset=False)


def _connect_seconds() -> int:
    told = os.environ.get("VAEXPRS_CONNECT_SECONDS", str(CONNECT_SECONDS))
    if not told.isdecimal() or not int(told):
        raise ValueError(
            f"VAEXPRS_CONNECT_SECONDS must be a whole number of seconds, at least 1, got {told!r}. Unset it "
            f"for {CONNECT_SECONDS}."
        )
    return int(told)


def _check_free(port: int) -> None:
    """Check that this process may listen at a port: JAX itself would crash where it may not."""
    try:
        socket.create_server(("", port)).close()
    except OSError as error:
        raise ConnectionError(
            f"Process 0 must listen at port {port} of this machine, and cannot: {error}. Choose another port "
            "for coordinator, the same for all processes."
        ) from error


def _wait_for(host: str, port: int, timeout: float) -> None:
    """Wait until something listens: JAX itself would end the process, with a stack, where nothing does."""
    end = time.monotonic() + timeout
    while True:
        try:
            socket.create_connection((host, port), timeout=1).close()
            return
        except OSError as error:
            if time.monotonic() > end:
                raise ConnectionError(
                    f"The coordinator {host}:{port} does not answer within {timeout:g} s: {error}. {ASK[0]}"
                ) from error
            time.sleep(0.2)


def leave() -> None:
    """Wait for the others at the end of a fit, and take leave of them: process 0 goes last."""
    number, count = place()
    if count > 1:
        import jax
        from jax.experimental.multihost_utils import sync_global_devices

        with lost_process_errors():
            sync_global_devices("the end")
        if number == 0:
            time.sleep(LEAVE_SECONDS)  # JAX ends a process whose coordinator goes before it
        jax.distributed.shutdown()


def give_up(status: int) -> None:
    """End this process, if it is one of several, at once: JAX would wait for those that are gone."""
    if "jax" in sys.modules and place()[1] > 1:
        if place()[0] == 0:
            time.sleep(LEAVE_SECONDS)  # the others may have something to say before their coordinator goes
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


@contextmanager
def lost_process_errors() -> Iterator[None]:
    """Turn JAX's errors of processes that are gone into a sentence.

    Raises
    ------
    ConnectionError
        If another process ended or cannot be reached.
    """
    import jax

    try:
        yield
    except (jax.errors.JaxRuntimeError, ValueError) as error:
        number, count = place()
        if count == 1 or not any(word in str(error) for word in ("Gloo", "UNAVAILABLE", "oordination")):
            raise
        raise ConnectionError(
            f"Process {number} of {count} stopped, because another one ended or cannot be reached: "
            f"{reason(error)[-200:]} Start all of them again, with resume to go on from the checkpoint."
        ) from error


def in_slurm_step() -> bool:
    """Whether ``srun`` started this process as one of several."""
    return int(os.environ.get("SLURM_STEP_NUM_TASKS", "1")) > 1


def place() -> tuple[int, int]:
    """Return the number of this process and how many there are."""
    import jax

    return jax.process_index(), jax.process_count()


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def agree(about: Mapping[str, Any]) -> None:
    """Check that all processes were asked for the same fit of the same data.

    Raises
    ------
    ValueError
        If not; it names what differs.
    """
    if place()[1] == 1:
        return
    from jax.experimental.multihost_utils import process_allgather

    words = {name: json.dumps(value, default=str) for name, value in about.items()}
    short = {name: text if len(text) <= MAX_WORDS else _digest(text) for name, text in words.items()}
    sent = np.frombuffer(json.dumps(short, sort_keys=True).encode().ljust(WORDS), np.uint8)
    with lost_process_errors():
        texts = [bytes(row).rstrip() for row in np.asarray(process_allgather(sent))]
    if all(text == texts[0] for text in texts):
        return
    told = [json.loads(text) for text in texts]
    other = next(i for i, text in enumerate(texts) if text != texts[0])
    differ = [name for name in told[0] | told[other] if told[0].get(name) != told[other].get(name)]
    raise ValueError(
        f"All processes must be given the same data and settings, but processes 0 and {other} differ in "
        f"{listed(differ)} ({differ[0]}: {told[0].get(differ[0])} and {told[other].get(differ[0])})."
    )
