"""`write_report`: a self-contained HTML page about generated cells."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vaexprs.interface.validation import check_integer, check_path
from vaexprs.io.atomic import check_output, written_whole

if TYPE_CHECKING:
    import anndata as ad

    from vaexprs.generation.generated import Generated
    from vaexprs.model.vae_fit import VAEFit


SUFFIX = ".html"


def check_suffix(path: str | os.PathLike[str]) -> Path:
    """Return `path` as a Path.

    Raises
    ------
    ValueError
        If it does not end in .html.
    """
    path = check_path(path)
    if path.suffix.lower() != SUFFIX:
        raise ValueError(
            f"The name of the report must end in {SUFFIX}, got {path.name!r}. Try {path.stem + SUFFIX!r}."
        )
    return path


def write_report(
    fit: VAEFit,
    generated: Generated | ad.AnnData | str | os.PathLike[str],
    real: Any,
    path: str | os.PathLike[str],
    *,
    train: Any = None,
    label_key: str | None = None,
    donor_key: str | None = None,
    layer: str | None = None,
    seed: int = 0,
    overwrite: bool = False,
    progress: bool = True,
) -> Path:
    """Write an HTML report on generated cells: similarity to real cells, copies, and provenance.

    The report is one HTML file without external resources: interactive figures, the tables of `evaluate` and
    `audit_privacy`, the network and its training, and the code and settings to reproduce the run. It contains
    names, labels and embedding coordinates of at most 2,000 real and 2,000 generated cells, and no expression
    values of single cells. A set on disk that takes more than 64 MiB is evaluated on a random sample (see
    `evaluate`); the report says so.

    Parameters
    ----------
    fit
        The fit that the cells were generated from.
    generated
        Result of `gen_exprs`, its AnnData or a path.
    real
        Real cells, preferably held out from training: AnnData, BiocPy experiment or path.
    path
        File to write, ending in .html.
    train
        Training cells (default: those in the fit; a fit loaded from disk has none). Without them, copies of
        training cells cannot be detected.
    label_key
        Column of `obs` with the label (default: the label key of the generated cells or the fit).
    donor_key
        Column of `obs` with the donor.
    layer
        Layer of `real` and `train` with the values (default: X).
    seed
        Random seed.
    overwrite
        Whether to replace an existing file.
    progress
        Whether to show a progress bar.

    Returns
    -------
    The path.

    Raises
    ------
    FileExistsError
        If `path` exists and `overwrite` is false.
    ValueError
        If `path` does not end in .html, or the cells cannot be compared (see `evaluate`).
    TypeError
        If `fit` or `generated` has the wrong type.
    """
    path = check_output(check_suffix(path), overwrite=overwrite)  # before minutes of computation
    from vaexprs.model.vae_fit import VAEFit

    if not isinstance(fit, VAEFit):
        raise TypeError(f"fit must be the result of fit_vae or load_vae, got {type(fit).__name__}.")
    seed = check_integer("seed", seed, 0)

    from vaexprs.report.collect import gather
    from vaexprs.report.render import render

    page = gather(
        fit,
        generated,
        real,
        train=train,
        label_key=label_key,
        donor_key=donor_key,
        layer=layer,
        seed=seed,
        progress=progress,
    )
    with written_whole(path, overwrite=overwrite) as temporary:
        temporary.write_text(render(page), encoding="utf-8")
    return path
