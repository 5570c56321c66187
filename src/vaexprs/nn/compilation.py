"""JAX compilation: several training steps per call and a persistent compilation cache."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from typing import Any

import keras
import numpy as np

MIN_COMPILE_TIME = 0.02  # seconds; programs that compile faster are not cached


def several_steps(step: Callable[..., Any], most: int) -> Callable[..., Any]:
    """Return a Keras train function that processes up to `most` batches in one compiled call.

    The batches, which must have the same size, are copied into buffers for `most` batches. Their number is a
    separate argument, so that a shorter group at the end of an epoch does not trigger another compilation.
    """
    import jax

    @partial(jax.jit, donate_argnums=0)
    def run(state: Any, batches: Any, n: Any) -> Any:
        def one(i: Any, carried: Any) -> Any:
            batch = jax.tree.map(lambda part: part[i], batches)
            return step(carried[1], batch)

        shapes = jax.eval_shape(step, state, jax.tree.map(lambda part: part[0], batches))[0]
        logs = jax.tree.map(lambda part: jax.numpy.zeros(part.shape, part.dtype), shapes)
        return jax.lax.fori_loop(0, n, one, (logs, state))

    # JAX may read NumPy's memory while it computes, so two sets of buffers are used in turn
    sets: list[tuple[list[np.ndarray], Any]] = [([], None), ([], None)]

    def train(state: Any, iterator: Iterator[Any]) -> Any:
        buffers, busy = sets.pop(0)
        jax.block_until_ready(busy)
        n, form = 0, None
        for batch in itertools.chain([next(iterator)], itertools.islice(iterator, most - 1)):
            parts, form = jax.tree.flatten(batch)
            shapes = [(most, *np.shape(part)) for part in parts]
            if [buffer.shape for buffer in buffers] != shapes:  # rare: see the places of CellBatches
                if n:
                    _, state = run(state, jax.tree.unflatten(form, buffers), n)
                kinds = [np.asarray(part).dtype for part in parts]
                buffers = [np.empty(shape, kind) for shape, kind in zip(shapes, kinds, strict=True)]
                n = 0
            for buffer, part in zip(buffers, parts, strict=True):
                buffer[n] = part
            n += 1
        logs, state = run(state, jax.tree.unflatten(form, buffers), n)
        sets.append((buffers, logs))
        return logs, state

    return train


def compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """Return a function of arrays as one JAX program; as it is with other backends."""
    if keras.backend.backend() != "jax":
        return function
    import jax

    return jax.jit(function)


def keep_compiled() -> None:
    """Enable JAX's compilation cache in the user's cache folder, so that similar fits start faster.

    Compiled programs contain no data. A folder set by ``JAX_COMPILATION_CACHE_DIR`` is respected, and
    ``JAX_ENABLE_COMPILATION_CACHE=false`` disables the cache.
    """
    if keras.backend.backend() != "jax":
        return
    import jax
    from platformdirs import user_cache_path

    config: Any = jax.config
    if config.jax_compilation_cache_dir is None:
        with suppress(OSError):  # no writable home folder: compile each time
            folder = user_cache_path("vaexprs", appauthor=False) / "jax"
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            config.update("jax_compilation_cache_dir", str(folder))
            config.update("jax_persistent_cache_min_compile_time_secs", MIN_COMPILE_TIME)
