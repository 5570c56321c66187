"""Gain of good cell type classifiers from added cells of a rare type.

    pip install imbalanced-learn
    python benchmarks/rare_types.py --data DATA.h5ad [--types TYPE ...] [--draws 6] [--out TABLE.md]
    python benchmarks/rare_types.py --data DATA.h5ad --scvi PYTHON  # with scVI

The cells are split once into halves, stratified by type. Of one type the training half keeps n cells, a
random subset; the other types keep all cells. Each method adds cells of the rare type up to the median size
of the others, and classifiers trained on all cells predict the types of the other half. The subsets are the
same for all methods and nested in n; standard errors and intervals are over subsets, for this one split.

Three classifiers that cope with unequal classes use the 2,000 most variable genes, selected once on the
whole training half:

- logistic regression with balanced class weights on 40 principal components of the unscaled
  log(1 + counts per 10,000),
- linear discriminant analysis (LDA) with uniform priors and a shrunken covariance on the same components,
- multinomial naive Bayes with a uniform prior on counts, scaled to the median library size.

"chosen" is, for each subset, the one with the highest sum of the F1 of the rare type and the macro F1 in
5-fold cross-validation on the training cells before any are added. It is used for all methods.

"nothing" adds nothing. "oversampling" duplicates rare cells, and "SMOTE" interpolates between neighbours
among them (imbalanced-learn). "independent NB" samples each gene from a negative binomial with the moments of
the rare cells, and library sizes from these cells. "vaexprs" generates counts from a fit with default
arguments to the training cells. "scVI" fits a default SCVI model to the same cells, in the environment of
PYTHON, and samples its posterior predictive for the rare cells. Models are fitted to the counts of the genes
of the classifiers and, as one more gene, the sum of all others, so that generated cells have library sizes.
"""

import argparse
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import scipy.sparse as sp
from harness import parser, stratified_halves, table_head, table_row, variable_genes

# Other packages are imported where they are used: an environment with scvi-tools may lack them.
if TYPE_CHECKING:
    import pandas as pd

PCS = 40  # principal components of the classifiers
FOLDS = 5  # of the cross-validation that chooses the classifier
ORDINARY = ["nothing", "oversampling", "SMOTE", "independent NB"]
MEASURES = {"f1": "F1 of the rare type", "macro": "macro F1 over all types"}


class Cells(NamedTuple):
    """Counts of cells, (n_cells, n_genes + 1) with the sum of all other genes last, and their labels."""

    counts: sp.csr_matrix
    labels: np.ndarray

    def take(self, rows: np.ndarray) -> "Cells":
        """Return the cells of these rows."""
        return Cells(self.counts[rows], self.labels[rows])


def read_halves(path: Path, label_key: str) -> tuple[Cells, Cells]:
    """Read the training and the test half, with the genes of the classifiers and the sum of all others."""
    import anndata as ad

    adata = ad.read_h5ad(path)
    counts, labels = sp.csr_matrix(adata.X), adata.obs[label_key].to_numpy().astype(str)
    train, test = stratified_halves(labels)
    kept = counts[:, variable_genes(counts[train])]
    rest = sp.csr_matrix(counts.sum(axis=1) - kept.sum(axis=1))
    cells = Cells(sp.csr_matrix(sp.hstack([kept, rest])), labels)
    return cells.take(train), cells.take(test)


def classifier_input(counts: Any) -> np.ndarray:
    """Return log(1 + counts per 10,000) of the genes of the classifiers, (n_cells, n_genes)."""
    from vaexprs.data.matrix import log_normalised

    return log_normalised(sp.csr_matrix(counts, dtype=np.float32))[:, :-1].toarray()


def training_cells(half: Cells, rare: str, n: int, draw: int) -> Cells:
    """Keep n cells of the rare type, and all others."""
    kept = np.random.default_rng(draw).permutation(np.flatnonzero(half.labels == rare))[:n]
    return half.take(np.sort(np.concatenate([np.flatnonzero(half.labels != rare), kept])))


def labelled(cells: Cells) -> Any:
    """Return the cells as AnnData with a column "type"."""
    import anndata as ad
    import pandas as pd

    names = pd.Index(np.arange(len(cells.labels)).astype(str))
    return ad.AnnData(cells.counts, obs=pd.DataFrame({"type": pd.Categorical(cells.labels)}, index=names))


