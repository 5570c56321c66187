"""Compiled programs: cache on disk and several training steps in one call."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from typing import Any

import keras
import numpy as np

MIN_COMPILE_TIME = 0.1  # seconds from which on a compiled program is kept


def several_steps(step: Callable[..., Any], most: int) -> Callable[..., Any]:
    """Return a train function in the form of Keras' that takes up to `most` batches at once.

    The batches, which must be of one size, are put into the same `most` places each time, and how many there
    are is told apart: a shorter group at the end of an epoch needs no program of its own.
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

    # JAX may read NumPy's memory while it computes: one set of places is filled while it works on the other
    sets: list[tuple[list[np.ndarray], Any]] = [([], None), ([], None)]

    def train(state: Any, iterator: Iterator[Any]) -> Any:
        places, busy = sets.pop(0)
        jax.block_until_ready(busy)
        n = 0
        for batch in itertools.chain([next(iterator)], itertools.islice(iterator, most - 1)):
            parts, form = jax.tree.flatten(batch)
            if not places:
                places = [np.empty((most, *np.shape(part)), np.asarray(part).dtype) for part in parts]
            for place, part in zip(places, parts, strict=True):
                place[n] = part
            n += 1
        logs, state = run(state, jax.tree.unflatten(form, places), n)
        sets.append((places, logs))
        return logs, state

    return train


def keep_compiled() -> None:
    """Let JAX keep the programs it compiles in the user's cache folder: the next fit like this starts sooner.

    Programs hold no data. A folder that is chosen already (``JAX_COMPILATION_CACHE_DIR``) stays, and
    ``JAX_ENABLE_COMPILATION_CACHE=false`` switches it off.
    """
    if keras.backend.backend() != "jax":
        return
    import jax
    from platformdirs import user_cache_path

    config: Any = jax.config
    if config.jax_compilation_cache_dir is None:
        with suppress(OSError):  # no home to write to: compile each time
            folder = user_cache_path("vaexprs", appauthor=False) / "jax"
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            config.update("jax_compilation_cache_dir", str(folder))
            config.update("jax_persistent_cache_min_compile_time_secs", MIN_COMPILE_TIME)
