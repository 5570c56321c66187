"""Differential privacy: what is promised, how a budget is shared out, and what was spent.

Knows nothing of cells. The arithmetic of privacy losses is that of the library dp-accounting.
"""

from __future__ import annotations

import math
import secrets
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from decimal import ROUND_UP, Context
from functools import cached_property
from importlib.metadata import version
from typing import Any

import numpy as np

from vaexprs.interface.errors import require
from vaexprs.interface.validation import check_integer, check_real

CELL = "cell"
# Shares of the budget, in units of 1 / (noise multiplier)^2: for releases after each other these add up.
MARGINALS = 0.3
DENSITY = 0.1
TOLERANCE = 1e-3  # of the noise multiplier of training; what is left over stays unspent
INTERVAL = 3e-4  # losses are rounded up to multiples of so many epsilons, or ...
MIN_INTERVAL = 1e-4  # ... of this, the default of JAX Privacy
SMALLEST_EPSILON = 1e-3
NEIGHBOURS = "zero-out"


@dataclass(frozen=True)
class Privacy:
    r"""Ask `fit_vae` for a model with differential privacy.

    A fit is a random function M of the cells. For any two data sets D and D' that differ in all that one unit
    (a cell, a donor) contributes, there or replaced by nothing, and any set S of models:

    .. math:: P(M(D) \in S) \le e^{\varepsilon} P(M(D') \in S) + \delta

    (Dwork et al. 2006, doi:10.1007/11681878_14). Whatever is made of the model alone, generated cells above
    all, keeps this promise. The number of units, the names of genes, labels and covariates, and the
    arguments of the fit are not protected.

    Parameters
    ----------
    epsilon
        Largest privacy loss, above 0: 1 is strict, 3 common, 10 weak.
    delta
        Probability that this loss is exceeded, between 0 and 1 over the number of units.
    unit
        Whose contribution is hidden: "cell", or the name of the column of ``obs`` that says whom a cell is
        of, such as "donor".
    secret
        Whole number of 0 to 2**128 - 1 that all noise is drawn from, to repeat a fit. Who knows it can take
        the noise away: keep it as you keep the data. It is never saved. By default the operating system
        draws it.

    Raises
    ------
    ValueError, TypeError
        If a value is out of its range or of the wrong kind.
    """

    epsilon: float
    delta: float = 1e-5
    unit: str = CELL
    secret: int | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        epsilon = check_real("epsilon", self.epsilon, 0)
        if epsilon < SMALLEST_EPSILON:
            raise ValueError(
                f"epsilon must be at least {SMALLEST_EPSILON:g}, got {epsilon:g}: nothing is learned below."
            )
        delta = check_real("delta", self.delta, 0, below=1)
        if not delta:
            raise ValueError(
                "delta must be above 0, got 0: Gaussian noise has no guarantee without. Try 1e-5."
            )
        if not isinstance(self.unit, str) or not self.unit:
            raise TypeError(f"unit must be 'cell' or the name of a column of obs, got {self.unit!r}.")
        if self.secret is not None and check_integer("secret", self.secret, 0) >= 2**128:
            raise ValueError("secret must be less than 2**128.")

    @property
    def asked(self) -> dict[str, Any]:
        """What is asked for, without the secret."""
        return {"epsilon": float(self.epsilon), "delta": float(self.delta), "unit": self.unit}

    def source(self) -> np.random.Generator:
        """Return the source of all noise of a fit."""
        return np.random.default_rng(secrets.randbits(128) if self.secret is None else int(self.secret))