def vaexprs_cells(cells: Cells, rare: str, m: int, seed: int) -> sp.csr_matrix:
    """Generate m cells of the rare type with vaexprs."""
    import vaexprs as vx

    fit = vx.fit_vae(labelled(cells), label_key="type", seed=seed, verbose=0)
    return vx.gen_exprs(fit, labels={rare: m}, seed=seed, progress=False).adata.X


def scvi_cells(python: str, cells: Cells, rare: str, m: int, seed: int) -> sp.csr_matrix:
    """Sample m cells of the rare type with scVI, in the environment of another interpreter."""
    with tempfile.TemporaryDirectory() as folder:
        source, target = Path(folder, "train.h5ad"), Path(folder, "drawn.npz")
        labelled(cells).write_h5ad(source)
        command = [python, __file__, "--fit-scvi", source, target, rare, m, seed]
        done = subprocess.run(list(map(str, command)), capture_output=True, text=True)
        if done.returncode:
            raise RuntimeError(f"scVI failed in {python}:\n{done.stderr[-2000:]}")
        return sp.load_npz(target)


def fit_scvi(source: str, target: str, rare: str, m: str, seed: str) -> None:
    """Fit scVI to the cells in one file and write sampled cells to another, for `scvi_cells`."""
    import anndata as ad
    import scvi

    scvi.settings.seed = int(seed)
    adata = ad.read_h5ad(source)
    scvi.model.SCVI.setup_anndata(adata, labels_key="type")
    model = scvi.model.SCVI(adata)
    model.train(accelerator="cpu", enable_progress_bar=False)
    rows = np.resize(np.flatnonzero(adata.obs["type"] == rare), int(m))
    drawn = model.posterior_predictive_sample(indices=rows.tolist(), n_samples=1)
    sp.save_npz(target, sp.csr_matrix(np.asarray(drawn.todense()).reshape(int(m), adata.n_vars)))


def independent_cells(counts: np.ndarray, m: int, rng: np.random.Generator) -> np.ndarray:
    """Sample m cells gene by gene from negative binomials fitted by moments, given sampled library sizes."""
    library = counts.sum(axis=1, keepdims=True)
    rate = counts.sum(axis=0) / library.sum()
    excess = ((counts - library * rate) ** 2 - library * rate).sum(axis=0)
    shape = np.clip((library**2).sum() * rate**2 / np.maximum(excess, 1e-9), 1e-3, 1e6)
    mean = rng.choice(library.ravel(), m)[:, None] * rate
    return rng.poisson(mean * rng.gamma(shape, 1 / shape, mean.shape))


def added_cells(
    method: str, cells: Cells, x: np.ndarray, rare: str, m: int, seed: int, scvi: str
) -> np.ndarray:
    """Return the classifier input of m cells of the rare type that a method adds, (m, n_genes)."""
    rng, own = np.random.default_rng(seed), cells.labels == rare
    if method == "nothing":
        return x[:0]
    if method == "oversampling":
        return x[rng.choice(np.flatnonzero(own), m)]
    if method == "SMOTE":
        from imblearn.over_sampling import SMOTE

        size = {rare: int(own.sum()) + m}
        smote = SMOTE(sampling_strategy=size, k_neighbors=min(5, int(own.sum()) - 1), random_state=seed)
        return smote.fit_resample(x, cells.labels)[0][len(x) :]
    if method == "independent NB":
        return classifier_input(independent_cells(cells.counts[own].toarray(), m, rng))
    if method == "vaexprs":
        return classifier_input(vaexprs_cells(cells, rare, m, seed))
    return classifier_input(scvi_cells(scvi, cells, rare, m, seed))


