"""Fit variational autoencoders to gene expression and generate cells from them."""

from __future__ import annotations

import os
from importlib import import_module
from typing import TYPE_CHECKING, Any

os.environ.setdefault("KERAS_BACKEND", "jax")

if TYPE_CHECKING:
    from vaexprs.data.demo import demo_cells
    from vaexprs.differential_privacy.accounting import Privacy
    from vaexprs.generation.augment import augment
    from vaexprs.generation.generate import gen_exprs
    from vaexprs.generation.generated import Generated
    from vaexprs.generation.interpolate import interpolate
    from vaexprs.generation.transform import transform
    from vaexprs.io.read import read
    from vaexprs.io.write import write
    from vaexprs.metrics.compare import compare
    from vaexprs.metrics.evaluate import evaluate
    from vaexprs.model.load import load_vae
    from vaexprs.model.vae_fit import VAEFit
    from vaexprs.plotting.embedding import plot_aug
    from vaexprs.plotting.model_graph import plot_vae
    from vaexprs.plotting.power import plot_power
    from vaexprs.preprocessing.splits import split
    from vaexprs.privacy.audit import audit_privacy
    from vaexprs.report import write_report
    from vaexprs.studies.design import Design
    from vaexprs.studies.effects import Effects
    from vaexprs.studies.power import power
    from vaexprs.studies.power_table import Power
    from vaexprs.studies.simulate import simulate
    from vaexprs.training.fit import fit_vae

_HOME = {
    "Design": "studies.design",
    "Effects": "studies.effects",
    "Generated": "generation.generated",
    "Power": "studies.power_table",
    "Privacy": "differential_privacy.accounting",
    "VAEFit": "model.vae_fit",
    "audit_privacy": "privacy.audit",
    "augment": "generation.augment",
    "compare": "metrics.compare",
    "demo_cells": "data.demo",
    "evaluate": "metrics.evaluate",
    "fit_vae": "training.fit",
    "gen_exprs": "generation.generate",
    "interpolate": "generation.interpolate",
    "load_vae": "model.load",
    "plot_aug": "plotting.embedding",
    "plot_power": "plotting.power",
    "plot_vae": "plotting.model_graph",
    "power": "studies.power",
    "read": "io.read",
    "simulate": "studies.simulate",
    "split": "preprocessing.splits",
    "transform": "generation.transform",
    "write": "io.write",
    "write_report": "report",
}
__all__ = [
    "Design",
    "Effects",
    "Generated",
    "Power",
    "Privacy",
    "VAEFit",
    "audit_privacy",
    "augment",
    "compare",
    "demo_cells",
    "evaluate",
    "fit_vae",
    "gen_exprs",
    "interpolate",
    "load_vae",
    "plot_aug",
    "plot_power",
    "plot_vae",
    "power",
    "read",
    "simulate",
    "split",
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
