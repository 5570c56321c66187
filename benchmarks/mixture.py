"""Wall time of model selection for Gaussian mixtures, compared with mclust and scikit-learn.

    apt-get install r-base-core r-cran-mclust
    python benchmarks/mixture.py [--data DATA.h5ad]

All fourteen covariance models with 1 to 9 components are fitted for each label: 200 posterior samples in
ten latent dimensions, with the log library size as the eleventh, of the cells that come with scanpy or of
DATA. `select_mixture` is compared with mclust's `mclustBIC` (the same fourteen models; left out if Rscript
or mclust is missing) and scikit-learn's `GaussianMixture` (its four covariance types), each with default
settings on the same points. Reading the points and starting R do not count. Run it on an otherwise idle
machine.

Prints a table of seconds and best BIC per label, the medians, and the seconds of `select_mixture` on 20,000
points sampled from the mixture it selected for one label, and on a tenth of them.
"""

import subprocess
import tempfile
import warnings
from pathlib import Path
from shutil import which
from statistics import median

import vaexprs as vx

# isort: split
import numpy as np
from harness import parser, table_head, table_row, timed
from sklearn.mixture import GaussianMixture

from vaexprs.mixture.selection import select_mixture
from vaexprs.nn.predict import encode, posterior

POINTS = 200
COMPONENTS = range(1, 10)
TYPES = ("spherical", "diag", "tied", "full")
R_SCRIPT = """
suppressMessages(library(mclust))
for (f in commandArgs(trailingOnly = TRUE)) {
  x <- as.matrix(read.csv(f, header = FALSE))
  seconds <- system.time(bic <- mclustBIC(x, verbose = FALSE))["elapsed"]
  cat(seconds, -max(bic, na.rm = TRUE), "\\n")
}
"""


def labels(data: Path | None, label_key: str) -> dict[str, np.ndarray]:
    """Return posterior samples of each label, (POINTS, latent_dim + 1)."""
    adata = vx.demo_cells() if data is None else vx.read(data)
    fit = vx.fit_vae(adata, label_key=label_key, seed=0, verbose=0)
    cells = fit.preprocessing.train
    mean, sd = encode(posterior(fit.model), cells.x, fit.preprocessing.y_train)
    library = np.log(np.asarray(cells.x.sum(axis=1)).ravel())
    label = cells.obs[label_key].astype(str).to_numpy()
    rng = np.random.default_rng(0)
    points = {}
    for name in np.unique(label):
        rows = rng.choice(np.flatnonzero(label == name), POINTS)
        sample = mean[rows] + sd[rows] * rng.standard_normal((POINTS, mean.shape[1]))
        # cells are sampled with replacement: jitter of the library sizes avoids singular covariances
        points[name] = np.c_[sample, library[rows] + 0.05 * rng.standard_normal(POINTS)]
    return points


def ours(x: np.ndarray) -> float:
    """Return the best BIC of the fourteen models."""
    return select_mixture(x, components=COMPONENTS).bic


def theirs(x: np.ndarray) -> float:
    """Return the best BIC of scikit-learn's covariance types."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return min(
            GaussianMixture(g, covariance_type=kind, random_state=0).fit(x).bic(x)
            for kind in TYPES
            for g in COMPONENTS
        )


def in_r(points: dict[str, np.ndarray]) -> list[tuple[float, float]] | None:
    """Return the seconds and best BIC of mclust for each label."""
    if which("Rscript") is None:
        return None
    with tempfile.TemporaryDirectory() as folder:
        script = Path(folder, "time.R")
        script.write_text(R_SCRIPT)
        files = [str(Path(folder, f"{i}.csv")) for i in range(len(points))]
        for file, x in zip(files, points.values(), strict=True):
            np.savetxt(file, x, delimiter=",")
        done = subprocess.run(["Rscript", str(script), *files], capture_output=True, text=True)
    if done.returncode:
        print(f"mclust is left out: {done.stderr.strip().splitlines()[-1]}")
        return None
    return [(float(a), float(b)) for a, b in (line.split() for line in done.stdout.splitlines())]


def main() -> None:
    options = parser(__doc__, data="--data")
    args = options.parse_args()
    points = labels(args.data, args.label_key)
    ours(next(iter(points.values()))[:50])  # imports and compilation do not count
    theirs(next(iter(points.values()))[:50])
    columns = {
        "vaexprs": [timed(ours, x) for x in points.values()],
        "scikit-learn": [timed(theirs, x) for x in points.values()],
    }
    if (mclust := in_r(points)) is not None:
        columns["mclust"] = mclust
    print(table_head(["label", *(f"{name}: s, BIC" for name in columns)]))
    for i, label in enumerate(points):
        print(table_row([label, *(f"{c[i][0]:.2f}, {c[i][1]:.1f}" for c in columns.values())]))
    seconds = {name: median(s for s, _ in column) for name, column in columns.items()}
    for name, value in seconds.items():
        print(f"{name}: median {value:.2f} s per label, {value / seconds['vaexprs']:.1f} times ours")
    mixture = select_mixture(points[max(points)]).best.mixture_
    x = mixture.sample(20_000, np.random.default_rng(0))
    times = {n: timed(ours, x[:n])[0] for n in (2_000, 20_000)}
    print(f"2,000 points {times[2_000]:.1f} s, 20,000 points {times[20_000]:.1f} s")


if __name__ == "__main__":
    main()
