"""Lower bound of the time of a training step on this machine.

    python benchmarks/limits.py [--cells 128] [--genes 2000] [--density 0.05] [--hidden 256] [--latent 10]

A step has two products of ``2 * counts * hidden`` operations for the encoder (forward and for its weights),
with the number of counts above zero, ``density * cells * genes``. The decoder, with its linear hidden layer
folded into the last one, has the product of their weights, ``2 * latent * hidden * genes``, and its product
with the latent vectors, ``2 * cells * latent * genes``, each forward and twice for gradients. Each weight is
moved eleven times: Adam reads it with its gradient, both moments and the moving average and writes all but
the gradient; gradients are written once and read once more for their norm. The bound is the time of the
operations plus the time of the bytes. The likelihood is not counted.

Prints the rates of a float32 matrix product and of copies, and the bound in ms and cells/s.
"""

from __future__ import annotations

import os

os.environ.setdefault("KERAS_BACKEND", "jax")
import jax
import jax.numpy as jnp
import numpy as np
from harness import median_seconds, parser, timed

PASSES = 11  # times that each weight is moved


def seconds(function, *values) -> float:
    """Return the median time of a compiled function."""
    return median_seconds(lambda: jax.block_until_ready(function(*values)), repeats=30)


def machine() -> tuple[float, float]:
    """Return the operations per second of a matrix product and the bytes per second of a copy."""
    n = 2_000
    square = jnp.ones((n, n), jnp.float32)
    product = 2 * n**3 / seconds(jax.jit(jnp.matmul), square, square)
    weights = jnp.ones((n, 512), jnp.float32)  # the size of a layer
    copy = 2 * weights.nbytes / seconds(jax.jit(lambda x: x + 1), weights)
    return product, copy


def floor(
    cells: int, genes: int, density: float, hidden: int, latent: int, product: float, copy: float
) -> float:
    """Return the lower bound of the time of a step in seconds."""
    operations = 2 * 2 * density * cells * genes * hidden + 3 * 2 * latent * genes * (hidden + cells)
    n_bytes = PASSES * 4 * 2 * genes * hidden
    return operations / product + n_bytes / copy


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--cells", type=int, default=128, help="batch size")
    options.add_argument("--genes", type=int, default=2_000)
    options.add_argument("--density", type=float, default=0.05, help="fraction of counts above zero")
    options.add_argument("--hidden", type=int, default=256, help="units of the hidden layer")
    options.add_argument("--latent", type=int, default=10, help="latent dimensions")
    args = options.parse_args()
    product, copy = machine()
    rng = np.random.default_rng(0)
    values = rng.random(4_000_000).astype(np.float32)
    numpy_copy = 2 * values.nbytes / timed(values.copy)[0]
    step = floor(args.cells, args.genes, args.density, args.hidden, args.latent, product, copy)
    print(f"{os.cpu_count()} processors, JAX {jax.__version__}")
    print(f"product {product / 1e9:.0f} GFLOP/s, copy {copy / 1e9:.1f} GB/s; NumPy {numpy_copy / 1e9:.1f}")
    print(f"floor of a step: {1e3 * step:.2f} ms, {args.cells / step:,.0f} cells/s")


if __name__ == "__main__":
    main()
