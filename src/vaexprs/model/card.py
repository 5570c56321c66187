"""Description of a fitted model, as JSON values, as text and as a model card."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from vaexprs.model.vae_fit import VAEFit

CARD = "README.md"  # file name of the model card in the folder of a saved model
MAX_LEVELS = 30  # maximum number of levels of a condition that the card and the text list
MAX_GENES = 5  # number of genes that the card and the text name
NO_GUARANTEE = (
    "None: the model was fitted without differential privacy. Whoever has it may identify training cells; "
    "`vaexprs audit` tests only generated cells."
)


def describe(fit: VAEFit) -> dict[str, Any]:
    """Return the properties of a model as JSON values.

    They are taken from what `VAEFit.save` writes, so they contain nothing about the training cells that the
    saved model does not contain.

    Parameters
    ----------
    fit
        The model.

    Returns
    -------
    dict with the keys
        ``genes``, ``label_key``, ``labels`` (number of training cells by label), ``covariates`` (the same by
        covariate), ``donor_key``, ``donors``, ``continuous`` (range and degrees of freedom), ``likelihood``,
        ``counts``, ``latent_dim``, ``cells``, ``guarantee``, ``explanation``, ``epochs``, ``last_loss``,
        ``seed`` and ``recipe``. With privacy the numbers of cells are noisy, and ``cells`` is the number of
        units.
    """
    conditions, guarantee = fit.preprocessing.conditions, fit.guarantee
    donor_key = None if fit.donors is None else fit.donors.key
    losses = fit.history.get("loss", [])
    return {
        "genes": list(map(str, fit.genes)),
        "label_key": conditions.label_key,
        "labels": {} if conditions.label_key is None else fit.cells_of(conditions.label_key),
        "covariates": {
            key: fit.cells_of(key) for key in fit.levels if key not in (conditions.label_key, donor_key)
        },
        "donor_key": donor_key,
        "donors": {} if donor_key is None else fit.cells_of(donor_key),
        "continuous": {
            key: {"low": spline.low, "high": spline.high, "degrees": spline.degrees}
            for key, spline in conditions.continuous.items()
        },
        "likelihood": fit.likelihood.name,
        "counts": bool(fit.likelihood.counts),
        "latent_dim": fit.latent_dim,
        "cells": int(fit.density.cells.sum()) if guarantee is None else guarantee.units,
        "guarantee": None if guarantee is None else guarantee.sentence,
        "explanation": "" if guarantee is None else guarantee.explanation,
        "epochs": len(losses),
        "last_loss": losses[-1] if losses else None,
        "seed": fit.seed,
        "recipe": dict(fit.recipe),
    }


def sections(fit: VAEFit) -> dict[str, list[str]]:
    """Return the description as lines of text by heading, for the card and for `vaexprs info`."""
    found = describe(fit)
    genes, private = found["genes"], found["guarantee"] is not None
    more = f", ... ({len(genes) - MAX_GENES:,} more)" if len(genes) > MAX_GENES else ""
    lines: dict[str, list[str]] = {
        "Genes": [f"{len(genes):,}: {', '.join(map(_name, genes[:MAX_GENES]))}{more}"],
    }
    unit = "noisy numbers of cells" if private else "numbers of training cells"
    if found["label_key"] is not None:
        lines[f"Labels: {_name(found['label_key'])} ({unit})"] = _levels(found["labels"])
    for key, levels in found["covariates"].items():
        lines[f"Covariate: {_name(key)} ({unit})"] = _levels(levels)
    if found["donor_key"] is not None:
        lines["Donors"] = [f"{len(found['donors']):,} in {_name(found['donor_key'])}"]
    if found["continuous"]:
        splines = fit.preprocessing.conditions.continuous
        lines["Continuous covariates"] = [
            *(f"{_name(key)}: {spline}" for key, spline in splines.items()),
            "the model contains quantiles of them, which may be values of training cells",
        ]
    size = f"{fit.guarantee.units:,} units" if fit.guarantee is not None else f"{found['cells']:,} cells"
    loss = "" if found["last_loss"] is None else f", last loss {found['last_loss']:.1f}"
    steps = (
        f"{fit.guarantee.steps:,} steps"
        if fit.guarantee is not None
        else f"{found['epochs']:,} epoch{'s' if found['epochs'] != 1 else ''}"
    )
    lines["Model"] = [
        f"likelihood {found['likelihood']} of {'counts' if found['counts'] else 'continuous values'}",
        f"{found['latent_dim']} latent dimensions",
        f"fitted to {size} in {steps}{loss}, seed {found['seed']}",
    ]
    lines["Privacy guarantee"] = [found["guarantee"] or NO_GUARANTEE, *filter(None, [found["explanation"]])]
    lines["How it was made"] = _made_by(found["recipe"]) or ["not recorded"]
    return lines


def as_text(fit: VAEFit) -> str:
    """Return the description for the terminal."""
    return "\n".join(
        f"{heading}\n" + "\n".join(f"    {line}" for line in lines)
        for heading, lines in sections(fit).items()
    )


def model_card(fit: VAEFit) -> str:
    """Return the model card in Markdown, which `VAEFit.save` writes into the folder of the model."""
    label = next((name for name in describe(fit)["labels"] if name.isprintable() and "`" not in name), None)
    only = "" if label is None else f", labels={label!r}"
    parts = [
        "# Model of gene expression",
        "A (conditional) variational autoencoder fitted with vaexprs. It generates cells; this folder "
        "contains no training cells. This description is not read when the model is loaded.",
        "```python\nimport vaexprs as vx\n\nfit = vx.load_vae('FOLDER')  # path of this folder\n"
        f"cells = vx.gen_exprs(fit, 100{only}).adata\n```",
    ]
    for heading, lines in sections(fit).items():
        parts.append(f"## {_escaped(heading)}\n\n" + "\n".join(f"* {_escaped(line)}" for line in lines))
    return "\n\n".join(parts) + "\n"


def _levels(cells: Mapping[str, int]) -> list[str]:
    """Return a line for each level, those with the most cells first."""
    shown = sorted(cells.items(), key=lambda item: -item[1])
    lines = [f"{_name(level)}: {n:,}" for level, n in shown[:MAX_LEVELS]]
    return lines + ([f"and {len(shown) - MAX_LEVELS:,} more"] if len(shown) > MAX_LEVELS else [])


def _made_by(recipe: Mapping[str, Any]) -> list[str]:
    """Return the recipe of a fit as lines: training data, arguments, choices, versions and warnings."""
    data, lines = recipe.get("data", {}), []
    if data:
        source = f"SHA-256 {data['sha256']}" if "sha256" in data else f"file {data.get('file', 'unknown')}"
        size = " x ".join(f"{int(data[part]):,} {part}" for part in ("cells", "genes") if part in data)
        lines.append(f"training data: {size}, {source}")
    for part in ("arguments", "choices", "versions"):
        lines += [f"{name}: {value}" for name, value in recipe.get(part, {}).items() if name != "verbose"]
    if recipe.get("interrupted"):
        lines.append("training was interrupted")
    if recipe.get("diverged"):
        lines.append(str(recipe["diverged"]))
    return [_name(line) for line in lines]


def _name(text: object) -> str:
    """Return text with control characters written as escape sequences."""
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in str(text))


def _escaped(text: str) -> str:
    """Return text with the characters escaped that have a meaning in Markdown or HTML."""
    parts = re.split(r"(`vaexprs audit`)", text)
    return "".join(
        part if i % 2 else re.sub(r"([\\`*_\[\]<>|#])", r"\\\1", part) for i, part in enumerate(parts)
    )
