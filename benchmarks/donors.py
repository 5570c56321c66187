"""New donors against real ones that the fit has not seen.

    python benchmarks/donors.py DATA.h5ad [...] [--donor-key donor] [--splits 0] [--seeds 0 1 2]

Fits half of the donors and generates as many new donors as the other half has, with their numbers of cells of
each label. Prints two Markdown tables, means over splits and seeds. The row `training` compares the two real
halves in the same way.

By label, for pseudobulks of ten cells or more: the median over genes of the variance between donors of log
CPM relative to the held-out donors (variance), the rank correlation of this variance over genes (rank), the
variance of the log depth (depth), the distance to the nearest training donor relative to that of held-out
donors (nearest).

Over all labels: the AUC of a random forest between pseudobulks of new and held-out donors, cross-validated
over donors (forest), the AUC with which a forest that learned to tell new from held-out donors tells other
new donors from training donors (other), and the variance of the log proportions of the labels relative to the
held-out donors (composition).
"""

from pathlib import Path

import vaexprs as vx

# isort: split
import anndata as ad
import numpy as np
import pandas as pd
from harness import parser, table_head, table_row
from scipy.stats import spearmanr
from sklearn.ensemble import RandomForestClassifier
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import GroupKFold, StratifiedGroupKFold

MIN_CELLS = 10  # cells of a pseudobulk
MIN_COUNTS = 5  # mean counts of a gene in the pseudobulks of a label
Pseudobulks = dict[str, tuple[np.ndarray, np.ndarray, np.ndarray]]  # donors, counts and cells by label


def pseudobulks(cells: ad.AnnData, label_key: str, donor_key: str) -> Pseudobulks:
    """Return the donors, their total counts, (n_donors, n_genes), and numbers of cells, by label."""
    found = {}
    for label, rows in cells.obs.groupby(label_key, observed=True).indices.items():
        donors = cells.obs[donor_key].astype(str).to_numpy()[rows]
        names, of = np.unique(donors, return_inverse=True)
        counts = np.stack([np.ravel(cells.X[rows[of == i]].sum(axis=0)) for i in range(len(names))])
        numbers = np.bincount(of)
        kept = numbers >= MIN_CELLS
        found[str(label)] = names[kept], counts[kept], numbers[kept]
    return found


def log_cpm(counts: np.ndarray) -> np.ndarray:
    return np.log2((counts + 0.5) / (counts.sum(axis=1, keepdims=True) + 1) * 1e6)


def like(fit: vx.VAEFit, held: ad.AnnData, label_key: str, donor_key: str, seed: int) -> ad.AnnData:
    """Return new donors, each with the numbers of cells of a held-out donor."""
    table = held.obs.groupby([donor_key, label_key], observed=True).size().reset_index(name="n")
    number = {donor: f"new_{i + 1}" for i, donor in enumerate(table[donor_key].unique())}
    cells = pd.DataFrame(
        {
            label_key: table[label_key].astype(str),
            "n": table["n"],
            "donor": table[donor_key].astype(object).map(number),
        }
    )
    return vx.simulate(fit, vx.Design({"new": len(number)}, cells=cells), seed=seed, progress=False).adata


def by_label(made: Pseudobulks, held: Pseudobulks, train: Pseudobulks) -> dict[str, list[float]]:
    """Return variance, rank, depth and nearest of each label with at least four donors in each set."""
    rows = {}
    for label, (_, counts, cells) in held.items():
        if label not in made or label not in train or min(len(made[label][0]), len(cells)) < 4:
            continue
        other, other_cells = made[label][1:]
        on = np.concatenate([counts, other]).mean(axis=0) > MIN_COUNTS
        one, two, known = (log_cpm(x) for x in (other, counts, train[label][1]))
        variances = [x[:, on].var(axis=0, ddof=1) for x in (one, two)]
        depths = [np.log(x.sum(axis=1) / n).var(ddof=1) for x, n in ((other, other_cells), (counts, cells))]
        near = [
            np.median([np.sqrt(((known - donor) ** 2).sum(axis=1)).min() for donor in x]) for x in (one, two)
        ]
        rows[label] = [
            float(np.median(variances[0] / variances[1])),
            float(spearmanr(*variances)[0]),
            depths[0] / depths[1],
            near[0] / near[1],
        ]
    return rows


def features(sets: Pseudobulks, labels: list[str]) -> tuple[np.ndarray, np.ndarray]:
    """Return the log CPM of all pseudobulks with one-hot labels, and their donors."""
    x, donors = [], []
    for label in labels:
        names, counts, _ = sets[label]
        x.append(
            np.column_stack([log_cpm(counts), np.tile([label == each for each in labels], (len(names), 1))])
        )
        donors.append(names)
    return np.concatenate(x), np.concatenate(donors)


