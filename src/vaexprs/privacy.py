"""audit_privacy: what generated cells tell of the cells that the model was fitted to."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from vaexprs import markup
from vaexprs._checks import check_integer, some
from vaexprs.comparison import (
    Axes,
    CellSet,
    as_cells,
    at_hand,
    label_key_of,
    layer_like,
    matched_rows,
    rows_in,
    side_by_side,
)
from vaexprs.scorecard import Answer

COLUMNS = ("metric", "value", "low", "high", "verdict")
LEAST_CELLS = 10  # of each set
MOST_CELLS = 20_000  # training and held-out cells that are tried
BOOTSTRAPS = 1_000
CONFIDENCE = 0.95
NEIGHBOURS = 5  # whose distance estimates a density
FALSE_POSITIVES = 0.01
NEAREST = 0.01  # of the held-out cells are as near to a training cell as what is called a close copy
FAR_OUT = 3.0  # interquartile ranges below the first quartile: Tukey's far-out values
TINY = 1e-9
ROUNDING = 1e-6


class Audit(NamedTuple):
    """What a row of the audit is and how it is judged.

    Parameters
    ----------
    title, what
        Its name and a sentence for the reader.
    caution, fail
        The verdict is "pass" unless the interval lies beyond `caution`, and "fail" if it lies beyond `fail`.
    below
        Whether small values are the bad ones.
    """

    title: str
    what: str
    caution: float
    fail: float
    below: bool = False


AUDITS: dict[str, Audit] = {
    "copy_ratio": Audit(
        "Distance to the training cells",
        "Median distance of a generated cell to the closest training cell, over that of a held-out real "
        "cell; far below 1: copies.",
        0.95,
        0.8,
        below=True,
    ),
    "exact_copies": Audit(
        "Exact copies",
        "Fraction of generated cells that equal a training cell in each gene.",
        0.0,
        0.001,
    ),
    "close_copies": Audit(
        "Close copies",
        "Fraction of generated cells that are nearer to a training cell than all but 1% of held-out cells "
        "are; 0.01 is expected.",
        0.01,
        0.05,
    ),
    "membership_auc": Audit(
        "Membership of a cell (AUC)",
        "How well an attacker with the generated cells tells training from held-out cells, by how near a "
        "generated cell is compared with other real cells; 0.5: by chance.",
        0.5,
        0.6,
    ),
    "membership_auc_distance": Audit(
        "Membership by distance alone (AUC)",
        "The same by the distance to the nearest generated cell, without comparison.",
        0.5,
        0.6,
    ),
    "membership_auc_density": Audit(
        "Membership by density ratio (AUC)",
        "The same by the ratio of the densities of generated and real cells around a cell.",
        0.5,
        0.6,
    ),
    "membership_tpr_at_1pct_fpr": Audit(
        "Training cells found at 1% false alarms",
        "Fraction of training cells that the attacker names while naming 1% of held-out cells by mistake; "
        "0.01: by chance.",
        0.01,
        0.1,
    ),
    "exposed_cells": Audit(
        "Exposed training cells",
        "Fraction of training cells with a generated cell suspiciously near, as is hardly ever seen for "
        "held-out cells.",
        0.001,
        0.01,
    ),
    "donor_copy_ratio": Audit(
        "Distance from donors",
        "Median distance of the training donors' cells to the nearest generated cell, over that of donors "
        "held out; far below 1: training donors are given away.",
        0.95,
        0.8,
        below=True,
    ),
    "donor_membership_auc": Audit(
        "Membership of a donor (AUC)",
        "How well an attacker tells donors in the training cells from others; 0.5: by chance.",
        0.5,
        0.6,
    ),
    "donor_membership_tpr_at_1pct_fpr": Audit(
        "Training donors found at 1% false alarms",
        "Fraction of training donors that the attacker names while naming 1% of other donors by mistake.",
        0.01,
        0.1,
    ),
}
# of several attacks one may reach beyond chance by chance; these two are for information unless they fail
SECOND_ATTACKS = ["membership_auc_distance", "membership_auc_density"]
LEAST_DONORS = 3  # on each side, with fewer of whom no attack can be told from luck
DISTANCES = ("copy_ratio", "close_copies")  # what deeper cells, or such of one condition, can fail alone
QUESTION = "Did it copy its training cells?"


class PrivacyAudit(pd.DataFrame):
    """The table of `audit_privacy`, a DataFrame that shows itself in a notebook; its parts are plain ones."""

    def _repr_html_(self) -> str:
        if not set(COLUMNS) <= set(self.columns):  # it was changed in place
            return str(pd.DataFrame(self)._repr_html_())  # type: ignore[operator]
        return markup.judged(self, [answer(self)], AUDITS, "95% interval")


def audit_privacy(
    generated: Any,
    train: Any,
    holdout: Any,
    *,
    donor_key: str | None = None,
    label_key: str | None = None,
    layer: str | None = None,
    seed: int = 0,
) -> pd.DataFrame:
    """Attack the training cells with the generated ones, and look for copies.

    Parameters
    ----------
    generated
        What `gen_exprs` returned, or an AnnData or file of generated cells.
    train
        The cells the model was fitted to: AnnData, BiocPy experiment or file.
    holdout
        Real cells from the same source that the model has not seen, at least 10. Those that are also among
        the training cells are left out.
    donor_key
        Column of `obs` with the donor: adds the same rows for whole donors. Some held-out cells must come
        from donors that are not among the training cells.
    label_key
        Column of `obs` with the label; by default the one the generated cells were made with. Where there is
        one, only cells of labels that were generated are looked at, and generated and held-out cells are
        compared in equal numbers of each label.
    layer
        Layer of the real cells with the values; by default X.
    seed
        Seed of all that is random.

    Returns
    -------
    DataFrame
        With columns ``metric``, ``value``, ``low`` and ``high`` (the 95% interval) and ``verdict`` ("pass",
        "caution" or "fail"). ``attrs["exposed_cells"]`` lists the training cells that have a generated cell
        suspiciously near, as dicts of cell, label, distance and ratio (the distance over that to the nearest
        real cell); ``attrs["notes"]`` has sentences on what was looked at.

    Raises
    ------
    ValueError
        If genes or a column are missing, there are too few cells, or no donor is held out.
    TypeError
        If an argument is of the wrong kind.

    Notes
    -----
    The attacker of `membership_auc` scores a cell x by ``log d(x, nearest other real cell) - log d(x, nearest
    generated cell)``, on the 50 principal axes of the generated cells: what he could do who has them and
    some real cells of the same kind. It is the density-ratio attack of van Breugel et al. (2023,
    doi:10.48550/arXiv.2302.12580) with densities from the nearest neighbour; `membership_auc_density` takes
    the fifth. Training and held-out cells are treated alike, so that the AUC is 0.5 in the mean for cells
    that tell nothing. Intervals are percentiles of 1,000 bootstraps over cells; those of fractions are
    Wilson's (1927, doi:10.1080/01621459.1927.10502953), and that of a donor's AUC is Newcombe's fifth
    (2006, doi:10.1002/sim.2324), since donors are few. A pass is no guarantee: other attacks may do better.

    Of a set that is on disk and takes more than 64 MiB a random sample is read and looked at, at most 20,000
    cells and 256 MiB, in the proportions of the labels but with some of each; the
    notes say so. Copies of cells that are not in it are not found.

    Examples
    --------
    >>> import vaexprs as vx
    >>> cells = vx.demo_cells()
    >>> table = vx.audit_privacy(cells[:350], cells[:350], cells[350:]).set_index("metric")
    >>> table.loc["membership_auc", "verdict"]
    'fail'
    """
    seed = check_integer("seed", seed, 0)
    made = as_cells(generated)
    label_key = label_key_of(made, label_key)
    layer = layer_like(made, layer)
    keys = {"label_key": label_key, "donor_key": donor_key}
    looked = {"generated": at_hand(made, keys=[label_key], seed=seed)}
    for name, given in (("train", train), ("holdout", holdout)):
        looked[name] = at_hand(given, keys=[*keys.values()], seed=seed, layer=layer)
    notes = [sentence for name, part in looked.items() for sentence in part.told(name)]
    if notes:
        notes.append("Copies among the cells that were not looked at were not found.")
    made, others = looked["generated"].cells, {name: looked[name].cells for name in ("train", "holdout")}
    # generated cells need no donor
    sets = side_by_side(made, others, keys=keys, optional={"donor_key"}, layer=layer, notes=notes)
    cells = _comparable(sets, label_key, notes)
    attack = _attack(cells, seed)
    rows = [
        *_copy_rows(cells, label_key, seed),
        *_membership_rows(attack, seed),
        _exposed_row(attack),
    ]
    if donor_key is not None:
        rows += _donor_rows(cells, attack, donor_key, label_key, notes)
    table = PrivacyAudit(rows, columns=list(COLUMNS))
    table.attrs["notes"] = notes
    table.attrs["exposed_cells"] = _exposed(cells["train"], attack, label_key)
    return table


def answer(audit: pd.DataFrame | None) -> Answer:
    """Return the answer to whether training cells were copied: red if a row fails, amber at a caution.

    Parameters
    ----------
    audit
        What `audit_privacy` returned; None where it could not be made.
    """
    if audit is None:
        return Answer(
            QUESTION,
            "unknown",
            "Not measured: it takes the training cells and real cells the model has not seen.",
        )
    verdicts = audit.set_index("metric")["verdict"]
    auc = audit.set_index("metric").loc["membership_auc"]
    told = (
        f"An attacker tells training from held-out cells with an AUC of {auc['value']:.2f} "
        f"({auc['low']:.2f} to {auc['high']:.2f}; 0.5: by chance)."
    )
    failed = [AUDITS[name].title for name in verdicts.index[verdicts == "fail"]]
    if failed:
        near = set(verdicts.index[verdicts == "fail"]) <= set(DISTANCES)
        sign = "lie closer to training cells than real ones do" if near else "give training cells away"
        return Answer(QUESTION, "red", f"Generated cells {sign}. {told} Failed: {'; '.join(failed)}.")
    first = verdicts.drop(SECOND_ATTACKS)
    beyond = [AUDITS[name].title for name in first.index[first == "caution"]]
    if beyond:
        trace = f"No copies, but training cells leave a trace. {told} Beyond chance: {'; '.join(beyond)}."
        return Answer(QUESTION, "amber", trace)
    return Answer(QUESTION, "green", f"No sign of copying was found. {told}")


def _comparable(sets: dict[str, CellSet], label_key: str | None, notes: list[str]) -> dict[str, CellSet]:
    """Return the sets with held-out cells that are none, and labels that were not generated, left out."""
    same = rows_in(sets["holdout"], sets["train"])
    if same.any():
        notes.append(
            f"{same.sum():,} of {len(same):,} held-out cells are also among the training cells and were left "
            "out."
        )
    cells = sets | {"holdout": sets["holdout"].take(np.flatnonzero(~same))}
    if label_key is not None:
        made = set(cells["generated"].column(label_key))
        keep = {name: np.isin(part.column(label_key), list(made)) for name, part in cells.items()}
        if not all(kept.all() for kept in keep.values()):
            notes.append("Only cells of labels that were generated were looked at.")
        cells = {name: part.take(np.flatnonzero(keep[name])) for name, part in cells.items()}
    for name, part in cells.items():
        if len(part) < LEAST_CELLS:
            why = ", those that are training cells too left out" if name == "holdout" and same.any() else ""
            raise ValueError(
                f"{name} must have at least {LEAST_CELLS} cells (of labels that were generated{why}), "
                f"got {len(part)}."
            )
    return cells


class Attack(NamedTuple):
    """What an attacker computes for each real cell.

    Parameters
    ----------
    member
        Whether it is a training cell, (n_cells,).
    row
        Its row among the training or the held-out cells.
    distance
        To the nearest generated cell.
    ratio
        Log distance to the nearest other real cell minus that to the nearest generated one.
    density
        The same of the fifth nearest.
    """

    member: np.ndarray
    row: np.ndarray
    distance: np.ndarray
    ratio: np.ndarray
    density: np.ndarray


def _attack(cells: dict[str, CellSet], seed: int) -> Attack:
    rng = np.random.default_rng(seed)
    # made without training and held-out cells: a cell is farther from others on axes that were made from it
    axes = Axes.of([cells["generated"].values], seed)
    rows = {name: np.sort(rng.permutation(len(cells[name]))[:MOST_CELLS]) for name in ("train", "holdout")}
    real = np.concatenate([axes.of_cells(cells[name].values[chosen]) for name, chosen in rows.items()])
    made = axes.of_cells(cells["generated"].values)
    to_made = _nearest(made, real)
    to_real = _nearest(real, real, itself=True)
    ratio = np.log(to_real + TINY) - np.log(to_made + TINY)
    return Attack(
        np.repeat([True, False], [len(chosen) for chosen in rows.values()]),
        np.concatenate(list(rows.values())),
        to_made[:, 0],
        ratio[:, 0],
        ratio[:, -1],
    )


def _nearest(points: np.ndarray, queries: np.ndarray, *, itself: bool = False) -> np.ndarray:
    """Return the distances of queries to the nearest points, (n_queries, up to 5), leaving out themselves."""
    from sklearn.neighbors import NearestNeighbors

    near = NearestNeighbors(n_neighbors=min(NEIGHBOURS, len(points) - itself)).fit(points)
    distances = np.asarray(near.kneighbors(None if itself else queries)[0], np.float64)
    # what is left of the difference of equal cells by rounding
    return np.where(distances < ROUNDING * np.linalg.norm(points, axis=1).max(), 0.0, distances)


def _copy_rows(cells: dict[str, CellSet], label_key: str | None, seed: int) -> list[tuple[Any, ...]]:
    made, held, train = (cells[name] for name in ("generated", "holdout", "train"))
    rng = np.random.default_rng(seed)
    rows = matched_rows(rng, made.column(label_key), held.column(label_key))
    if len(rows[0]) < LEAST_CELLS:
        raise ValueError(
            f"There must be at least {LEAST_CELLS} generated and as many held-out cells of the same labels, "
            f"got {len(rows[0])}. Generate more cells of the labels that were held out."
        )
    # both are treated alike: as many of each make the axes
    axes = Axes.of([made.values[rows[0]], held.values[rows[1]]], seed)
    at = axes.of_cells(train.values)
    near_made, near_held = (
        _nearest(at, axes.of_cells(part.values[chosen]))[:, 0]
        for part, chosen in zip((made, held), rows, strict=True)
    )

    def ratio(x: np.ndarray, y: np.ndarray) -> float:
        return float(np.median(x) / max(np.median(y), TINY))

    def close(x: np.ndarray, y: np.ndarray) -> float:
        return float((x < np.quantile(y, NEAREST)).mean())

    exact = int(rows_in(made, train).sum())
    return [
        _row("copy_ratio", ratio(near_made, near_held), *_bootstrap(ratio, near_made, near_held, seed)),
        _fraction_row("exact_copies", exact, len(made)),
        _row("close_copies", close(near_made, near_held), *_bootstrap(close, near_made, near_held, seed)),
    ]


def _membership_rows(attack: Attack, seed: int) -> list[tuple[Any, ...]]:
    rows = []
    for name, score, figure in (
        ("membership_auc", attack.ratio, _auc),
        ("membership_auc_distance", -attack.distance, _auc),
        ("membership_auc_density", attack.density, _auc),
        ("membership_tpr_at_1pct_fpr", attack.ratio, _true_positives),
    ):
        inside, outside = score[attack.member], score[~attack.member]
        rows.append(_row(name, figure(inside, outside), *_bootstrap(figure, inside, outside, seed)))
    return rows


def _auc(inside: np.ndarray, outside: np.ndarray) -> float:
    """Return the probability that a member has a higher score than a non-member, ties counted half."""
    from scipy.stats import rankdata

    n, m = len(inside), len(outside)
    ranks = rankdata(np.concatenate([inside, outside]))[:n].sum()
    return float((ranks - n * (n + 1) / 2) / (n * m))


def _true_positives(inside: np.ndarray, outside: np.ndarray) -> float:
    """Return the fraction of members above the score that 1% of non-members exceed."""
    limit = np.sort(outside)[len(outside) - 1 - int(FALSE_POSITIVES * len(outside))]
    return float((inside > limit).mean())


def _bootstrap(
    figure: Callable[[np.ndarray, np.ndarray], float], x: np.ndarray, y: np.ndarray, seed: int
) -> tuple[float, float]:
    """Return the percentile interval of a figure of two samples."""
    from scipy.stats import bootstrap

    found = bootstrap(
        (x, y),
        figure,
        vectorized=False,
        n_resamples=BOOTSTRAPS,
        confidence_level=CONFIDENCE,
        method="percentile",
        rng=np.random.default_rng(seed),
    ).confidence_interval
    return float(found.low), float(found.high)


def _row(name: str, value: float, low: float, high: float) -> tuple[Any, ...]:
    audit = AUDITS[name]
    beyond = [high < limit if audit.below else low > limit for limit in (audit.caution, audit.fail)]
    return name, value, low, high, "fail" if beyond[1] else "caution" if beyond[0] else "pass"


def _fraction_row(name: str, k: int, n: int) -> tuple[Any, ...]:
    from scipy.stats import binomtest

    interval = binomtest(k, n).proportion_ci(CONFIDENCE, method="wilson")
    # not one found is a low end of exactly 0
    return _row(name, k / n, float(interval.low) if k else 0.0, float(interval.high))


def _far_out(attack: Attack) -> np.ndarray:
    """Return for each cell whether a generated cell is nearer than the held-out cells let expect."""
    gap = -attack.ratio
    first, third = np.quantile(gap[~attack.member], [0.25, 0.75])
    return gap < first - FAR_OUT * (third - first)


def _exposed_row(attack: Attack) -> tuple[Any, ...]:
    return _fraction_row(
        "exposed_cells", int(_far_out(attack)[attack.member].sum()), int(attack.member.sum())
    )


def _exposed(train: CellSet, attack: Attack, label_key: str | None) -> list[dict[str, Any]]:
    found = np.flatnonzero(_far_out(attack) & attack.member)
    found = found[np.argsort(attack.ratio[found] * -1, kind="stable")]
    labels = train.column(label_key)
    return [
        {
            "cell": str(train.obs.index[attack.row[i]]),
            "label": str(labels[attack.row[i]]),
            "distance": float(attack.distance[i]),
            "ratio": float(np.exp(-attack.ratio[i])),
        }
        for i in found
    ]


def _donor_rows(
    cells: dict[str, CellSet], attack: Attack, donor_key: str, label_key: str | None, notes: list[str]
) -> list[tuple[Any, ...]]:
    frame = pd.DataFrame({"member": attack.member, "ratio": attack.ratio, "distance": attack.distance})
    for column, key in (("donor", donor_key), ("label", label_key)):
        frame[column] = np.concatenate(
            [
                cells[name].column(key)[attack.row[attack.member == of]]
                for name, of in (("train", True), ("holdout", False))
            ]
        )
    known = set(frame.loc[frame["member"], "donor"])
    frame = frame[frame["member"] | ~frame["donor"].isin(known)]
    if frame["member"].all():
        raise ValueError(
            f"holdout must have donors that train has not, to tell them apart: all of its {donor_key!r} "
            f"({some(sorted(known))}) are among the training cells. Hold whole donors out, or leave "
            "donor_key out."
        )
    # donors have their labels in different proportions, and some labels lie nearer than others
    frame["ratio"] -= frame.groupby("label")["ratio"].transform("mean")
    donors = frame.groupby(["member", "donor"], as_index=False).agg({"ratio": "mean", "distance": "median"})
    inside, outside = (donors[donors["member"] == of] for of in (True, False))
    n, m = len(inside), len(outside)
    notes.append(f"Donors: {n:,} in the training cells, {m:,} held out.")
    if min(n, m) < LEAST_DONORS:
        notes.append(f"Whether donors are given away takes {LEAST_DONORS} on each side to say: not measured.")
        return []
    scores = inside["ratio"].to_numpy(), outside["ratio"].to_numpy()
    auc = _auc(*scores)
    distances = inside["distance"].to_numpy(), outside["distance"].to_numpy()
    ratio = float(np.median(distances[0]) / max(np.median(distances[1]), TINY))
    spread = _ratio_interval(*distances, ratio)
    return [
        _row("donor_copy_ratio", ratio, *spread),
        _row("donor_membership_auc", auc, *_newcombe(auc, n, m)),
        _fraction_row("donor_membership_tpr_at_1pct_fpr", round(_true_positives(*scores) * n), n),
    ]


def _ratio_interval(x: np.ndarray, y: np.ndarray, ratio: float) -> tuple[float, float]:
    """Return Welch's interval for the ratio of two typical distances, on the log scale."""
    from scipy.stats import ttest_ind

    if ratio == 0:
        return 0.0, 0.0
    if min(len(x), len(y)) < 2:
        return 0.0, float("inf")
    interval = ttest_ind(np.log(x + TINY), np.log(y + TINY), equal_var=False).confidence_interval(CONFIDENCE)
    centre = np.log(ratio + TINY) - (interval.low + interval.high) / 2
    return float(np.exp(interval.low + centre)), float(np.exp(interval.high + centre))


def _newcombe(auc: float, n: int, m: int) -> tuple[float, float]:
    """Return Newcombe's interval of an AUC, which stays honest for a handful of cases and at 0 or 1."""
    from scipy.optimize import brentq
    from scipy.stats import norm

    z, mean = norm.ppf((1 + CONFIDENCE) / 2), (n + m) / 2

    def beyond(theta: float) -> float:
        inner = 1 + (mean - 1) * ((1 - theta) / (2 - theta) + theta / (1 + theta))
        return float((theta - auc) ** 2 - z**2 * theta * (1 - theta) * inner / (n * m))

    low = 0.0 if auc <= 0 else float(brentq(beyond, TINY * auc, min(auc, 1 - TINY)))
    high = 1.0 if auc >= 1 else float(brentq(beyond, max(auc, TINY), 1 - TINY * (1 - auc)))
    return low, high
