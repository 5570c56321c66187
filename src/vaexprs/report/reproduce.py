"""Code that reproduces the run, and statements on differential privacy, for the report."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from vaexprs.differential_privacy.accounting import Privacy
from vaexprs.differential_privacy.randomness import TEST_SEED
from vaexprs.differential_privacy.usefulness import expectation
from vaexprs.model.vae_fit import VAEFit

# arguments of fit_vae that cannot be written as code; the recipe has their class names only
OBJECTS = (
    "encoder_layers",
    "decoder_layers",
    "optimizer",
    "callbacks",
    "preprocessing",
    "distribution",
    "genes",
)


def privacy_statements(fit: VAEFit) -> list[str]:
    """Return the statements on differential privacy; empty for a fit without a guarantee."""
    from vaexprs.privacy.answers import QUALITY

    if fit.guarantee is None:
        return []
    guarantee = fit.guarantee
    seeded = guarantee.noise_source == TEST_SEED
    training = (
        f"{guarantee.steps:,} steps of training (sampling rate {guarantee.rate:.3g}, noise multiplier "
        f"{guarantee.training:.3g})"
        if guarantee.steps
        else "no training"
    )
    released = (
        f"levels (noise multiplier {guarantee.levels:.3g}, threshold at a delta of "
        f"{guarantee.threshold_delta:.3g}), "
        if guarantee.levels
        else ""
    )
    model = f"According to its metadata, the model {'has' if seeded else 'is'} {guarantee.sentence}"
    scope = "This also holds for everything computed from the model alone, such as generated cells."
    levels = [len(names) for names in fit.preprocessing.conditions.levels.values()]
    low = expectation(guarantee, len(fit.preprocessing.genes), levels)
    return [
        f"{model}. {guarantee.explanation}" if seeded else f"{model}. {guarantee.explanation} {scope}",
        f"Mechanisms: {released}marginals (noise multiplier {guarantee.marginals:.3g}), {training} and "
        f"latent density (noise multiplier {guarantee.density:.3g}); accountant: {guarantee.accountant}.",
        "This report is not differentially private: it was computed from real cells and shows them. Do not "
        "distribute it with the model.",
        *([f"{low} {QUALITY}"] if low else []),
    ]


def code(
    fit: VAEFit,
    recipe: Mapping[str, Any],
    n: int,
    *,
    given: bool,
    label_key: str | None,
    donor_key: str | None,
    layer: str | None,
    seed: int,
) -> str:
    """Return Python code that reproduces the run; arguments missing in the recipes keep their defaults.

    Parameters
    ----------
    fit
        The fit.
    recipe
        Recipe of the generated cells, from ``uns["vaexprs"]``.
    n
        Number of generated cells.
    given
        Whether the training cells were an argument of `write_report`.
    label_key, donor_key, layer, seed
        Other arguments of `write_report`.
    """
    fit_arguments: dict[str, Any] = {"label_key": fit.preprocessing.conditions.label_key}
    objects: dict[str, Any] = {}
    for name, value in dict(fit.recipe.get("arguments", {})).items():
        # a saved model may be untrusted, and users will run this code
        if name.isidentifier():
            (objects if name in OBJECTS else fit_arguments)[name] = value
    fit_arguments.pop("verbose", None)
    privacy = fit_arguments.pop("privacy", None)
    if fit.guarantee is not None and isinstance(privacy, Mapping):
        fit_arguments["privacy"] = Privacy(
            float(privacy["epsilon"]),
            float(privacy["delta"]),
            str(privacy["unit"]),
            levels="private" if fit.guarantee.levels else "public",
        )
    labels = json.loads(str(recipe.get("labels", "{}")) or "{}")
    size = recipe.get("library_size", "real")
    generate_arguments = {
        "labels": labels or None,
        "covariates": json.loads(str(recipe.get("covariates", "{}")) or "{}") or None,
        "donors": json.loads(str(recipe.get("donors", "")) or "null"),
        "conditions": json.loads(str(recipe.get("conditions", "")) or "null"),
        "library_size": None if size == "real" else float(size),
        "seed": int(recipe.get("seed", 0)),
    }
    report_arguments = {"label_key": label_key, "donor_key": donor_key, "layer": layer, "seed": seed}
    first = "fit" if labels or generate_arguments["conditions"] else f"fit, {n}"
    return "\n".join(
        [
            "import vaexprs as vx",
            "",
            'train = vx.read("train.h5ad")  # the training cells',
            'real = vx.read("real.h5ad")  # held-out real cells',
            *(
                f"# {name}: {' '.join(str(v).split())}; pass the original objects"
                for name, v in objects.items()
            ),
            _call("fit = vx.fit_vae", "train", fit_arguments),
            'generated = vx.read("study.h5ad")  # of vx.simulate'
            if "groups" in recipe
            else _call("generated = vx.gen_exprs", first, generate_arguments),
            _call(
                "vx.write_report",
                'fit, generated, real, "report.html"' + (", train=train" if given else ""),
                report_arguments,
            ),
        ]
    )


def _call(function: str, first: str, arguments: Mapping[str, Any]) -> str:
    """Return the code of a function call; arguments that are None are left out."""
    module = {name: "vx." if isinstance(value, Privacy) else "" for name, value in arguments.items()}
    given = [f"{name}={module[name]}{value!r}" for name, value in arguments.items() if value is not None]
    return f"{function}(\n    {first},\n" + "".join(f"    {argument},\n" for argument in given) + ")"
