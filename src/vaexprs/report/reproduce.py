"""Code that repeats the run shown in the report."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from vaexprs.differential_privacy.accounting import Privacy
from vaexprs.model.vae_fit import VAEFit

# arguments of fit_vae that code cannot show: the recipe has the names of their classes
OBJECTS = ("encoder_layers", "decoder_layers", "optimizer", "callbacks", "preprocessing", "distribution")


def told(fit: VAEFit) -> list[str]:
    """Return what the page says of differential privacy, a sentence each."""
    if fit.guarantee is None:
        return []
    own = fit.guarantee
    return [
        f"The model says of itself that it is {own.sentence}, data sets with and without the data of one "
        "being told apart. This holds for all that is made of the model alone, generated cells above all.",
        f"Spent on the marginals (noise {own.marginals:.3g} times what one adds), {own.steps:,} steps of "
        f"training (each unit in a step with probability {own.rate:.3g}, noise {own.training:.3g} times) and "
        f"the latent density (noise {own.density:.3g} times); composed by {own.accountant}.",
        "This page is not covered: it was made with real cells, and shows them. Do not hand it out with "
        "the model.",
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
    """Return Python code that repeats the run; what the fit does not tell is left to its defaults.

    Parameters
    ----------
    fit
        The fit.
    recipe
        What ``uns["vaexprs"]`` of the generated cells says.
    n
        Number of generated cells.
    given
        Whether the training cells were an argument of the report.
    label_key, donor_key, layer, seed
        The report's other arguments.
    """
    fitted: dict[str, Any] = {"label_key": fit.preprocessing.conditions.label_key}
    objects: dict[str, Any] = {}
    for name, value in dict(fit.recipe.get("arguments", {})).items():
        if name.isidentifier():  # a saved model may be a stranger's, and this is code that somebody will run
            (objects if name in OBJECTS else fitted)[name] = value
    fitted.pop("verbose", None)
    asked = fitted.pop("privacy", None)
    if fit.guarantee is not None and isinstance(asked, Mapping):
        fitted["privacy"] = Privacy(float(asked["epsilon"]), float(asked["delta"]), str(asked["unit"]))
    labels = json.loads(str(recipe.get("labels", "{}")) or "{}")
    size = recipe.get("library_size", "real")
    drawn = {
        "labels": labels or None,
        "covariates": json.loads(str(recipe.get("covariates", "{}")) or "{}") or None,
        "conditions": json.loads(str(recipe.get("conditions", "")) or "null"),
        "library_size": None if size == "real" else float(size),
        "stratified": None if recipe.get("stratified", True) else False,
        "seed": int(recipe.get("seed", 0)),
    }
    told = {"label_key": label_key, "donor_key": donor_key, "layer": layer, "seed": seed}
    first = "fit" if labels or drawn["conditions"] else f"fit, {n}"
    return "\n".join(
        [
            "import vaexprs as vx",
            "",
            'train = vx.read("train.h5ad")  # the training cells',
            'real = vx.read("real.h5ad")  # real cells that the model has not seen',
            *(f"# {name}: {' '.join(str(v).split())}; give them as they were" for name, v in objects.items()),
            _call("fit = vx.fit_vae", "train", fitted),
            _call("generated = vx.gen_exprs", first, drawn),
            _call(
                "vx.write_report",
                'fit, generated, real, "report.html"' + (", train=train" if given else ""),
                told,
            ),
        ]
    )


def _call(function: str, first: str, arguments: Mapping[str, Any]) -> str:
    module = {name: "vx." if isinstance(value, Privacy) else "" for name, value in arguments.items()}
    given = [f"{name}={module[name]}{value!r}" for name, value in arguments.items() if value is not None]
    return f"{function}(\n    {first},\n" + "".join(f"    {argument},\n" for argument in given) + ")"
