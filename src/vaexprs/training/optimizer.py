"""The default optimizer, and copies of the user's."""

from __future__ import annotations

from typing import Any

import keras

from vaexprs.interface.validation import did_you_mean
from vaexprs.likelihoods.base import Likelihood
from vaexprs.preprocessing.summary import Summary

LEARNING_RATE = 3e-3
DEEP = 20_000  # counts a cell from which on, as for values that are not counts, ...
DEEP_LEARNING_RATE = 1e-3  # ... steps must be smaller: each value tells much, and the loss is steep
AVERAGING = 0.99  # momentum of the moving average of the weights
# Steps this large can blow up where one gene has most of the counts: Adam forgets squared gradients faster
# than by its default of 0.999, and gradients have a norm of at most 10.
FORGETTING = 0.99
LARGEST_GRADIENT = 10.0


def default_optimizer(likelihood: Likelihood, summary: Summary) -> keras.optimizers.Optimizer:
    """Return the default optimizer for a likelihood."""
    if likelihood.last_layer_is_output:  # R's contract
        return keras.optimizers.Adam()
    shallow = likelihood.counts and summary.total.sum() <= DEEP * summary.cells
    rate = LEARNING_RATE if shallow else DEEP_LEARNING_RATE
    return keras.optimizers.Adam(
        rate,
        beta_2=FORGETTING,
        global_clipnorm=LARGEST_GRADIENT,
        use_ema=True,
        ema_momentum=AVERAGING,
    )


def copy_optimizer(optimizer: Any) -> keras.optimizers.Optimizer:
    """Return a fresh copy of the optimizer that was given."""
    if isinstance(optimizer, keras.optimizers.Optimizer):
        return type(optimizer).from_config(optimizer.get_config())
    try:
        return keras.optimizers.get(str(optimizer))
    except ValueError as error:
        names = [n.lower() for n, o in vars(keras.optimizers).items() if isinstance(o, type)]
        raise ValueError(
            f"optimizer must be a Keras optimizer or its name, got {optimizer!r}."
            f"{did_you_mean(optimizer, names)}"
        ) from error
