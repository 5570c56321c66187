"""Train one model in several processes, with the distributed runtime of JAX."""

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

CONNECT_SECONDS = 60  # default time to wait for the coordinator and the other processes
LEAVE_SECONDS = 2  # time for the others to finish before process 0 ends
HEARTBEAT_SECONDS = 30  # time without a heartbeat after which a process counts as lost
IDENTITY_BYTES = 1 << 16  # size of the message in which processes compare their data and settings
MAX_VALUE_LENGTH = 512  # characters of one value in that message; longer values are replaced by a hash
CHECK_PROCESS_0 = "Check that process 0 is running and that its port is open."
CHECK_SLURM = "Check that srun starts all processes and that its variables (SLURM_...) are unchanged."


def join(
    processes: int | None = None,
    coordinator: str | None = None,
    process_id: int | None = None,
    *,
    timeout: int | None = None,
) -> Any:
    """Join the other processes of a fit; call it in each of them before anything else.

    Parameters
    ----------
    processes
        Number of processes. If all three are None, they come from the environment of SLURM.
    coordinator
        ``HOST:PORT`` at which process 0 listens.
    process_id
        Number of this process, from 0.
    timeout
        Seconds to wait for the others; by default ``VAEXPRS_CONNECT_SECONDS`` of the environment, or 60.

    Returns
    -------
    A ``keras.distribution.DataParallel`` for the `distribution` of `fit_vae`: each process trains on its part
    of each batch, and gradients are averaged over all processes.

    Raises
    ------
    ValueError
        If a number or the address is missing or invalid, or Keras does not run on JAX.
    ConnectionError
        If the coordinator or the other processes do not answer.
    """
    timeout = timeout or _connect_seconds()
    given = {"processes": processes, "coordinator": coordinator, "process_id": process_id}
    missing = [name for name, value in given.items() if value is None]
    if missing and (len(missing) < len(given) or not in_slurm_step()):
        raise ValueError(
            f"processes, coordinator and process_id must be given together, {missing[0]} is missing. Under "
            "SLURM start the processes with srun and leave out all three."
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
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # errors are reported by vaexprs
    import jax
    import keras

    if keras.backend.backend() != "jax":
        raise ValueError(
            f"Several processes require Keras on JAX, got the backend {keras.backend.backend()!r}. Unset "
            "KERAS_BACKEND."
        )
    config: Any = jax.config
    config.update("jax_cpu_collectives_implementation", "gloo")
    # without this JAX ends the process with a stack trace when another process is lost
    config.update("jax_enable_recoverability", True)
    config.update("jax_enable_preemption_service", False)
    try:
        jax.distributed.initialize(
            **where, initialization_timeout=timeout, heartbeat_timeout_seconds=HEARTBEAT_SECONDS
        )
    except (RuntimeError, OSError, ValueError, KeyError) as error:  # KeyError: SLURM variables
        advice = CHECK_SLURM if coordinator is None else CHECK_PROCESS_0
        raise ConnectionError(
            f"The other processes could not be joined at {coordinator or 'the SLURM coordinator'} within "
            f"{timeout} s: {reason(error).rstrip('.')}. {advice}"
        ) from error
    return keras.distribution.DataParallel(auto_shard_dataset=False)


def _connect_seconds() -> int:
    seconds = os.environ.get("VAEXPRS_CONNECT_SECONDS", str(CONNECT_SECONDS))
    if not seconds.isdecimal() or not int(seconds):
        raise ValueError(
            f"VAEXPRS_CONNECT_SECONDS must be a whole number of seconds, at least 1, got {seconds!r}. Unset "
            f"it to use {CONNECT_SECONDS}."
        )
    return int(seconds)


def _check_free(port: int) -> None:
    """Check that this process can listen at a port: JAX would crash if it cannot."""
    try:
        socket.create_server(("", port)).close()
    except OSError as error:
        raise ConnectionError(
            f"Process 0 cannot listen at port {port} of this machine: {error}. Give all processes another "
            "port in coordinator."
        ) from error


def _wait_for(host: str, port: int, timeout: float) -> None:
    """Wait until the coordinator listens: JAX would end the process with a stack trace if it does not."""
    end = time.monotonic() + timeout
    while True:
        try:
            socket.create_connection((host, port), timeout=1).close()
            return
        except OSError as error:
            if time.monotonic() > end:
                raise ConnectionError(
                    f"The coordinator {host}:{port} does not answer within {timeout:g} s: {error}. "
                    f"{CHECK_PROCESS_0}"
                ) from error
            time.sleep(0.2)


def leave() -> None:
    """Wait for the other processes at the end of a fit, and disconnect; process 0 ends last."""
    number, count = place()
    if count > 1:
        import jax
        from jax.experimental.multihost_utils import sync_global_devices

        with lost_process_errors():
            sync_global_devices("the end")
        if number == 0:
            time.sleep(LEAVE_SECONDS)  # JAX ends processes that are connected when process 0 ends
        jax.distributed.shutdown()


def give_up(status: int) -> None:
    """End this process at once if it is one of several: JAX would wait for lost processes."""
    if "jax" in sys.modules and place()[1] > 1:
        if place()[0] == 0:
            time.sleep(LEAVE_SECONDS)  # time for the others to report their own errors
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


@contextmanager
def lost_process_errors() -> Iterator[None]:
    """Convert JAX's errors about lost processes to ConnectionError.

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
            f"Process {number} of {count} stopped, because another process ended or cannot be reached: "
            f"{reason(error)[-200:]} Restart all processes, with resume to continue from the checkpoint."
        ) from error


def in_slurm_step() -> bool:
    """Whether ``srun`` started this process as one of several."""
    return int(os.environ.get("SLURM_STEP_NUM_TASKS", "1")) > 1


def place() -> tuple[int, int]:
    """Return the number of this process, from 0, and the number of processes."""
    import jax

    return jax.process_index(), jax.process_count()


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def agree(identity: Mapping[str, Any]) -> None:
    """Check that all processes have the same data and settings.

    Raises
    ------
    ValueError
        If they differ; the message names the differences.
    """
    if place()[1] == 1:
        return
    from jax.experimental.multihost_utils import process_allgather

    values = {name: json.dumps(value, default=str) for name, value in identity.items()}
    short = {name: text if len(text) <= MAX_VALUE_LENGTH else _digest(text) for name, text in values.items()}
    sent = np.frombuffer(json.dumps(short, sort_keys=True).encode().ljust(IDENTITY_BYTES), np.uint8)
    with lost_process_errors():
        texts = [bytes(row).rstrip() for row in np.asarray(process_allgather(sent))]
    if all(text == texts[0] for text in texts):
        return
    other = next(i for i, text in enumerate(texts) if text != texts[0])
    first, second = json.loads(texts[0]), json.loads(texts[other])
    different = [name for name in first | second if first.get(name) != second.get(name)]
    name = different[0]
    raise ValueError(
        f"All processes must have the same data and settings, but processes 0 and {other} differ in "
        f"{listed(different)} ({name}: {first.get(name)} and {second.get(name)})."
    )
