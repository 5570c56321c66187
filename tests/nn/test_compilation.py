"""Several training steps in one program."""

import jax.numpy as jnp
import numpy as np

from vaexprs.nn.compilation import several_steps


def test_batches_with_other_shapes_are_not_lost():
    """A step sums what it gets; the fourth batch has more positions than the others."""

    def step(state, batch):
        total, n = state
        return {"n": n + 1}, (total + jnp.sum(batch[0]) + jnp.sum(batch[1]), n + 1)

    parts = [(np.full((2, 3), i, np.float32), np.arange(4 + 2 * (i == 3), dtype=np.int32)) for i in range(8)]
    run, state, batches = several_steps(step, 5), (jnp.float32(0), jnp.int32(0)), iter(parts)
    for _ in range(2):  # groups of five and three
        logs, state = run(state, batches)
    assert int(logs["n"]) == len(parts) == int(state[1])
    assert float(state[0]) == sum(float(a.sum() + b.sum()) for a, b in parts)