def predictions(x: np.ndarray, y: np.ndarray, x_test: np.ndarray, library: float) -> dict[str, np.ndarray]:
    """Return the labels that each classifier predicts for the test cells.

    Parameters
    ----------
    x, x_test
        Log values of the training and the test cells, (n_cells, n_genes).
    y
        Labels of the training cells.
    library
        Library size to which naive Bayes scales the counts.
    """
    from sklearn.decomposition import PCA
    from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
    from sklearn.linear_model import LogisticRegression
    from sklearn.naive_bayes import MultinomialNB

    pca = PCA(PCS, svd_solver="randomized", random_state=0).fit(x)
    pcs, counts = [pca.transform(v) for v in (x, x_test)], [np.expm1(v) * library / 1e4 for v in (x, x_test)]
    k = len(np.unique(y))
    lda = LinearDiscriminantAnalysis(solver="lsqr", shrinkage="auto", priors=np.full(k, 1 / k))
    models: dict[str, tuple[Any, list[np.ndarray]]] = {
        "logistic regression": (LogisticRegression(class_weight="balanced", max_iter=1000, tol=1e-3), pcs),
        "LDA": (lda, pcs),
        "naive Bayes": (MultinomialNB(fit_prior=False), counts),
    }
    return {name: model.fit(train, y).predict(test) for name, (model, (train, test)) in models.items()}


def scores(truth: np.ndarray, predicted: np.ndarray, rare: str) -> dict[str, float]:
    """Return the F1 of the rare type and the macro F1."""
    from sklearn.metrics import f1_score

    settings: dict[str, Any] = {"average": "macro", "zero_division": 0}
    f1 = f1_score(truth, predicted, labels=[rare], **settings)
    return {"f1": float(f1), "macro": float(f1_score(truth, predicted, **settings))}


def chosen_classifier(x: np.ndarray, y: np.ndarray, rare: str, library: float) -> str:
    """Return the classifier with the best cross-validated scores on the training cells."""
    from sklearn.model_selection import StratifiedKFold

    parts = []
    for fitted, held in StratifiedKFold(FOLDS, shuffle=True, random_state=0).split(x, y):
        parts.append((held, predictions(x[fitted], y[fitted], x[held], library)))
    truth = np.concatenate([y[held] for held, _ in parts])
    sums = {
        name: sum(scores(truth, np.concatenate([found[name] for _, found in parts]), rare).values())
        for name in parts[0][1]
    }
    return max(sums, key=lambda name: sums[name])


def measure(train: Cells, test: Cells, rare: str, n: int, draw: int, scvi: str) -> list[dict[str, Any]]:
    """Return the scores of all methods and classifiers on one subset; report progress on standard error."""
    cells = training_cells(train, rare, n, draw)
    x, x_test, y = classifier_input(cells.counts), classifier_input(test.counts), cells.labels
    library = float(np.median(np.asarray(cells.counts.sum(axis=1))))
    sizes = np.unique(y[y != rare], return_counts=True)[1]
    m = max(int(np.median(sizes)) - n, 0)
    chosen = chosen_classifier(x, y, rare, library)
    records = []
    for method in [*ORDINARY, "vaexprs", *(["scVI"] if scvi else [])]:
        start = time.perf_counter()
        added = added_cells(method, cells, x, rare, m, draw, scvi)
        values = np.concatenate([x, added]), np.concatenate([y, np.full(len(added), rare)])
        found = predictions(*values, x_test, library)
        key = {"type": rare, "n": n, "draw": draw, "method": method}
        for name, predicted in {"chosen": found[chosen], **found}.items():
            records.append({**key, "classifier": name, **scores(test.labels, predicted, rare)})
        f1, seconds = records[-len(found) - 1]["f1"], time.perf_counter() - start
        print(*key.values(), chosen, f"F1 {f1:.3f}", f"{seconds:.1f} s", file=sys.stderr, flush=True)
    return records


def mean_se(values: np.ndarray) -> tuple[float, float]:
    """Return the mean and its standard error (NaN for a single value)."""
    return float(values.mean()), float(values.std(ddof=1) / len(values) ** 0.5) if len(values) > 1 else np.nan


def cells_of_row(values: "pd.DataFrame") -> list[str]:
    """Return the cells of a table row from values by draw, (n_draws, n_methods).

    For each method mean and standard error, and last the paired difference of vaexprs and the best ordinary
    method with its 95% t interval.
    """
    from scipy.stats import t

    texts = ["{:.3f} ± {:.3f}".format(*mean_se(values[method].to_numpy())) for method in values]
    best = str(values[ORDINARY].mean().idxmax())
    gain, se = mean_se((values["vaexprs"] - values[best]).to_numpy())
    half = t.ppf(0.975, max(len(values) - 1, 1)) * se
    return [*texts, f"{gain:+.3f} [{gain - half:+.3f}, {gain + half:+.3f}] to {best}"]


