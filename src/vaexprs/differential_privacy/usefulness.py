"""Predict, from public numbers alone, whether a private fit can be useful."""

from __future__ import annotations

import math
from collections.abc import Sequence

from vaexprs.differential_privacy.accounting import CELL, Guarantee
from vaexprs.differential_privacy.marginals import IN_DEVIATION

# ratio of the mean profile of an average level to its noise below which nothing of it remains, and below
# which it is recognised in part only (docs/differential-privacy.md has the measurements)
HOPELESS = 0.3
POOR = 1.5
MIN_GENES = 50  # number of genes below which a list of genes is not recommended


def signal_to_noise(guarantee: Guarantee, n_genes: int, n_levels: Sequence[int]) -> float:
    """Return the norm of the released profile of an average level over the expected norm of its noise.

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
    noise = guarantee.marginals * math.sqrt(n_genes / share)
    return guarantee.units / max(n_levels, default=1) / noise


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
    of_level = f"the noise on the profile of an average level is {1 / ratio:.1f} times the profile"
    genes = int(n_genes * (ratio / POOR) ** 2)  # for a ratio of POOR
    genes_hint = (
        f"Try a public list of at most {genes:,} genes (genes=[...] or --genes FILE)"
        if genes >= MIN_GENES
        else f"A shorter list of genes does not suffice: it takes about {_round_up(guarantee.units, ratio)} "
        f"{'cells' if guarantee.unit == CELL else 'units'}"
    )
    found = "nothing usable: hopeless" if ratio < HOPELESS else "types that are recognised in part only"
    return f"{given}: expect {found}, because {of_level}. {genes_hint}, fewer levels or a larger epsilon."


def _round_up(units: int, ratio: float) -> str:
    """Return the number of units for a ratio of POOR, rounded up to one digit."""
    needed = units * POOR / ratio
    digit = 10 ** math.floor(math.log10(needed))
    return f"{math.ceil(needed / digit) * digit:,}"