@dataclass(frozen=True)
class Guarantee:
    """What a fit has spent, and on what.

    Parameters
    ----------
    epsilon, delta
        The guarantee that holds, see `Privacy`; `epsilon` is at most what was asked for.
    unit, units
        Whose contribution is hidden, and how many of them there are.
    cells_per_unit
        How many cells of a unit a step looks at, at most.
    marginals, density
        Noise multipliers of the two releases: standard deviation of the noise over what a unit adds at most.
    training
        The noise multiplier of a step.
    rate
        Probability that a unit is in a step, for each unit and step by itself (Poisson sampling).
    steps
        Steps taken.
    neighbours
        Which data sets are told apart: "zero-out", the data of one unit there or replaced by nothing.
    accountant
        By what the losses were composed: privacy loss distributions (Koskela et al. 2020,
        doi:10.48550/arXiv.1906.03049), as the library dp-accounting has them.
    """

    epsilon: float
    delta: float
    unit: str
    units: int
    cells_per_unit: int
    marginals: float
    density: float
    training: float
    rate: float
    steps: int
    neighbours: str = NEIGHBOURS
    accountant: str = ""

    @cached_property
    def sentence(self) -> str:
        """The guarantee in words."""
        whose = "cell" if self.unit == CELL else f"{self.unit!r}"
        shown = Context(prec=3, rounding=ROUND_UP)  # rounded down it would promise more than holds
        budget = f"({float(shown.create_decimal(repr(self.epsilon))):g}, {self.delta:g})"
        return f"{budget}-differentially private for each {whose} of {self.units:,}"

    def to_dict(self) -> dict[str, Any]:
        """Return it as JSON can hold it."""
        return asdict(self)

    @classmethod
    def from_dict(cls, told: Mapping[str, Any]) -> Guarantee:
        """Return what `to_dict` wrote.

        Raises
        ------
        ValueError, TypeError, KeyError
            If it is something else.
        """
        for part in fields(cls):
            value = told[part.name]
            kinds: dict[str, Any] = {"float": (float, int), "int": int, "str": str}
            fits = isinstance(value, kinds[str(part.type)]) and not isinstance(value, bool)
            if not fits or (part.type != "str" and not (math.isfinite(value) and value >= 0)):
                raise ValueError(f"its guarantee has {part.name} {value!r}")
        return cls(**{part.name: told[part.name] for part in fields(cls)})

    def after(self, steps: int) -> Guarantee:
        """Return the guarantee of a fit that ended after so many steps."""
        taken = replace(self, steps=steps)
        return replace(taken, epsilon=spent(taken))


def plan(
    privacy: Privacy,
    *,
    units: int,
    rate: float,
    steps: int,
    cells_per_unit: int,
) -> Guarantee:
    """Return the least noise with which a fit keeps a promise.

    The two releases have shares of the budget, and training the noise that uses up what they leave.

    Parameters
    ----------
    privacy
        What is asked for.
    units
        Number of units.
    rate, steps, cells_per_unit
        See `Guarantee`.

    Raises
    ------
    ValueError
        If `delta` is not less than one over the number of units.
    """
    accounting = _accounting()
    if privacy.delta >= 1 / units:
        raise ValueError(
            f"delta must be less than 1 over the number of units ({units:,} of {privacy.unit!r}), "
            f"got {privacy.delta:g}: it would allow to give one away whole. Try {0.1 / units:.0e}."
        )
    alone = accounting.get_sigma_gaussian(privacy.epsilon, privacy.delta)
    empty = Guarantee(
        privacy.epsilon,
        privacy.delta,
        privacy.unit,
        units,
        cells_per_unit,
        float(alone / math.sqrt(MARGINALS)),
        float(alone / math.sqrt(DENSITY)),
        0.0,
        rate,
        steps,
        accountant=f"PLD, dp-accounting {version('dp-accounting')}",
    )
    # by the central limit theorem for Gaussian differential privacy (Dong, Roth & Su 2022,
    # doi:10.1111/rssb.12454), where to begin to look
    left = (1 - MARGINALS - DENSITY) / alone**2
    guess = 1 / math.sqrt(math.log1p(left / (steps * rate**2)))
    noise = accounting.calibrate_dp_mechanism(
        lambda: accountant(privacy.epsilon),
        lambda multiplier: events(replace(empty, training=multiplier)),
        privacy.epsilon,
        privacy.delta,
        accounting.LowerEndpointAndGuess(guess / 8, guess),
        tol=TOLERANCE * guess,
    )
    found = replace(empty, training=float(noise))
    return replace(found, epsilon=spent(found))


def spent(told: Guarantee) -> float:
    """Return the epsilon that the mechanisms of a guarantee add up to, at its delta."""
    counting = accountant(told.epsilon)
    counting.compose(events(told))
    return float(counting.get_epsilon(told.delta))


def events(told: Guarantee) -> Any:
    """Return what a fit releases, in the words of dp-accounting."""
    accounting = _accounting()
    releases = [accounting.GaussianDpEvent(told.marginals), accounting.GaussianDpEvent(told.density)]
    step = accounting.PoissonSampledDpEvent(told.rate, accounting.GaussianDpEvent(told.training))
    if told.steps:
        releases.append(accounting.SelfComposedDpEvent(step, told.steps))
    return accounting.ComposedDpEvent(releases)


def accountant(epsilon: float) -> Any:
    """Return an accountant of dp-accounting for losses of about this size."""
    # of a Gaussian, sampled or not, the losses of zero-out are those of add-or-remove
    accounting = _accounting()
    return accounting.pld.PLDAccountant(
        accounting.NeighboringRelation.ADD_OR_REMOVE_ONE,
        value_discretization_interval=max(MIN_INTERVAL, INTERVAL * epsilon),
    )


def _accounting() -> Any:
    accounting = require("dp_accounting", "'vaexprs[privacy]'", "A fit with privacy")
    require("dp_accounting.pld", "'vaexprs[privacy]'", "A fit with privacy")
    return accounting
