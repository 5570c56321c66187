"""What this machine can do: its float32 matrix product and its copies, the floor of a training step.

    python benchmarks/limits.py [--cells 128] [--genes 2000] [--hidden 256]

A step multiplies matrices five times with ``2 * cells * genes * hidden`` operations each (the encoder
forward and for its weights, the decoder forward, for its weights and for its input) and moves each weight
eleven times: read by Adam with its gradient, both moments and the moving average, all but the gradient
written, and gradients written once and read once more for their norm. The floor is the time of the
operations plus the time of the bytes.
"""

from __future__ import annotations

import argparse
import os
import time
from statistics import median

os.environ.setdefault("KERAS_BACKEND", "jax")
import jax
import jax.numpy as jnp
import numpy as np

PASSES = 11


def seconds(function, *values, runs: int = 30) -> float:
    """Return the median time of a compiled function."""
    jax.block_until_ready(function(*values))
    times = []
    for _ in range(runs):
        start = time.perf_counter()
        jax.block_until_ready(function(*values))
        times.append(time.perf_counter() - start)
    return median(times)


def machine() -> tuple[float, float]:
    """Return operations a second of a matrix product and bytes a second of a copy."""
    n = 2_000
    square = jnp.ones((n, n), jnp.float32)
    product = 2 * n**3 / seconds(jax.jit(jnp.matmul), square, square)
    weights = jnp.ones((n, 512), jnp.float32)  # the size of a layer
    copy = 2 * weights.nbytes / seconds(jax.jit(lambda x: x + 1), weights)
    return product, copy


def floor(cells: int, genes: int, hidden: int, product: float, copy: float) -> float:
    """Return the seconds of a step that nothing could be faster than."""
    operations = 5 * 2 * cells * genes * hidden
    moved = PASSES * 4 * 2 * genes * hidden
    return operations / product + moved / copy


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--cells", type=int, default=128, help="a batch")
    parser.add_argument("--genes", type=int, default=2_000)
    parser.add_argument("--hidden", type=int, default=256)
    asked = parser.parse_args()
    product, copy = machine()
    rng = np.random.default_rng(0)
    disk = rng.random(4_000_000).astype(np.float32)
    start = time.perf_counter()
    disk.copy()
    numpy_copy = 2 * disk.nbytes / (time.perf_counter() - start)
    step = floor(asked.cells, asked.genes, asked.hidden, product, copy)
    print(f"{os.cpu_count()} processors, JAX {jax.__version__}")
    print(f"product {product / 1e9:.0f} GFLOP/s, copy {copy / 1e9:.1f} GB/s; NumPy {numpy_copy / 1e9:.1f}")
    print(f"floor of a step: {1e3 * step:.2f} ms, {asked.cells / step:,.0f} cells/s")


if __name__ == "__main__":
    main()
