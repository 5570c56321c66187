"""Record what a fit was made from: arguments, data and package versions."""

from __future__ import annotations

import hashlib
import inspect
from collections.abc import Callable, Mapping
from importlib.metadata import version
from typing import Any

import anndata as ad
import numpy as np
import pandas as pd

from vaexprs.data.backed import BackedCells
from vaexprs.differential_privacy.accounting import Privacy
from vaexprs.io.convert import fingerprint
from vaexprs.preprocessing.prepare import Preprocessing
from vaexprs.preprocessing.summary import Summary
from vaexprs.training.schedule import Schedule

DATA_ARGUMENTS = ("object", "x_train", "x_val", "y_train", "y_val")
# arguments that say where a fit runs and where its state is saved, but do not change its result
EXECUTION_ARGUMENTS = ("distribution", "checkpoint", "checkpoint_minutes", "checkpoint_steps", "resume")


def recorded_arguments(function: Callable[..., Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """Return the arguments of a fit that differ from the defaults, as JSON values.

    Parameters
    ----------
    function
        The function whose signature has the defaults.
    given
        Its arguments by name; those for Keras as a mapping under "fit_arguments".
    """
    unrecorded = (*DATA_ARGUMENTS, *EXECUTION_ARGUMENTS, "genes", "fit_arguments")
    arguments = {
        name: given[name]
        for name, parameter in inspect.signature(function).parameters.items()
        if name not in unrecorded and not _is_default(given[name], parameter.default)
    }
    if given.get("genes") is not None:  # the model has their names
        arguments["genes"] = f"{len(given['genes']):,} names"
    return {name: _as_json(value) for name, value in (arguments | given["fit_arguments"]).items()}


def _is_default(value: Any, default: Any) -> bool:
    return value is default or bool(np.isscalar(value) and value == default)


def _as_json(value: Any) -> Any:
    """Return plain values unchanged, lists of them as lists, and other objects as their class names."""
    if isinstance(value, (str, bool, int, float)) or value is None:
        return value
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, (list, tuple, np.ndarray, pd.Index)):
        return [_as_json(part) for part in value]
    if isinstance(value, Privacy):
        return value.asked
    return type(value).__name__


def fit_identity(
    arguments: Mapping[str, Any],
    prepared: Preprocessing,
    latent_dim: int,
    schedule: Schedule,
    summary: Summary,
    seed: int,
) -> dict[str, Any]:
    """Return what must be equal in all processes of a fit and in a fit that is resumed."""
    shown = ("verbose", "callbacks")
    continuous = {key: spline.to_dict() for key, spline in prepared.conditions.continuous.items()}
    given = {name: value for name, value in arguments.items() if name not in shown}
    return (
        given
        | ({"continuous": continuous} if continuous else {})
        | {
            "version": version("vaexprs"),
            "data": summary.digest(),
            "genes": hashlib.sha256("\n".join(prepared.genes).encode()).hexdigest(),
            "levels": {key: list(levels) for key, levels in prepared.conditions.levels.items()},
            "latent_dim": latent_dim,
            "batch_size": schedule.batch_size,
            "epochs": schedule.epochs,
            "seed": seed,
        }
    )


def fit_recipe(
    arguments: Mapping[str, Any],
    cells: ad.AnnData | BackedCells | None,
    *,
    interrupted: bool,
    diverged: str = "",
    choices: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """Return what is needed to repeat a fit, as JSON values.

    Parameters
    ----------
    arguments
        As `recorded_arguments` returns them.
    cells
        The training cells, whose size and file name or hash are recorded; None to record neither.
    interrupted
        Whether training was stopped by Ctrl-C.
    diverged
        The message about divergence; empty if training converged.
    choices
        Arguments chosen from the cells, with the reason for each choice.
    """
    recipe: dict[str, Any] = {
        "arguments": dict(arguments),
        "versions": {name: version(name) for name in ("vaexprs", "keras", "jax", "numpy")},
    }
    if choices:
        recipe["choices"] = dict(choices)
    if cells is not None:
        recipe["data"] = {"cells": cells.n_obs, "genes": cells.n_vars}
    if isinstance(cells, BackedCells):
        recipe["data"]["file"] = cells.X.path.name
    elif cells is not None:
        recipe["data"]["sha256"] = fingerprint(cells)
    if interrupted:
        recipe["interrupted"] = True
    if diverged:
        recipe["diverged"] = diverged
    return recipe
