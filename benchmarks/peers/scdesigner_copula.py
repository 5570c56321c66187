# /// script
# requires-python = ">=3.11"
# dependencies = ["scdesigner==0.0.25"]
# ///
"""Negative binomial copula of scdesigner.

Mean, dispersion and copula depend on the label, and the covariance is shrunk (its estimator "ledoit_wolf").
"""

import anndata as ad
import numpy as np
import pandas as pd
import torch
from exchange import Generate, Numbers, main
from scdesigner.simulators import NegBinCopula


def set_seed(seed: int) -> None:
    np.random.seed(seed)  # noqa: NPY002  (scdesigner uses the global state)
    torch.manual_seed(seed)


def fit(train: ad.AnnData, key: str, seed: int) -> Generate:
    set_seed(seed)
    obs = pd.DataFrame({"label": pd.Categorical(train.obs[key].astype(str))}, index=train.obs_names)
    cells = ad.AnnData(train.X, obs=obs, var=pd.DataFrame(index=train.var_names))
    model = NegBinCopula("~ label", "~ label", "~ label", estimator="ledoit_wolf")
    model.fit(cells)
    order = obs["label"].value_counts().index

    def generate(numbers: Numbers, seed: int) -> np.ndarray:
        set_seed(seed)
        # scdesigner 0.0.25 codes labels by their rank of frequency in the cells asked for: ask for cells in
        # the order of the training cells, and leave out those that are too many
        rows, n = [], 0
        for label in reversed(order):
            n = max(numbers.get(label, 0), n + 1)
            rows += [label] * n
        wanted = pd.DataFrame({"label": pd.Categorical(rows)}, index=np.arange(len(rows)).astype(str))
        counts, labels = model.sample(wanted).X, np.array(rows)
        return np.concatenate([counts[labels == label][:n] for label, n in numbers.items()])

    return generate


if __name__ == "__main__":
    main(__doc__, fit)
