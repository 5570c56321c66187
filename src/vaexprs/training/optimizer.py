"""The default optimizer, and copies of optimizers given by the user."""

from __future__ import annotations

from typing import Any

import keras

from vaexprs.interface.validation import did_you_mean
from vaexprs.likelihoods.base import Likelihood
from vaexprs.preprocessing.summary import Summary

LEARNING_RATE = 3e-3
MAX_SHALLOW = 20_000  # mean counts per cell up to which LEARNING_RATE is used
# Learning rate for deeper cells and for values that are not counts, whose loss is steeper.
DEEP_LEARNING_RATE = 1e-3
AVERAGING = 0.99  # momentum of the moving average of the weights
# At these learning rates training can diverge if one gene has most of the counts. A second-moment decay
# (beta_2) below Adam's default of 0.999 and gradient clipping prevent that.
SECOND_MOMENT_DECAY = 0.99
MAX_GRADIENT_NORM = 10.0


def default_optimizer(likelihood: Likelihood, summary: Summary) -> keras.optimizers.Optimizer:
    """Return the default optimizer for a likelihood."""
    if likelihood.last_layer_is_output:  # the contract of the R package
        return keras.optimizers.Adam()
    shallow = likelihood.counts and summary.total.sum() <= MAX_SHALLOW * summary.cells
    rate = LEARNING_RATE if shallow else DEEP_LEARNING_RATE
    return keras.optimizers.Adam(
        rate,
        beta_2=SECOND_MOMENT_DECAY,
        global_clipnorm=MAX_GRADIENT_NORM,
        use_ema=True,
        ema_momentum=AVERAGING,
    )


def copy_optimizer(optimizer: Any) -> keras.optimizers.Optimizer:
    """Return a new optimizer from an optimizer or the name of one.

    Raises
    ------
    ValueError
        If it is neither.
    """
    if isinstance(optimizer, keras.optimizers.Optimizer):
        return type(optimizer).from_config(optimizer.get_config())
    try:
        return keras.optimizers.get(str(optimizer))
    except ValueError as error:
        names = [n.lower() for n, o in vars(keras.optimizers).items() if isinstance(o, type)]
        raise ValueError(
            f"optimizer must be a Keras optimizer or the name of one, got {optimizer!r}."
            f"{did_you_mean(optimizer, names)}"
        ) from error
