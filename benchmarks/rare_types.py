"""Does adding cells of a rare type help a classifier find that type among real cells it has not seen?

    pip install imbalanced-learn
    python benchmarks/rare_types.py --data pbmc_facs.h5ad --out rare_types.md

The data are raw counts in X with labels in obs. They are split once into halves, in proportion within each
type. Of one type the training half keeps n cells, another draw of them each time; the other types keep all
of theirs. Each method then adds cells of the rare type up to the median size of the others, and a
classifier (standardised log1p(CP10k) of the 2,000 most variable genes, 30 principal components, logistic
regression) says of which type each cell of the other half is. What counts is the F1 of the rare type. The
genes are chosen once, on the whole training half. The draws are the same for all methods and nested in n;
the standard errors are of the draws, for this one split.

"nothing" adds nothing. "oversampling" repeats the rare cells and "SMOTE" interpolates between neighbours
among them, in the classifier's genes; both are imbalanced-learn's, which is needed. "vaexprs" generates
counts from a fit with default arguments to the training cells. "scVI" joins in with

    python benchmarks/rare_types.py --data pbmc_facs.h5ad --scvi /path/to/scvi/environment/bin/python

where that environment has scvi-tools: a default SCVI model is fitted there to the same cells, and the
posterior predictive is drawn from the rare ones in turn, until there are as many as asked for.

Both models are fitted to the counts of the classifier's genes and, as one more gene, the sum of all others,
so that generated cells have totals to be normalised by; with --all-genes to the counts of each gene, which
takes several times as long.
"""

import argparse
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import scipy.sparse as sp

# Packages are imported where they are used: an environment with scvi-tools need not have the others.

TYPES = ["CD14+ Monocyte", "CD4+/CD25 T Reg"]
METHODS = ["nothing", "oversampling", "SMOTE", "vaexprs"]


class Cells(NamedTuple):
    """Counts of cells and their labels."""

    counts: sp.csr_matrix
    labels: np.ndarray

    def take(self, rows: np.ndarray) -> "Cells":
        """Return some of the cells."""
        return Cells(self.counts[rows], self.labels[rows])


class Score(NamedTuple):
    """How well the held-out cells were told apart."""

    f1: float
    balanced: float


class Task(NamedTuple):
    """What stays the same for all rows of the tables."""

    train: Cells
    x_test: np.ndarray
    y_test: np.ndarray
    genes: np.ndarray
    methods: list[str]
    draws: int
    scvi: str | None


# scores of each method by type and n, one for each draw
Scores = dict[tuple[str, int], dict[str, list[Score]]]


def read_halves(path: Path, label_key: str) -> tuple[Cells, Cells]:
    """Read the cells and split them into a training and a test half, in proportion within each type."""
    import anndata as ad
    from sklearn.model_selection import train_test_split

    adata = ad.read_h5ad(path)
    cells = Cells(sp.csr_matrix(adata.X), adata.obs[label_key].to_numpy().astype(str))
    rows = np.arange(len(cells.labels))
    train, test = train_test_split(rows, test_size=0.5, stratify=cells.labels, random_state=0)
    return cells.take(np.sort(train)), cells.take(np.sort(test))


def normalise(counts: sp.csr_matrix) -> sp.csr_matrix:
    """Return log1p of the counts per 10,000."""
    totals = np.maximum(np.asarray(counts.sum(axis=1)).ravel(), 1)
    return sp.csr_matrix(sp.diags(1e4 / totals) @ counts).log1p()


def variable_genes(counts: sp.csr_matrix, number: int = 2000) -> np.ndarray:
    """Return the columns of the most variable genes."""
    import anndata as ad
    import scanpy as sc

    found = sc.pp.highly_variable_genes(ad.AnnData(normalise(counts)), n_top_genes=number, inplace=False)
    return np.flatnonzero(found["highly_variable"])


def with_rest(cells: Cells, genes: np.ndarray) -> Cells:
    """Keep some genes and put the sum of all others behind them, so that the totals stay the same."""
    kept = cells.counts[:, genes]
    rest = sp.csr_matrix(cells.counts.sum(axis=1) - kept.sum(axis=1))
    return Cells(sp.csr_matrix(sp.hstack([kept, rest])), cells.labels)


