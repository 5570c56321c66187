"""Fit variational autoencoders to gene expression and generate cells from them."""

from __future__ import annotations

import os
from importlib import import_module
from typing import TYPE_CHECKING, Any

os.environ.setdefault("KERAS_BACKEND", "jax")

if TYPE_CHECKING:
    from vaexprs.augmentation import augment
    from vaexprs.counterfactual import transform
    from vaexprs.demo import demo_cells
    from vaexprs.evaluation import evaluate
    from vaexprs.fitting import fit_vae
    from vaexprs.generation import Generated, gen_exprs
    from vaexprs.guarantee import Privacy
    from vaexprs.interpolation import interpolate
    from vaexprs.io import read
    from vaexprs.plotting import plot_aug, plot_vae
    from vaexprs.privacy import audit_privacy
    from vaexprs.report import write_report
    from vaexprs.result import VAEFit, load_vae
    from vaexprs.writing import write

_HOME = {
    "Generated": "generation",
    "Privacy": "guarantee",
    "VAEFit": "result",
    "audit_privacy": "privacy",
    "augment": "augmentation",
    "demo_cells": "demo",
    "evaluate": "evaluation",
    "fit_vae": "fitting",
    "gen_exprs": "generation",
    "interpolate": "interpolation",
    "load_vae": "result",
    "plot_aug": "plotting",
    "plot_vae": "plotting",
    "read": "io",
    "transform": "counterfactual",
    "write": "writing",
    "write_report": "report",
}

__all__ = [
    "Generated",
    "Privacy",
    "VAEFit",
    "audit_privacy",
    "augment",
    "demo_cells",
    "evaluate",
    "fit_vae",
    "gen_exprs",
    "interpolate",
    "load_vae",
    "plot_aug",
    "plot_vae",
    "read",
    "transform",
    "write",
    "write_report",
]


def __getattr__(name: str) -> Any:
    # the front door opens a room when it is first asked for: `vaexprs --help` does not pay for Keras
    if name == "__version__":
        from importlib.metadata import version

        return version("vaexprs")
    if name in _HOME:
        return getattr(import_module(f"vaexprs.{_HOME[name]}"), name)
    raise AttributeError(f"module 'vaexprs' has no attribute {name!r}")


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