def report(records: list[dict[str, Any]], notes: Sequence[str]) -> str:
    """Return the tables in Markdown."""
    import pandas as pd

    frame = pd.DataFrame(records)
    wide = frame.pivot(index=["classifier", "type", "n", "draw"], columns="method", values=list(MEASURES))
    methods = list(dict.fromkeys(frame["method"]))
    parts = [f"{MEASURES['f1']}, chosen classifier, mean ± standard error over draws of n cells:"]
    lines = [table_head(["type", "n", "draws", *methods, "vaexprs - best other [95% interval]"])]
    for (rare, n), row in wide["f1"][methods].loc["chosen"].groupby(["type", "n"], sort=False):
        lines.append(table_row([rare, n, len(row), *cells_of_row(row)]))
    parts.append("\n".join(lines))
    for name, title in MEASURES.items():
        parts.append(f"{title[0].upper()}{title[1:]}, mean over types and n ± standard error over draws:")
        lines = [table_head(["classifier", *methods, "vaexprs - best other [95% interval]"])]
        for classifier in dict.fromkeys(frame["classifier"]):
            # subsets are nested in n: the independent unit is a draw
            by_draw = wide[name][methods].loc[classifier].groupby("draw").mean()
            lines.append(table_row([classifier, *cells_of_row(by_draw)]))
        parts.append("\n".join(lines))
    return "\n\n".join([*parts, *notes]) + "\n"


def run(args: argparse.Namespace) -> None:
    """Measure one draw of all types and n after the other, and write the tables after each."""
    train, test = read_halves(args.data, args.label_key)
    names, sizes = np.unique(train.labels, return_counts=True)
    enough = [
        str(name)
        for name in names[np.argsort(sizes, kind="stable")]
        if (train.labels == name).sum() >= max(args.cells)
    ]
    types = args.types or enough[:2]
    if unknown := sorted(set(types) - set(train.labels)):
        raise SystemExit(f"No cells of {unknown}; the types are {names.tolist()}.")
    available = {rare: int((train.labels == rare).sum()) for rare in types}
    rows = [(rare, n) for rare in types for n in args.cells if n <= available[rare]]
    notes = [
        f"{rare}, n = {n} is left out: the training half has {available[rare]} such cells."
        for rare in types
        for n in args.cells
        if n > available[rare]
    ]
    records: list[dict[str, Any]] = []
    text = ""
    for draw in range(args.draws):
        for rare, n in rows:
            records += measure(train, test, rare, n, draw, args.scvi)
        text = report(records, notes)
        if args.out:
            args.out.write_text(text, encoding="utf-8")
    print(text)


def main() -> None:
    options = parser(__doc__)
    job = options.add_mutually_exclusive_group(required=True)
    job.add_argument("--data", type=Path, help=".h5ad file with raw counts in X")
    job.add_argument("--fit-scvi", nargs=5, help=argparse.SUPPRESS)
    options.add_argument("--label-key", default="cell_type", help="column of obs with the cell type")
    options.add_argument("--types", nargs="+", help="rare types (default: the two rarest with enough cells)")
    options.add_argument("--cells", type=int, nargs="+", default=[10, 20, 50], help="sizes n, at least 5")
    options.add_argument("--draws", type=int, default=6, help="random subsets of n cells")
    options.add_argument("--scvi", metavar="PYTHON", default="", help="interpreter with scvi-tools")
    options.add_argument("--out", type=Path, metavar="TABLE.md", help="output file for the tables")
    args = options.parse_args()
    if args.draws < 1 or min(args.cells) < FOLDS:
        options.error(f"--draws must be at least 1 and --cells at least {FOLDS}.")
    if args.fit_scvi:
        fit_scvi(*args.fit_scvi)
    else:
        warnings.filterwarnings("ignore", message=".*same value in every cell.*")
        run(args)


if __name__ == "__main__":
    main()
