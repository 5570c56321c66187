"""Differential privacy: the requested guarantee, its noise multipliers, and the privacy spent.

Privacy losses are computed with the library dp-accounting.
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
# Shares of the budget in units of 1 / (noise multiplier)^2, which add up over sequential releases.
MARGINALS = 0.3
DENSITY = 0.1
TOLERANCE = 1e-3  # relative tolerance of the noise multiplier of training
INTERVAL = 3e-4  # discretisation interval of privacy losses, as a fraction of epsilon
MIN_INTERVAL = 1e-4  # minimum of that interval, the default of JAX Privacy
MIN_EPSILON = 1e-3
NEIGHBOURS = "zero-out"


@dataclass(frozen=True)
class Privacy:
    r"""Request a differentially private model from `fit_vae`.

    A fit is a random function M of the cells. For any two data sets D and D' that differ in the contribution
    of one unit (a cell or a donor), which is present in one and replaced by nothing in the other, and any set
    S of models:

    .. math:: P(M(D) \in S) \le e^{\varepsilon} P(M(D') \in S) + \delta

    (Dwork et al. 2006, doi:10.1007/11681878_14). The guarantee also holds for everything computed from the
    model alone, such as generated cells. The number of units, the names of genes, labels and covariates, and
    the arguments of the fit are not protected.

    Parameters
    ----------
    epsilon
        Maximum privacy loss, at least 0.001: 1 is strict, 3 common, 10 weak.
    delta
        Probability that this loss is exceeded, above 0 and less than 1 over the number of units.
    unit
        Privacy unit: "cell", or the name of a column of ``obs`` with the unit of each cell, such as "donor".
    secret
        Seed of all noise, from 0 to 2**128 - 1, to repeat a fit. Anyone who knows it can remove the noise:
        protect it like the data. It is never saved. By default it comes from the operating system.

    Raises
    ------
    ValueError, TypeError
        If a value is out of range or has the wrong type.
    """

    epsilon: float
    delta: float = 1e-5
    unit: str = CELL
    secret: int | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        epsilon = check_real("epsilon", self.epsilon, 0)
        if epsilon < MIN_EPSILON:
            raise ValueError(
                f"epsilon must be at least {MIN_EPSILON:g}, got {epsilon:g}. Nothing can be learned below."
            )
        delta = check_real("delta", self.delta, 0, below=1)
        if not delta:
            raise ValueError(
                "delta must be above 0, got 0: the Gaussian mechanism gives no pure epsilon-DP. Try 1e-5."
            )
        if not isinstance(self.unit, str) or not self.unit:
            raise TypeError(f"unit must be 'cell' or the name of a column of obs, got {self.unit!r}.")
        if self.secret is not None and check_integer("secret", self.secret, 0) >= 2**128:
            raise ValueError("secret must be less than 2**128.")

    @property
    def asked(self) -> dict[str, Any]:
        """The requested epsilon, delta and unit, without the secret."""
        return {"epsilon": float(self.epsilon), "delta": float(self.delta), "unit": self.unit}

    def source(self) -> np.random.Generator:
        """Return the random generator of all noise of a fit."""
        return np.random.default_rng(secrets.randbits(128) if self.secret is None else int(self.secret))


@dataclass(frozen=True)
class Guarantee:
    """The privacy guarantee of a fit, and its parameters.

    Parameters
    ----------
    epsilon, delta
        The guarantee, see `Privacy`; `epsilon` is at most the requested one.
    unit, units
        Privacy unit, and number of units.
    cells_per_unit
        Maximum number of cells of a unit in a step.
    marginals, density
        Noise multipliers of the two releases: standard deviation of the noise over the maximum contribution
        (L2 sensitivity) of a unit.
    training
        Noise multiplier of a step.
    rate
        Probability that a unit is in a step, independently for each unit and step (Poisson sampling).
    steps
        Number of steps taken.
    neighbours
        Neighbouring relation: "zero-out", the data of one unit present or replaced by nothing.
    accountant
        Method of composition: privacy loss distributions (Koskela et al. 2020,
        doi:10.48550/arXiv.1906.03049) from the library dp-accounting.
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
        """The guarantee as text."""
        unit = "cell" if self.unit == CELL else f"{self.unit!r}"
        shown = Context(prec=3, rounding=ROUND_UP)  # rounding down would overstate the guarantee
        budget = f"({float(shown.create_decimal(repr(self.epsilon))):g}, {self.delta:g})"
        return f"{budget}-differentially private for each {unit} of {self.units:,}"

    def to_dict(self) -> dict[str, Any]:
        """Return the guarantee as JSON values."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Guarantee:
        """Return the guarantee from the result of `to_dict`.

        Raises
        ------
        ValueError, TypeError, KeyError
            If a value is missing or invalid.
        """
        for part in fields(cls):
            value = values[part.name]
            kinds: dict[str, Any] = {"float": (float, int), "int": int, "str": str}
            fits = isinstance(value, kinds[str(part.type)]) and not isinstance(value, bool)
            if not fits or (part.type != "str" and not (math.isfinite(value) and value >= 0)):
                raise ValueError(f"its guarantee has {part.name} {value!r}")
        return cls(**{part.name: values[part.name] for part in fields(cls)})

    def after(self, steps: int) -> Guarantee:
        """Return the guarantee of a fit that ended after `steps` steps."""
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
    """Return the guarantee with the smallest noise multipliers that satisfy a request.

    The two releases get fixed shares of the budget, and training gets the rest.

    Parameters
    ----------
    privacy
        The requested guarantee.
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
            f"got {privacy.delta:g}: it would allow releasing one unit entirely. Try {0.1 / units:.0e}."
        )
    whole_budget = accounting.get_sigma_gaussian(privacy.epsilon, privacy.delta)
    untrained = Guarantee(
        privacy.epsilon,
        privacy.delta,
        privacy.unit,
        units,
        cells_per_unit,
        float(whole_budget / math.sqrt(MARGINALS)),
        float(whole_budget / math.sqrt(DENSITY)),
        0.0,
        rate,
        steps,
        accountant=f"PLD, dp-accounting {version('dp-accounting')}",
    )
    # starting point from the central limit theorem for Gaussian differential privacy (Dong, Roth & Su 2022,
    # doi:10.1111/rssb.12454)
    left = (1 - MARGINALS - DENSITY) / whole_budget**2
    guess = 1 / math.sqrt(math.log1p(left / (steps * rate**2)))
    noise = accounting.calibrate_dp_mechanism(
        lambda: accountant(privacy.epsilon),
        lambda multiplier: events(replace(untrained, training=multiplier)),
        privacy.epsilon,
        privacy.delta,
        accounting.LowerEndpointAndGuess(guess / 8, guess),
        tol=TOLERANCE * guess,
    )
    planned = replace(untrained, training=float(noise))
    return replace(planned, epsilon=spent(planned))


def spent(guarantee: Guarantee) -> float:
    """Return the epsilon of all mechanisms of a guarantee together, at its delta."""
    composed = accountant(guarantee.epsilon)
    composed.compose(events(guarantee))
    return float(composed.get_epsilon(guarantee.delta))


def events(guarantee: Guarantee) -> Any:
    """Return the releases of a fit as an event of dp-accounting."""
    accounting = _accounting()
    releases = [
        accounting.GaussianDpEvent(guarantee.marginals),
        accounting.GaussianDpEvent(guarantee.density),
    ]
    step = accounting.PoissonSampledDpEvent(guarantee.rate, accounting.GaussianDpEvent(guarantee.training))
    if guarantee.steps:
        releases.append(accounting.SelfComposedDpEvent(step, guarantee.steps))
    return accounting.ComposedDpEvent(releases)


def accountant(epsilon: float) -> Any:
    """Return an accountant of dp-accounting for losses of about `epsilon`."""
    # for Gaussian mechanisms, sampled or not, zero-out has the losses of add-or-remove
    accounting = _accounting()
    return accounting.pld.PLDAccountant(
        accounting.NeighboringRelation.ADD_OR_REMOVE_ONE,
        value_discretization_interval=max(MIN_INTERVAL, INTERVAL * epsilon),
    )


def _accounting() -> Any:
    accounting = require("dp_accounting", "'vaexprs[privacy]'", "A fit with privacy")
    require("dp_accounting.pld", "'vaexprs[privacy]'", "A fit with privacy")
    return accounting