def training_cells(half: Cells, rare: str, n: int, draw: int) -> Cells:
    """Keep n cells of the rare type, and all others."""
    kept = np.random.default_rng(draw).permutation(np.flatnonzero(half.labels == rare))[:n]
    return half.take(np.sort(np.concatenate([np.flatnonzero(half.labels != rare), kept])))


def median_size(labels: np.ndarray, rare: str) -> int:
    """Return the median size of the types other than the rare one."""
    return int(np.median(np.unique(labels[labels != rare], return_counts=True)[1]))


def vaexprs_cells(cells: Cells, rare: str, m: int, seed: int) -> sp.csr_matrix:
    """Generate m cells of the rare type with vaexprs."""
    import anndata as ad
    import pandas as pd

    import vaexprs as vx

    names = pd.Index(np.arange(len(cells.labels)).astype(str))
    adata = ad.AnnData(cells.counts, obs=pd.DataFrame({"type": pd.Categorical(cells.labels)}, index=names))
    fit = vx.fit_vae(adata, label_key="type", seed=seed, verbose=0)
    return vx.gen_exprs(fit, labels={rare: m}, seed=seed, progress=False).adata.X


def scvi_cells(python: str, cells: Cells, rare: str, m: int, seed: int) -> sp.csr_matrix:
    """Draw m cells of the rare type with scVI, in the environment of another interpreter."""
    x = cells.counts
    with tempfile.TemporaryDirectory() as folder:
        source, target = Path(folder, "train.npz"), Path(folder, "drawn.npz")
        parts = {"data": x.data, "indices": x.indices, "indptr": x.indptr, "shape": x.shape}
        np.savez(source, **parts, labels=cells.labels, rare=rare, m=m, seed=seed)
        command = [python, __file__, "--fit-scvi", str(source), str(target)]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            raise RuntimeError(f"scVI failed in {python}:\n{done.stderr[-2000:]}")
        return sp.load_npz(target)


def fit_scvi(source: Path, target: Path) -> None:
    """Fit scVI to the cells in one file and write the drawn ones into another, for `scvi_cells`."""
    import anndata as ad
    import pandas as pd
    import scvi

    with np.load(source, allow_pickle=False) as f:
        x = sp.csr_matrix((f["data"], f["indices"], f["indptr"]), shape=tuple(f["shape"]))
        labels, rare, m, seed = f["labels"], str(f["rare"]), int(f["m"]), int(f["seed"])
    scvi.settings.seed = seed
    names = pd.Index(np.arange(len(labels)).astype(str))
    adata = ad.AnnData(x, obs=pd.DataFrame({"type": pd.Categorical(labels)}, index=names))
    scvi.model.SCVI.setup_anndata(adata, labels_key="type")
    model = scvi.model.SCVI(adata)
    model.train(accelerator="cpu", enable_progress_bar=False)
    rows = np.resize(np.flatnonzero(labels == rare), m)
    drawn = model.posterior_predictive_sample(indices=rows.tolist(), n_samples=1)
    sp.save_npz(target, sp.csr_matrix(np.asarray(drawn.todense()).reshape(m, x.shape[1])))


def resampled(method: str, x: np.ndarray, y: np.ndarray, rare: str, size: int, seed: int) -> tuple[Any, Any]:
    """Bring the rare type to a size with imbalanced-learn."""
    from imblearn.over_sampling import SMOTE, RandomOverSampler

    asked: dict[str, Any] = {"sampling_strategy": {rare: size}, "random_state": seed}
    if method == "oversampling":
        return RandomOverSampler(**asked).fit_resample(x, y)
    neighbours = min(5, int((y == rare).sum()) - 1)
    return SMOTE(k_neighbors=neighbours, **asked).fit_resample(x, y)


