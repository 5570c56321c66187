"""Log probabilities of count distributions in Keras operations."""

from __future__ import annotations

from typing import Any

from keras import ops


def log_rising(a: Any, x: Any) -> Any:
    r"""Return :math:`\log\Gamma(a + x) - \log\Gamma(a)` for a > 0, x >= 0, without cancellation.

    Four steps of the recurrence, then the difference of two Stirling series (Abramowitz & Stegun 1964,
    6.1.15 and 6.1.40), which is accurate in float32 when both gamma functions are large.
    """
    b = a + 4.0
    recurrence = ops.log((a + x) * (a + x + 1) * (a + x + 2) * (a + x + 3)) - ops.log(
        a * (a + 1) * (a + 2) * (a + 3)
    )
    stirling = (b - 0.5) * ops.log1p(x / b) + x * ops.log(b + x) - x
    return stirling + _stirling_tail(b + x) - _stirling_tail(b) - recurrence


def _stirling_tail(z: Any) -> Any:
    inverse = 1.0 / z
    square = inverse * inverse
    return inverse * (1 / 12 - square * (1 / 360 - square / 1260))


def poisson_log_prob(x: Any, mean: Any) -> Any:
    r"""Return :math:`x \log\mu - \mu - \log x!`."""
    return x * ops.log(mean) - mean - log_rising(ops.ones_like(mean), x)


def negative_binomial_log_prob(x: Any, mean: Any, dispersion: Any) -> Any:
    r"""Return the log probability of counts with variance :math:`\mu + \mu^2 / \theta`.

    .. math:: \log\frac{\Gamma(x+\theta)}{\Gamma(\theta)\,x!}
              + x\log\frac{\mu}{\theta} - (x + \theta)\log(1 + \mu/\theta)
    """
    ratio = mean / dispersion
    return log_coefficient(x, dispersion, ratio) - (x + dispersion) * ops.log1p(ratio)


def log_coefficient(x: Any, a: Any, ratio: Any = 1.0) -> Any:
    r"""Return :math:`\log\frac{\Gamma(x + a)}{\Gamma(a)\,x!} + x\log r` for a > 0, x >= 0 and r > 0.

    The two rising factorials are computed as in `log_rising`, with logarithms combined where possible: apart
    from matrix products, most of the time of a training step is spent here.
    """
    b, shifted, steps = a + 4.0, x + (a + 4.0), x + 5.0
    recurrence = ops.log(
        24.0
        * ((a + x) * (a + x + 1) / (a * (a + 1) * (1 + x) * (2 + x)))
        * ((a + x + 2) * (a + x + 3) / ((a + 2) * (a + 3) * (3 + x) * (4 + x)))
    )
    stirling = (shifted - 0.5) * ops.log1p(x / b) - (steps - 0.5) * ops.log1p(x / 5.0)
    tails = _stirling_tail(shifted) - _stirling_tail(b) - _stirling_tail(steps) + _stirling_tail(5.0)
    return stirling + tails - recurrence + x * ops.log(ratio * b / 5.0)


def sum_over_genes(values: Any) -> Any:
    """Return the sum of each row, (n_cells,).

    Computed as a matrix product. XLA fuses the computation of the values into the loop of a plain sum, which
    takes twice as long on a CPU.
    """
    return ops.squeeze(ops.matmul(values, ops.ones((values.shape[-1], 1), values.dtype)), -1)
