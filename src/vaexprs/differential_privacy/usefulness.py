"""Predict, from public numbers alone, whether a private fit can be useful."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from vaexprs.differential_privacy.accounting import CELL, Guarantee
from vaexprs.differential_privacy.marginals import IN_DEVIATION
from vaexprs.differential_privacy.mechanisms import Units

# norm of the deviation of a typical level from the mean profile (square roots of proportions)
TYPICAL_DEVIATION = 0.5
# ratio of this deviation to its noise below which nothing of it remains, and below which it is recognised in
# part only (docs/differential-privacy.md has the measurements)
HOPELESS = 0.3
POOR = 1.4
PARTLY = (
    "types that are recognised in part only, with fold changes of a quarter to three quarters of the real "
    "ones"
)
MIN_GENES = 50  # number of genes below which a list of genes is not recommended


def signal_to_noise(guarantee: Guarantee, n_genes: int, n_levels: Sequence[int]) -> float:
    """Return the norm of the deviation of a typical level over the expected norm of its noise.

    A cell has one level of each key; a donor is assumed to have cells of each.

    Parameters
    ----------
    guarantee
        The planned guarantee.
    n_genes
        Number of genes.
    n_levels
        Number of levels of each key.
    """
    share = IN_DEVIATION / max(len(n_levels), 1)
    single, levels = guarantee.unit == CELL, max(n_levels, default=1)
    bound = Units(np.zeros(0, int), guarantee.units, single).deviation(levels)
    noise = guarantee.marginals * bound * math.sqrt(n_genes / share)
    return TYPICAL_DEVIATION * guarantee.units / (levels if single else 1) / noise


def expectation(guarantee: Guarantee, n_genes: int, n_levels: Sequence[int]) -> str:
    """Return a warning on what to expect of a fit, or an empty string if it can be useful.

    Parameters
    ----------
    guarantee, n_genes, n_levels
        See `signal_to_noise`.
    """
    ratio = signal_to_noise(guarantee, n_genes, n_levels)
    if ratio >= POOR:
        return ""
    levels = max(n_levels, default=1)
    given = (
        f"{guarantee.units:,} units ({guarantee.unit!r}), {n_genes:,} genes and {levels:,} "
        f"level{'s' if levels > 1 else ''} at epsilon {guarantee.epsilon:.3g}"
    )
    of_level = f"the noise on what distinguishes a level is {1 / ratio:.1f} times as large as that"
    genes = int(n_genes * (ratio / POOR) ** 2)  # for a ratio of POOR
    genes_hint = (
        f"Try a public list of at most {genes:,} genes with genes= (--genes)"
        if genes >= MIN_GENES
        else f"A shorter list of genes does not suffice: it takes about {_round_up(guarantee.units, ratio)} "
        f"{'cells' if guarantee.unit == CELL else 'units'}"
    )
    found = "nothing usable" if ratio < HOPELESS else PARTLY
    return f"{given}: expect {found}, because {of_level}. {genes_hint}, fewer levels or a larger epsilon."


def _round_up(units: int, ratio: float) -> str:
    """Return the number of units for a ratio of POOR, rounded up to one digit."""
    needed = units * POOR / ratio
    digit = 10 ** math.floor(math.log10(needed))
    return f"{math.ceil(needed / digit) * digit:,}"