def augmented(
    method: str, cells: Cells, rare: str, genes: np.ndarray, seed: int, scvi: str | None
) -> tuple[np.ndarray, np.ndarray]:
    """Return what the classifier is trained on.

    Parameters
    ----------
    method
        What makes the added cells.
    cells
        The training cells, few of them of the rare type.
    rare
        The rare type.
    genes
        Columns that the classifier sees.
    seed
        Seed of the method.
    scvi
        Interpreter of the environment with scvi-tools.

    Returns
    -------
    tuple
        Values of shape (n_cells, n_genes) and labels of shape (n_cells,).
    """
    x, y = normalise(cells.counts)[:, genes].toarray(), cells.labels
    size = median_size(y, rare)
    m = size - int((y == rare).sum())
    if method == "nothing" or m <= 0:
        return x, y
    if method in ("oversampling", "SMOTE"):
        return resampled(method, x, y, rare, size, seed)
    if method == "vaexprs":
        added = vaexprs_cells(cells, rare, m, seed)
    else:
        added = scvi_cells(str(scvi), cells, rare, m, seed)
    return np.vstack([x, normalise(added)[:, genes].toarray()]), np.concatenate([y, np.full(m, rare)])


def score(x: np.ndarray, y: np.ndarray, x_test: np.ndarray, y_test: np.ndarray, rare: str) -> Score:
    """Train the classifier and try it on the held-out cells."""
    from sklearn.decomposition import PCA
    from sklearn.linear_model import LogisticRegression
    from sklearn.metrics import balanced_accuracy_score, f1_score
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    model = make_pipeline(StandardScaler(), PCA(30, random_state=0), LogisticRegression(max_iter=2000))
    said = model.fit(x, y).predict(x_test)
    f1 = f1_score(y_test, said, labels=[rare], average="macro", zero_division=0)
    return Score(float(f1), float(balanced_accuracy_score(y_test, said)))


def mean_se(values: Sequence[float]) -> tuple[float, float]:
    """Return the mean and its standard error, which is not a number for a single value."""
    mean = float(np.mean(values))
    return mean, float(np.std(values, ddof=1) / np.sqrt(len(values))) if len(values) > 1 else float("nan")


def table(scores: Scores, methods: Sequence[str], measure: str) -> str:
    """Write a markdown table of one measure, the highest mean of each row in bold."""
    lines = [f"| type | n | {' | '.join(methods)} |", f"|---|---:|{'---:|' * len(methods)}"]
    for (rare, n), row in scores.items():
        found = [mean_se([getattr(s, measure) for s in row[method]]) for method in methods]
        best = max(mean for mean, _ in found)
        stars = ["**" if mean == best else "" for mean, _ in found]
        texts = [f"{star}{mean:.3f} ± {se:.3f}{star}" for star, (mean, se) in zip(stars, found, strict=True)]
        lines.append(f"| {rare} | {n} | {' | '.join(texts)} |")
    return "\n".join(lines)


def verdict(scores: Scores, methods: Sequence[str]) -> str:
    """Say which method has the highest F1 over all rows, and by how much over the others, draw by draw."""
    # (n_methods, n_rows, n_draws)
    f1 = np.array([[[s.f1 for s in row[method]] for row in scores.values()] for method in methods])
    order = np.argsort(-f1.mean(axis=(1, 2)), kind="stable")
    first = f1[order[0]]
    rows = int((first.mean(axis=1) >= f1.mean(axis=2).max(axis=0)).sum())
    mean, best = first.mean(), methods[order[0]]
    lines = [f"{best} wins: mean F1 {mean:.3f}, the highest in {rows} of {len(first)} rows.", ""]
    for other in order[1:]:
        # the draws are nested in n, so that not a row but a draw is the unit
        ahead, se = mean_se((first - f1[other]).mean(axis=0))
        lines.append(f"- ahead of {methods[other]} by {ahead:.3f} ± {se:.3f}")
    return "\n".join(lines)


def report(scores: Scores, task: Task, skipped: Sequence[str]) -> str:
    """Write both tables and the verdict."""
    parts = [
        f"F1 of the rare type in held-out cells, mean ± standard error over {task.draws} draws of n cells:",
        table(scores, task.methods, "f1"),
        verdict(scores, task.methods),
        "Balanced accuracy over all types:",
        table(scores, task.methods, "balanced"),
        *skipped,
    ]
    return "\n\n".join(parts) + "\n"


