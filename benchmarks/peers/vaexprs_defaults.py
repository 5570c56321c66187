"""vaexprs with default settings."""

from typing import Any

import vaexprs as vx

# isort: split
import anndata as ad
import scipy.sparse as sp
from exchange import Generate, Numbers, main


def fit(train: ad.AnnData, key: str, seed: int) -> Generate:
    model = vx.fit_vae(train, label_key=key, seed=seed, verbose=0)

    def generate(numbers: Numbers, seed: int) -> Any:
        cells = vx.gen_exprs(model, labels=numbers, seed=seed, progress=False).adata
        labels = cells.obs[key].astype(str).to_numpy()
        return sp.vstack([sp.csr_matrix(cells.X[labels == label]) for label in numbers])

    return generate


if __name__ == "__main__":
    main(__doc__, fit)
