"""Gain of a cell type classifier from generated cells of a rare type.

    pip install imbalanced-learn
    python benchmarks/rare_types.py --data DATA.h5ad [--out rare_types.md]
    python benchmarks/rare_types.py --data DATA.h5ad --scvi PYTHON  # with scVI

The cells are split once into halves, stratified by type. Of one type the training half keeps n cells, a
random subset; the other types keep all cells. Each method adds cells of the rare type up to the median size
of the others, and a classifier (standardised log(1 + counts per 10,000) of the 2,000 most variable genes,
30 principal components, logistic regression) predicts the types of the other half. The metric is the F1 of
the rare type. The genes are selected once, on the whole training half. The subsets are the same for all
methods and nested in n; standard errors are over subsets, for this one split.

"nothing" adds nothing. "oversampling" duplicates the rare cells and "SMOTE" interpolates between neighbours
among them, in the genes of the classifier (both from imbalanced-learn). "vaexprs" generates counts from a
fit with default arguments to the training cells. "scVI" fits a default SCVI model to the same cells, in the
environment of PYTHON, and samples its posterior predictive for the rare cells in turn until the target is
met.

Both models are fitted to the counts of the genes of the classifier and, as one more gene, the sum of all
others, so that generated cells have totals for normalisation; with --all-genes to all genes, which takes
several times as long.

Prints Markdown tables of the F1 of the rare type and of the balanced accuracy, and the differences between
the best method and the others.
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
from harness import parser, stratified_halves, table_head, table_row, variable_genes

# Other packages are imported where they are used: an environment with scvi-tools may lack them.

TYPES = ["CD14+ Monocyte", "CD4+/CD25 T Reg"]
METHODS = ["nothing", "oversampling", "SMOTE", "vaexprs"]


class Cells(NamedTuple):
    """Counts of cells and their labels."""

    counts: sp.csr_matrix
    labels: np.ndarray

    def take(self, rows: np.ndarray) -> "Cells":
        """Return the cells of these rows."""
        return Cells(self.counts[rows], self.labels[rows])


class Score(NamedTuple):
    """F1 of the rare type, and balanced accuracy over all types, on held-out cells."""

    f1: float
    balanced: float


class Task(NamedTuple):
    """Data and settings common to all rows of the tables."""

    train: Cells
    x_test: np.ndarray
    y_test: np.ndarray
    genes: np.ndarray
    methods: list[str]
    draws: int
    scvi: str | None


# by type and n: for each method one score per subset
Scores = dict[tuple[str, int], dict[str, list[Score]]]


def read_halves(path: Path, label_key: str) -> tuple[Cells, Cells]:
    """Read the cells and split them into a training and a test half, stratified by type."""
    import anndata as ad

    adata = ad.read_h5ad(path)
    cells = Cells(sp.csr_matrix(adata.X), adata.obs[label_key].to_numpy().astype(str))
    train, test = stratified_halves(cells.labels)
    return cells.take(train), cells.take(test)


def classifier_input(counts: sp.csr_matrix, genes: np.ndarray) -> np.ndarray:
    """Return log(1 + counts per 10,000) of some genes as a dense array."""
    from vaexprs.data.matrix import log_normalised

    return log_normalised(counts)[:, genes].toarray()


def with_rest(cells: Cells, genes: np.ndarray) -> Cells:
    """Keep some genes and append the sum of all others, so that library sizes are unchanged."""
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
    """Sample m cells of the rare type with scVI, in the environment of another interpreter."""
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
    """Fit scVI to the cells in one file and write sampled cells to another, for `scvi_cells`."""
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
    """Resample the rare type to a size with imbalanced-learn."""
    from imblearn.over_sampling import SMOTE, RandomOverSampler

    asked: dict[str, Any] = {"sampling_strategy": {rare: size}, "random_state": seed}
    if method == "oversampling":
        return RandomOverSampler(**asked).fit_resample(x, y)
    neighbours = min(5, int((y == rare).sum()) - 1)
    return SMOTE(k_neighbors=neighbours, **asked).fit_resample(x, y)


def augmented(
    method: str, cells: Cells, rare: str, genes: np.ndarray, seed: int, scvi: str | None
) -> tuple[np.ndarray, np.ndarray]:
    """Return the training data of the classifier.

    Parameters
    ----------
    method
        Method that adds cells.
    cells
        Training cells with few cells of the rare type.
    rare
        Rare type.
    genes
        Columns that the classifier uses.
    seed
        Seed of the method.
    scvi
        Interpreter of the environment with scvi-tools.

    Returns
    -------
    tuple
        Values of shape (n_cells, n_genes) and labels of shape (n_cells,).
    """
    x, y = classifier_input(cells.counts, genes), cells.labels
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
    return np.vstack([x, classifier_input(added, genes)]), np.concatenate([y, np.full(m, rare)])


def score(x: np.ndarray, y: np.ndarray, x_test: np.ndarray, y_test: np.ndarray, rare: str) -> Score:
    """Train the classifier and score it on the held-out cells."""
    from sklearn.decomposition import PCA
    from sklearn.linear_model import LogisticRegression
    from sklearn.metrics import balanced_accuracy_score, f1_score
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    model = make_pipeline(StandardScaler(), PCA(30, random_state=0), LogisticRegression(max_iter=2000))
    predicted = model.fit(x, y).predict(x_test)
    f1 = f1_score(y_test, predicted, labels=[rare], average="macro", zero_division=0)
    return Score(float(f1), float(balanced_accuracy_score(y_test, predicted)))


def mean_se(values: Sequence[float]) -> tuple[float, float]:
    """Return the mean and its standard error (NaN for a single value)."""
    mean = float(np.mean(values))
    return mean, float(np.std(values, ddof=1) / np.sqrt(len(values))) if len(values) > 1 else float("nan")


def table(scores: Scores, methods: Sequence[str], measure: str) -> str:
    """Return a Markdown table of one measure, with the highest mean of each row in bold."""
    lines = [table_head(["type", "n", *methods])]
    for (rare, n), row in scores.items():
        found = [mean_se([getattr(s, measure) for s in row[method]]) for method in methods]
        best = max(mean for mean, _ in found)
        stars = ["**" if mean == best else "" for mean, _ in found]
        texts = [f"{star}{mean:.3f} ± {se:.3f}{star}" for star, (mean, se) in zip(stars, found, strict=True)]
        lines.append(table_row([rare, n, *texts]))
    return "\n".join(lines)


def verdict(scores: Scores, methods: Sequence[str]) -> str:
    """Return which method has the highest mean F1, and its paired differences to the others."""
    # (n_methods, n_rows, n_draws)
    f1 = np.array([[[s.f1 for s in row[method]] for row in scores.values()] for method in methods])
    order = np.argsort(-f1.mean(axis=(1, 2)), kind="stable")
    first = f1[order[0]]
    rows = int((first.mean(axis=1) >= f1.mean(axis=2).max(axis=0)).sum())
    mean, best = first.mean(), methods[order[0]]
    lines = [f"{best} wins: mean F1 {mean:.3f}, the highest in {rows} of {len(first)} rows.", ""]
    for other in order[1:]:
        # subsets are nested in n: the independent unit is a draw, not a row
        ahead, se = mean_se((first - f1[other]).mean(axis=0))
        lines.append(f"- ahead of {methods[other]} by {ahead:.3f} ± {se:.3f}")
    return "\n".join(lines)


def report(scores: Scores, task: Task, skipped: Sequence[str]) -> str:
    """Return both tables and the verdict."""
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
    """Read the data and select the genes."""
    train, test = read_halves(args.data, args.label_key)
    unknown = sorted(set(args.types) - set(train.labels))
    if unknown:
        raise SystemExit(f"No cells of {unknown}; the types are {sorted(set(train.labels))}.")
    genes = variable_genes(train.counts)
    if not args.all_genes:
        train, test = with_rest(train, genes), with_rest(test, genes)
        genes = np.arange(len(genes))
    methods = args.methods or ([*METHODS, "scVI"] if args.scvi else METHODS)
    x_test = classifier_input(test.counts, genes)
    return Task(train, x_test, test.labels, genes, methods, args.draws, args.scvi)


def row_scores(task: Task, rare: str, n: int) -> dict[str, list[Score]]:
    """Score all methods on all subsets of n cells of a type; report progress on standard error."""
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
    """Fill the tables row by row, and write them to the output file after each row."""
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
    options = parser(__doc__)
    job = options.add_mutually_exclusive_group(required=True)
    job.add_argument("--data", type=Path, help=".h5ad file with raw counts in X")
    job.add_argument("--fit-scvi", type=Path, nargs=2, help=argparse.SUPPRESS)
    options.add_argument("--label-key", default="cell_type", help="column of obs with the cell type")
    options.add_argument("--types", nargs="+", default=TYPES, help="rare types, one after the other")
    options.add_argument(
        "--cells", type=int, nargs="+", default=[10, 20, 50, 100], help="sizes n, at least 2"
    )
    options.add_argument("--methods", nargs="+", choices=[*METHODS, "scVI"], help="default: all available")
    options.add_argument("--draws", type=int, default=10, help="random subsets of n cells")
    options.add_argument("--all-genes", action="store_true", help="fit the models to all genes (slow)")
    options.add_argument("--scvi", metavar="PYTHON", help="interpreter of an environment with scvi-tools")
    options.add_argument("--out", type=Path, metavar="TABLE.md", help="output file for the tables")
    args = options.parse_args()
    if args.methods and "scVI" in args.methods and not args.scvi:
        options.error("scVI requires --scvi.")
    if args.draws < 1 or min(args.cells) < 2:
        options.error("--draws must be at least 1 and --cells at least 2.")
    if args.fit_scvi:
        fit_scvi(*args.fit_scvi)
    else:
        warnings.filterwarnings("ignore", message=".*same value in every cell.*")
        run(args)


if __name__ == "__main__":
    main()