def prepare(args: argparse.Namespace) -> Task:
    """Read the data and choose the genes."""
    train, test = read_halves(args.data, args.label_key)
    unknown = sorted(set(args.types) - set(train.labels))
    if unknown:
        raise SystemExit(f"No cells of {unknown}; the types are {sorted(set(train.labels))}.")
    genes = variable_genes(train.counts)
    if not args.all_genes:
        train, test = with_rest(train, genes), with_rest(test, genes)
        genes = np.arange(len(genes))
    methods = args.methods or ([*METHODS, "scVI"] if args.scvi else METHODS)
    x_test = normalise(test.counts)[:, genes].toarray()
    return Task(train, x_test, test.labels, genes, methods, args.draws, args.scvi)


def row_scores(task: Task, rare: str, n: int) -> dict[str, list[Score]]:
    """Score all methods on all draws of n cells of a type, and say so on standard error as it goes."""
    row: dict[str, list[Score]] = {method: [] for method in task.methods}
    for draw in range(task.draws):
        cells = training_cells(task.train, rare, n, draw)
        for method in task.methods:
            start = time.perf_counter()
            x, y = augmented(method, cells, rare, task.genes, draw, task.scvi)
            found = score(x, y, task.x_test, task.y_test, rare)
            row[method].append(found)
            seconds = time.perf_counter() - start
            what = f"{rare}, n {n}, draw {draw}, {method}"
            print(f"{what}: F1 {found.f1:.3f}, {len(y)} cells, {seconds:.1f} s", file=sys.stderr, flush=True)
    return row


def run(args: argparse.Namespace) -> None:
    """Fill the tables row by row, writing them out after each."""
    task = prepare(args)
    scores: Scores = {}
    skipped: list[str] = []
    for rare in args.types:
        there = int((task.train.labels == rare).sum())
        for n in args.cells:
            if n > there:
                skipped.append(f"{rare} with n = {n} is left out: the training half has {there} such cells.")
                continue
            scores[rare, n] = row_scores(task, rare, n)
            if args.out:
                args.out.write_text(report(scores, task, skipped), encoding="utf-8")
    if not scores:
        raise SystemExit("\n".join(skipped))
    text = report(scores, task, skipped)
    print(text)
    if args.out:
        args.out.write_text(text, encoding="utf-8")


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    job = parser.add_mutually_exclusive_group(required=True)
    job.add_argument("--data", type=Path, help=".h5ad with raw counts in X")
    job.add_argument("--fit-scvi", type=Path, nargs=2, help=argparse.SUPPRESS)
    parser.add_argument("--label-key", default="cell_type", help="column of obs with the type")
    parser.add_argument("--types", nargs="+", default=TYPES, help="types to make rare, one after the other")
    parser.add_argument("--cells", type=int, nargs="+", default=[10, 20, 50, 100], help="sizes n, at least 2")
    parser.add_argument(
        "--methods", nargs="+", choices=[*METHODS, "scVI"], help="some of them; by default all"
    )
    parser.add_argument("--draws", type=int, default=10, help="random draws of the n cells")
    parser.add_argument("--all-genes", action="store_true", help="fit the models to each gene: slow")
    parser.add_argument("--scvi", metavar="PYTHON", help="interpreter of an environment with scvi-tools")
    parser.add_argument("--out", type=Path, metavar="TABLE.md", help="file for the tables")
    args = parser.parse_args()
    if args.methods and "scVI" in args.methods and not args.scvi:
        parser.error("scVI needs --scvi.")
    if args.draws < 1 or min(args.cells) < 2:
        parser.error("--draws must be at least 1 and --cells at least 2.")
    if args.fit_scvi:
        fit_scvi(*args.fit_scvi)
    else:
        warnings.filterwarnings("ignore", message=".*same value in every cell.*")
        run(args)


if __name__ == "__main__":
    main()
