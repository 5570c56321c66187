"""Differential privacy: the requested guarantee, its noise multipliers, and the privacy spent.

Privacy losses are computed with the library dp-accounting.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import MISSING, asdict, dataclass, field, fields, replace
from decimal import ROUND_UP, Context
from functools import cached_property
from importlib.metadata import version
from typing import Any, Literal

import numpy as np
from scipy.optimize import brentq
from scipy.stats import binom, norm

from vaexprs.differential_privacy.randomness import NOT_RECORDED, SOURCES, TEST_SEED, Randomness
from vaexprs.interface.errors import require, warn
from vaexprs.interface.validation import check_choice, check_integer, check_real

CELL = "cell"
# Shares of the budget in units of 1 / (noise multiplier)^2, which add up over sequential releases.
MARGINALS = 0.3
DENSITY = 0.1
# Share of the budget for the release of private levels; the other shares are of the rest.
LEVELS = 0.1
THRESHOLD_DELTA = 0.1  # fraction of delta for the threshold of the release of private levels
PUBLIC, PRIVATE = "public", "private"
TOLERANCE = 1e-3  # relative tolerance of the noise multiplier of training
INTERVAL = 3e-4  # discretisation interval of privacy losses, as a fraction of epsilon
MIN_INTERVAL = 1e-4  # minimum of that interval, the default of JAX Privacy
MIN_EPSILON = 1e-3
WEAK_EPSILON = 10.0  # epsilon above which the bound is called weak
STRONG_EPSILON = 3.0  # epsilon up to which data sets are said to be hard to tell apart
SAFE_DELTA = 0.1  # delta above this fraction of 1 over the number of units causes a warning
NEIGHBOURS = "zero-out"
# a saved epsilon may be this fraction below the lower bound that its noise implies, for rounding
SLACK = 1e-3
MAX_STEPS = 10**7  # maximum number of steps in a saved guarantee
MAX_EPSILON = 1e4  # largest epsilon that is considered when the lower bound is computed


@dataclass(frozen=True)
class Privacy:
    r"""Request a differentially private model from `fit_vae`.

    A fit is a random function M of the cells. For any two data sets D and D' that differ in the contribution
    of one unit (a cell or a donor), which is present in one and replaced by nothing in the other, and any set
    S of models:

    .. math:: P(M(D) \in S) \le e^{\varepsilon} P(M(D') \in S) + \delta

    (Dwork et al. 2006, doi:10.1007/11681878_14). The guarantee also holds for everything computed from the
    model alone, such as generated cells. The number of units, the names of genes, label and covariates, and
    the arguments of the fit are not protected; the levels of label and covariates are if they are private.

    Parameters
    ----------
    epsilon
        Logarithm of the largest factor between the two probabilities, at least 0.001: 1 is strict, 3 common,
        above 10 weak.
    delta
        What is added to that bound, above 0 and less than 1 over the number of units; a warning is given
        above a tenth of it. It is not the probability that epsilon is exceeded, which can be larger.
    unit
        Privacy unit: "cell", or the name of a column of ``obs`` with the unit of each cell, such as "donor".
    insecure_test_seed
        Seed of all noise, from 0 to 2**128 - 1, for tests and benchmarks that must be repeatable. There is
        no guarantee then, and the model says so: anyone who knows the seed can remove the noise, and two
        fits with one seed have the same noise. By default the noise comes from the operating system, cannot
        be repeated, and its origin is never saved.
    levels
        Whether the levels of label and covariates (the names of cell types, batches, ...) are "public", fixed
        before the cells were seen, or "private". Private levels are released if the number of units that have
        them, with noise, is above a threshold; cells with another level are left out.
    secret
        Former name of `insecure_test_seed`, deprecated.

    Raises
    ------
    ValueError, TypeError
        If a value is out of range or has the wrong type.
    """

    epsilon: float
    delta: float = 1e-5
    unit: str = CELL
    secret: int | None = field(default=None, repr=False)
    levels: Literal["public", "private"] = field(default="public", kw_only=True)
    insecure_test_seed: int | None = field(default=None, repr=False, kw_only=True)

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
        check_choice("levels", self.levels, (PUBLIC, PRIVATE))
        if self.secret is not None:
            warn(
                "secret is deprecated, and a model fitted with it has no guarantee any more: two fits with "
                "one secret have the same noise, so that their difference reveals cells. Leave it out, or "
                "use insecure_test_seed in tests.",
                FutureWarning,
            )
        for name in ("secret", "insecure_test_seed"):
            seed = getattr(self, name)
            if seed is not None and check_integer(name, seed, 0) >= 2**128:
                raise ValueError(f"{name} must be less than 2**128, got {seed}.")

    @property
    def asked(self) -> dict[str, Any]:
        """The requested epsilon, delta, unit and levels, without the seed."""
        return {
            "epsilon": float(self.epsilon),
            "delta": float(self.delta),
            "unit": self.unit,
            "levels": self.levels,
        }

    @property
    def share_of_levels(self) -> float:
        """Share of the budget for the release of private levels; 0 if levels are public."""
        return LEVELS if self.levels == PRIVATE else 0.0

    @property
    def threshold_delta(self) -> float:
        """Part of delta for the threshold of private levels; 0 if levels are public."""
        return THRESHOLD_DELTA * self.delta if self.levels == PRIVATE else 0.0

    @cached_property
    def noise_multiplier(self) -> float:
        """Noise multiplier of a single release with the whole budget."""
        return float(_accounting().get_sigma_gaussian(self.epsilon, self.delta - self.threshold_delta))

    def source(self) -> Randomness:
        """Return the source of all noise of a fit."""
        given = (self.insecure_test_seed, self.secret)
        return Randomness(next((int(seed) for seed in given if seed is not None), None))


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
    noise_source
        Source of all noise: "operating system"; "test seed", without a guarantee; or "not recorded" in models
        saved by version 0.1.
    levels
        Noise multiplier of the release of private levels; 0 if levels are public.
    threshold_delta
        Maximum probability that a level which only one unit has is released, a part of `delta`; 0 if levels
        are public.
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
    noise_source: str = NOT_RECORDED
    levels: float = 0.0
    threshold_delta: float = 0.0

    @property
    def noise_delta(self) -> float:
        """Delta without the part for the threshold of private levels, at which epsilon is computed."""
        return self.delta - self.threshold_delta

    @cached_property
    def sentence(self) -> str:
        """The guarantee as text."""
        shown = Context(prec=3, rounding=ROUND_UP)  # rounding down would overstate the guarantee
        budget = f"({float(shown.create_decimal(repr(self.epsilon))):g}, {self.delta:g})"
        whose = "cell" if self.unit == CELL else repr(self.unit)
        limit = " (single cells, not donors)" if self.unit == CELL else ""
        included = ", including the levels of its label and covariates" if self.levels else ""
        text = f"{budget}-differentially private for each {whose} of {self.units:,}{limit}{included}"
        if self.noise_source == TEST_SEED:
            return f"no guarantee: the noise came from insecure_test_seed (otherwise {text})"
        if self.epsilon > WEAK_EPSILON:
            text += f"; an epsilon above {WEAK_EPSILON:g} is a weak guarantee"
        return text

    @property
    def explanation(self) -> str:
        """The guarantee in plain words."""
        whose = "cell" if self.unit == CELL else f"{self.unit!r} with all its cells"
        many = "cells" if self.unit == CELL else f"units ({self.unit!r})"
        included = f" Levels that few {many} have were left out with their cells." if self.levels else ""
        if self.noise_source == TEST_SEED:
            return (
                "The model has no privacy guarantee: its noise can be computed from a seed. Use it for tests "
                "only, and fit again without insecure_test_seed for a release."
            )
        if self.epsilon > WEAK_EPSILON:
            return (
                "The guarantee is weak: someone who sees the model may become nearly certain whether any one "
                f"{whose} was in the data. Rely on an audit, or use a smaller epsilon.{included}"
            )
        doubt = 1 / (1 + math.exp(self.epsilon))
        scale = 10 ** (1 - math.floor(math.log10(doubt)))  # two digits, rounded down
        percent = 100 * (1 - math.floor(doubt * scale) / scale)
        sure = (
            f"someone who considers both equally likely becomes at most {percent:.6g}% sure, apart from delta"
        )
        text = f"Data sets with and without any one {whose} can hardly be told apart from the model"
        if self.epsilon > STRONG_EPSILON:
            text = f"What the model tells about whether any one {whose} was in the data is limited"
        limit = " Donors are not protected: they have many cells." if self.unit == CELL else ""
        return f"{text}: {sure}.{included}{limit}"

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
        found = {part.name: part.default for part in fields(cls) if part.default is not MISSING}
        found |= {part.name: values[part.name] for part in fields(cls) if part.name in values}
        kinds: dict[str, Any] = {"float": (float, int), "int": int, "str": str}
        for part in fields(cls):
            value = found[part.name]
            fits = isinstance(value, kinds[str(part.type)]) and not isinstance(value, bool)
            if not fits or (part.type != "str" and not (math.isfinite(value) and value >= 0)):
                raise ValueError(f"its guarantee has {part.name} {value!r}")
        guarantee = cls(**found)
        guarantee.check()
        return guarantee

    def check(self) -> None:
        """Check that the noise can give the stated epsilon.

        Raises
        ------
        ValueError
            If a parameter is out of range, or `epsilon` is below the smallest one that is possible with this
            noise.
        """
        wrong = [
            name
            for name, right in {
                "epsilon": self.epsilon > 0,
                "delta": 0 < self.delta < 1,
                "units": self.units >= 2,
                "cells_per_unit": self.cells_per_unit >= 1,
                "marginals": self.marginals > 0,
                "density": self.density > 0,
                "training": self.training > 0 or not self.steps,
                "rate": 0 < self.rate <= 1,
                "steps": self.steps <= MAX_STEPS,
                "neighbours": self.neighbours == NEIGHBOURS,
                "noise_source": self.noise_source in SOURCES,
                "threshold_delta": self.threshold_delta < self.delta,
                "levels": bool(self.levels) == bool(self.threshold_delta),
            }.items()
            if not right
        ]
        if wrong:
            raise ValueError(f"its guarantee has {wrong[0]} {getattr(self, wrong[0])!r}")
        least = least_epsilon(self)
        if self.epsilon < least * (1 - SLACK):
            raise ValueError(
                f"its guarantee has epsilon {self.epsilon:g}, but with its noise epsilon is at least "
                f"{least:.3g}"
            )

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
    noise_source: str = NOT_RECORDED,
) -> Guarantee:
    """Return the guarantee with the smallest noise multipliers that satisfy a request.

    The releases get fixed shares of the budget, and training gets the rest; without steps the marginals get
    it. Of delta, the threshold of private levels gets a tenth.

    Parameters
    ----------
    privacy
        The requested guarantee.
    units
        Number of units.
    rate, steps, cells_per_unit, noise_source
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
            f"got {privacy.delta:g}: it would allow releasing one unit entirely. Try {_below(0.1 / units):g}."
        )
    if privacy.delta > SAFE_DELTA / units:
        warn(
            f"delta is {privacy.delta:g}, more than a tenth of 1 over the number of units ({units:,} of "
            f"{privacy.unit!r}): releasing one unit at random with probability {privacy.delta * units:.0%} "
            f"would be allowed. Try {_below(0.1 / units):g}."
        )
    of_levels = privacy.share_of_levels
    of_density = DENSITY * (1 - of_levels)
    of_marginals = (MARGINALS if steps else 1 - DENSITY) * (1 - of_levels)
    # without training, epsilon is computed with a small error, upwards
    whole_budget = privacy.noise_multiplier * (1 if steps else 1 + TOLERANCE)
    untrained = Guarantee(
        privacy.epsilon,
        privacy.delta,
        privacy.unit,
        units,
        cells_per_unit,
        whole_budget / math.sqrt(of_marginals),
        whole_budget / math.sqrt(of_density),
        0.0,
        rate,
        steps,
        accountant=f"PLD, dp-accounting {version('dp-accounting')}",
        noise_source=noise_source,
        levels=whole_budget / math.sqrt(of_levels) if of_levels else 0.0,
        threshold_delta=privacy.threshold_delta,
    )
    if not steps:
        return replace(untrained, epsilon=spent(untrained))
    # starting point from the central limit theorem for Gaussian differential privacy (Dong, Roth & Su 2022,
    # doi:10.1111/rssb.12454)
    left = (1 - MARGINALS - DENSITY) * (1 - of_levels) / whole_budget**2
    guess = 1 / math.sqrt(math.log1p(left / (steps * rate**2)))
    noise = accounting.calibrate_dp_mechanism(
        lambda: accountant(privacy.epsilon),
        lambda multiplier: events(replace(untrained, training=multiplier)),
        privacy.epsilon,
        untrained.noise_delta,
        accounting.LowerEndpointAndGuess(guess / 8, guess),
        tol=TOLERANCE * guess,
    )
    planned = replace(untrained, training=float(noise))
    return replace(planned, epsilon=spent(planned))


def training_signal(privacy: Privacy, units: int, weights: int) -> float:
    """Return what training can learn over its noise, as if all steps were one.

    That is the largest norm of the sum of clipped gradients over the expected norm of the noise on it, if the
    share of the budget for training were spent in one step with all units.

    Parameters
    ----------
    privacy
        The requested guarantee.
    units
        Number of units.
    weights
        Number of trainable weights of the network.
    """
    share = (1 - MARGINALS - DENSITY) * (1 - privacy.share_of_levels)
    return units * math.sqrt(share / weights) / privacy.noise_multiplier


def spent(guarantee: Guarantee) -> float:
    """Return the epsilon of all mechanisms of a guarantee together, at its delta.

    Unless a level is released that one unit alone has, which has a probability of at most `threshold_delta`,
    the release of levels is a function of the noisy sums of the other levels. Deltas add up.
    """
    composed = accountant(guarantee.epsilon)
    composed.compose(events(guarantee))
    return float(composed.get_epsilon(guarantee.noise_delta))


def least_epsilon(guarantee: Guarantee) -> float:
    """Return a lower bound on the epsilon of a fit with the noise of a guarantee, at its delta.

    An attacker adds up the noisy results along the direction in which a unit contributes. This weighted sum
    is normal, shifted by the releases and by the number of steps that contain the unit, which is
    binomial. The bound is the epsilon that tests of this sum for the unit prove.
    """
    shift = math.hypot(*(1 / multiplier for multiplier in _releases(guarantee)))
    steps, rate = guarantee.steps, guarantee.rate
    n, p = np.zeros(1), np.ones(1)
    each = 0.0  # shift by one step, when the sum has unit variance
    if steps:
        n = np.unique(binom.ppf(np.linspace(1e-12, 1 - 1e-12, 2001), steps, rate))
        # probability of each number of steps, with the mass between two numbers at the smaller
        p = np.diff(binom.cdf(np.append(n, np.inf) - 1, steps, rate))
        each = 1 / (guarantee.training * math.sqrt(steps))
    expected = each * steps * rate
    size = math.hypot(shift, expected)
    shifts = (shift**2 + expected * each * n) / size
    limits = np.linspace(-10, shifts.max() + 10, 4001)
    with_unit = norm.sf(limits[:, None] - shifts) @ p
    without = norm.sf(limits)

    def excess(epsilon: float) -> float:
        return float((with_unit - np.exp(min(epsilon, 700)) * without).max()) - guarantee.noise_delta

    if excess(0.0) <= 0:
        return 0.0
    return MAX_EPSILON if excess(MAX_EPSILON) > 0 else float(brentq(excess, 0.0, MAX_EPSILON, xtol=1e-6))


def _below(value: float) -> float:
    """Return the largest power of ten that is at most `value`."""
    return float(10.0 ** math.floor(math.log10(value)))


def events(guarantee: Guarantee) -> Any:
    """Return the releases of a fit as an event of dp-accounting."""
    accounting = _accounting()
    releases = [accounting.GaussianDpEvent(multiplier) for multiplier in _releases(guarantee)]
    step = accounting.PoissonSampledDpEvent(guarantee.rate, accounting.GaussianDpEvent(guarantee.training))
    if guarantee.steps:
        releases.append(accounting.SelfComposedDpEvent(step, guarantee.steps))
    return accounting.ComposedDpEvent(releases)


def _releases(guarantee: Guarantee) -> list[float]:
    """Return the noise multipliers of all releases besides training."""
    return [*([guarantee.levels] if guarantee.levels else []), guarantee.marginals, guarantee.density]


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
