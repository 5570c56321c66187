"""Training cells with a suspiciously near generated cell."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from vaexprs.comparison.cell_sets import CellSet
from vaexprs.data.matrix import are_counts, densify

MAX_GENES = 2_000  # maximum number of genes whose detection is compared
BLOCK = 1_024  # generated cells that are compared at once
PSEUDOCOUNT = 0.5  # added to numbers of genes before their ratio is taken
# minimum median number of genes missing in the nearest reference cell for genes to be compared
MIN_MISSING = 8
# ratio of the genes missing in reference cells to those missing in the training cell that is always enough,
# and the minimum where the ratios of held-out cells vary little
ENOUGH, MIN_RATIO = 8.0, 4.0
TAIL = 0.3  # fraction of the held-out cells with the largest ratios, from which their variation is estimated
MIN_EXCESS = 4.0  # mean excesses of this tail by which a ratio below `ENOUGH` must exceed every held-out cell
MIN_LEAD = 2.0  # factor by which this ratio must exceed that of every held-out cell
FAR_OUT = 8.0  # interquartile ranges below the first quartile at which a distance is exposed
MARGIN = 1.0  # interquartile ranges by which it must be below that of every held-out cell


class Nearness(NamedTuple):
    """Nearest generated cell of each training and held-out cell, (n_cells,) each.

    Parameters
    ----------
    distance
        Distance to the generated cell.
    ratio
        Log distance to the nearest reference cell minus log distance to the generated cell.
    exposed
        Whether it is a training cell that is far nearer to the generated cell than expected.
    """

    distance: np.ndarray
    ratio: np.ndarray
    exposed: np.ndarray


def by_missing_genes(
    generated: CellSet, real: CellSet, member: np.ndarray, fold: np.ndarray
) -> Nearness | None:
    """Return the nearest generated cells by detected genes, for counts.

    The distance of a generated cell to a real cell is the number of genes that are detected in the generated
    cell and not in the real cell, weighted by ``-log(fraction of real cells with the gene)`` (on average 1).
    It is near 0 for a copy, also for one with redrawn counts or with a third of them, and a large part of the
    detected genes for any other cell, also of the same type. Counts that come from elsewhere are mostly in
    common genes, of small weight. The nearest generated cell is that with the largest ratio of the distance
    to the nearest reference cell (held-out cells of other folds) to the distance to the real cell. A training
    cell is exposed if this ratio is beyond `_limit`. None without counts, of which zeros are undetected
    genes; and if the cells have so few genes, or so few zeros, that the distance to the nearest held-out cell
    is below 8 for half of the generated cells.

    Parameters
    ----------
    generated, real
        Generated cells, and training followed by held-out cells.
    member, fold
        Whether a real cell is a training cell, and its fold, (n_cells,).
    """
    if not (generated.counts and are_counts(generated.raw)):
        return None
    found, made = real.raw != 0, generated.raw != 0
    rate = np.asarray(found.mean(axis=0)).ravel()
    genes = np.sort(np.argsort(-rate * (1 - rate), kind="stable")[:MAX_GENES])
    of_real = densify(found[:, genes]).astype(np.float32)
    weight = _weights(rate[genes], len(fold))
    distance, ratio = np.zeros(len(fold)), np.full(len(fold), -np.inf)
    to_held = []
    rows = [np.flatnonzero(fold == k) for k in range(int(fold.max()) + 1)]
    for start in range(0, len(generated), BLOCK):
        block = densify(made[start : start + BLOCK][:, genes]).astype(np.float32) * weight
        missing = block.sum(axis=1) - of_real @ block.T
        # the least distance to a held-out cell of each fold, (n_folds, n_block)
        least = np.stack([_least(missing, own[~member[own]]) for own in rows])
        to_held.append(least.min(axis=0))
        for k, own in enumerate(rows):
            reference = np.delete(least, k, axis=0).min(axis=0)
            ratios = np.log(reference + PSEUDOCOUNT) - np.log(missing[own] + PSEUDOCOUNT)
            nearest = ratios.argmax(axis=1)
            best = ratios[np.arange(len(own)), nearest]
            better = best > ratio[own]
            ratio[own[better]] = best[better]
            distance[own[better]] = missing[own[better], nearest[better]]
    if np.median(np.concatenate(to_held)) < MIN_MISSING:
        return None
    return Nearness(distance, ratio, member & (ratio > _limit(ratio[~member])))


def _weights(rate: np.ndarray, n: int) -> np.ndarray:
    """Return the weight of a gene detected in a fraction of n cells, on average 1 over detections."""
    weight = -np.log((n * rate + 1) / (n + 2))
    # sums of multiples of 1/16 are exact in single precision, so that copies have a distance of 0
    return np.asarray(np.round(16 * weight * rate.sum() / (weight @ rate)) / 16, np.float32)


def _limit(held_out: np.ndarray) -> float:
    """Return the log ratio beyond which a training cell is exposed, from those of held-out cells.

    The largest log ratio of held-out cells plus four mean excesses of their largest 30%, which are the spread
    of an exponential tail, but between log 4 and log 8, and at least log 2 above the largest itself.
    """
    held_out = np.sort(held_out)
    first = len(held_out) - 1 - max(1, int(TAIL * len(held_out)))
    excess = held_out[first:].mean() - held_out[first]
    unusual = np.clip(held_out[-1] + MIN_EXCESS * excess, np.log(MIN_RATIO), np.log(ENOUGH))
    return float(max(unusual, held_out[-1] + np.log(MIN_LEAD)))


def _least(distances: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Return the least distance of each generated cell to some real cells; infinite without any."""
    return np.asarray(distances[rows].min(axis=0, initial=np.inf))


def by_distance(distance: np.ndarray, ratio: np.ndarray, member: np.ndarray) -> Nearness:
    """Return the nearest generated cells by the distance on principal axes.

    A training cell is exposed if the logarithm of its distance relative to reference cells is 8
    interquartile ranges below the first quartile of held-out cells, and one below that of every held-out
    cell.

    Parameters
    ----------
    distance
        Distance to the nearest generated cell, (n_cells,).
    ratio
        Log distance to the nearest reference cell minus log distance to the nearest generated cell.
    member
        Whether it is a training cell.
    """
    held_out = -ratio[~member]
    first, third = np.quantile(held_out, [0.25, 0.75])
    limit = min(first - FAR_OUT * (third - first), held_out.min() - MARGIN * (third - first))
    return Nearness(distance, ratio, member & (-ratio < limit))
