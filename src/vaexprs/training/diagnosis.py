"""Diagnose common problems of a finished fit."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from vaexprs.interface.validation import listed
from vaexprs.nn.vae import VAE
from vaexprs.preprocessing.prepare import Preprocessing

MAX_STUCK = 0.05  # fraction of genes with the dispersion at its limit above which a warning is given
MIN_KL = 0.01  # KL divergence (nats per cell) below which the latent vector counts as unused


def diagnose(model: VAE, prepared: Preprocessing, history: Mapping[str, list[float]]) -> list[str]:
    """Return a warning for overfitting, for dispersions at their limit, and for an unused latent vector."""
    warnings = []
    held_out = history.get("val_loss", [])
    if len(held_out) > 1 and held_out[-1] > held_out[0]:
        best = int(np.argmin(held_out))
        warnings.append(
            f"The loss of the validation cells rose from {held_out[0]:.1f} to {held_out[-1]:.1f} (best: "
            f"{held_out[best]:.1f} after {best + 1} of {len(held_out)} epochs): the model overfits its "
            f"training cells. Try epochs={best + 1} or a larger regularization."
        )
    stuck = model.likelihood.stuck_genes(model.get_layer(model.decoder_layers[-1]))
    if stuck.mean() > MAX_STUCK:
        names = [str(gene) for gene in prepared.genes[stuck]]
        warnings.append(
            f"The dispersion of {len(names):,} of {len(stuck):,} genes ({listed(names)}) is at its limit: "
            "the likelihood does not fit their variation, or training was too long. Try another likelihood "
            "or fewer epochs."
        )
    if history["kl"] and history["kl"][-1] < MIN_KL:
        warnings.append(
            f"The latent vector is hardly used (KL divergence {history['kl'][-1]:.3f}): generated cells of a "
            "condition differ only by the noise of the likelihood. Unless that is expected, try more epochs "
            "or a smaller regularization."
        )
    return warnings
