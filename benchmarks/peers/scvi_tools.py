# /// script
# requires-python = ">=3.11"
# dependencies = ["scvi-tools>=1.4"]
# ///
"""SCVI of scvi-tools with default settings and the label as batch.

Cells are samples of the posterior predictive distribution at training cells of the label, chosen at random
with replacement.
"""

from typing import Any

import anndata as ad
import numpy as np
import scvi
from exchange import Generate, Numbers, main


def fit(train: ad.AnnData, key: str, seed: int) -> Generate:
    scvi.settings.seed = seed
    scvi.model.SCVI.setup_anndata(train, batch_key=key)
    model = scvi.model.SCVI(train)
    model.train(accelerator="cpu", enable_progress_bar=False)
    labels = train.obs[key].astype(str).to_numpy()

    def generate(numbers: Numbers, seed: int) -> Any:
        scvi.settings.seed = seed
        rng = np.random.default_rng(seed)
        rows = [rng.choice(np.flatnonzero(labels == label), n) for label, n in numbers.items()]
        counts = model.posterior_predictive_sample(indices=np.concatenate(rows), n_samples=1)
        return np.reshape(counts.todense(), (-1, train.n_vars))

    return generate


if __name__ == "__main__":
    main(__doc__, fit)