def forest_auc(made: Pseudobulks, held: Pseudobulks, labels: list[str]) -> float:
    (x, of_x), (y, of_y) = (features(sets, labels) for sets in (made, held))
    both, truth = np.concatenate([x, y]), np.repeat([1, 0], [len(x), len(y)])
    groups = np.concatenate([np.char.add("new ", of_x.astype(str)), of_y])
    scores = np.zeros(len(truth))
    for learned, tested in StratifiedGroupKFold(5, shuffle=True, random_state=0).split(both, truth, groups):
        forest = RandomForestClassifier(300, random_state=0).fit(both[learned], truth[learned])
        scores[tested] = forest.predict_proba(both[tested])[:, 1]
    return float(roc_auc_score(truth, scores))


def other_auc(
    made: Pseudobulks, again: Pseudobulks, held: Pseudobulks, train: Pseudobulks, labels: list[str]
) -> float:
    """Return the AUC between new and training donors of forests that learned new against held-out donors."""
    (x, _), (y, of_y), (new, _), (known, _) = (features(sets, labels) for sets in (made, held, again, train))
    scores = np.zeros(len(new) + len(known))
    for rows, _ in GroupKFold(5).split(y, groups=of_y):
        truth = np.repeat([1, 0], [len(x), len(rows)])
        forest = RandomForestClassifier(300, random_state=0).fit(np.concatenate([x, y[rows]]), truth)
        scores += forest.predict_proba(np.concatenate([new, known]))[:, 1]
    return float(roc_auc_score(np.repeat([1, 0], [len(new), len(known)]), scores))


def log_proportions(cells: ad.AnnData, label_key: str, donor_key: str) -> pd.DataFrame:
    table = pd.crosstab(cells.obs[donor_key].astype(str), cells.obs[label_key].astype(str)) + 0.5
    return np.log(table.div(table.sum(axis=1), axis=0))


def measure(path: Path, label_key: str, donor_key: str, split: int, seeds: list[int]) -> pd.DataFrame:
    cells = ad.read_h5ad(path)
    donors = np.random.default_rng(split).permutation(sorted(cells.obs[donor_key].astype(str).unique()))
    first = cells.obs[donor_key].astype(str).isin(donors[: len(donors) // 2]).to_numpy()
    train, held = cells[first].copy(), cells[~first].copy()
    fit = vx.fit_vae(train, label_key=label_key, donor_key=donor_key, seed=0, verbose=0)
    known, real = (pseudobulks(part, label_key, donor_key) for part in (train, held))
    labels = [label for label in real if min(len(real[label][0]), len(known[label][0])) >= 4]
    records: list[dict[str, object]] = []

    def add(donors: str, label: str, **values: float) -> None:
        records.append({"donors": donors, "label": label} | values)

    names = ("variance", "rank", "depth", "nearest")
    for label, row in by_label(known, real, known).items():
        add("training", label, **dict(zip(names, row, strict=True)) | {"nearest": np.nan})
    spread = log_proportions(held, label_key, donor_key).var()
    ratio = (log_proportions(train, label_key, donor_key).var() / spread).median()
    add("training", "all", forest=forest_auc(known, real, labels), composition=float(ratio))
    for seed in seeds:
        made, again = (
            pseudobulks(like(fit, held, label_key, donor_key, 2 * seed + i), label_key, donor_key)
            for i in range(2)
        )
        for label, row in by_label(made, real, known).items():
            add("new", label, **dict(zip(names, row, strict=True)))
        drawn = vx.gen_exprs(fit, held.n_obs, donors=len(donors) // 2, seed=seed, progress=False).adata
        ratio = (log_proportions(drawn, label_key, donor_key).var() / spread).median()
        add(
            "new",
            "all",
            forest=forest_auc(made, real, labels),
            other=other_auc(made, again, real, known, labels),
            composition=float(ratio),
        )
    return pd.DataFrame(records)


def main() -> None:
    options = parser(__doc__, data="data", nargs="+")
    options.add_argument("--donor-key", default="donor")
    options.add_argument("--splits", type=int, nargs="+", default=[0])
    options.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    args = options.parse_args()
    columns = ["variance", "rank", "depth", "nearest", "forest", "other", "composition"]
    print(table_head(["data", "donors", "label", *columns], n_text=3))
    for path in args.data:
        found = pd.concat(
            [measure(path, args.label_key, args.donor_key, split, args.seeds) for split in args.splits]
        )
        means = found.groupby(["donors", "label"], sort=False).mean()
        for (donors, label), row in means.iterrows():
            values = [f"{row[column]:.2f}" if np.isfinite(row[column]) else "" for column in columns]
            print(table_row([path.name, donors, label, *values]), flush=True)


if __name__ == "__main__":
    main()
