"""write_report: one self-contained HTML page about generated cells."""

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
    """Return `path` if it is named as a page.

    Raises
    ------
    ValueError
        If it does not end in .html.
    """
    path = check_path(path)
    if path.suffix.lower() != SUFFIX:
        raise ValueError(f"The report must end in {SUFFIX}, got {path.name!r}. Try {path.stem + SUFFIX!r}.")
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
    """Write a page on generated cells: how real they look, whether any is a copy, and how they were made.

    It is one HTML file that loads nothing from elsewhere: interactive figures, the tables of `evaluate` and
    `audit_privacy`, the network and its training, and what is needed to repeat the run. It holds names,
    labels and map positions of at most 2,000 real and as many generated cells, and no expression values of
    single cells. Of a set that is on disk and takes more than 64 MiB a random sample is looked at (see
    `evaluate`); the page says so.

    Parameters
    ----------
    fit
        The fit that the cells were generated from.
    generated
        What `gen_exprs` returned, its AnnData or a path.
    real
        Real cells, best such as the model has not seen: AnnData, BiocPy experiment or path.
    path
        The file, which must end in .html.
    train
        The training cells; by default those in the fit, which one loaded from disk does not have. Without
        them copies are not looked for.
    label_key
        Column of `obs` with the label; by default that of the fit.
    donor_key
        Column of `obs` with the donor.
    layer
        Layer of `real` and `train` with the values; by default X.
    seed
        Seed of all that is random.
    overwrite
        Whether an earlier page may be replaced.
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
        If `path` has another suffix, or the cells cannot be compared (see `evaluate`).
    TypeError
        If `fit` or `generated` is of another kind.
    """
    path = check_output(check_suffix(path), overwrite=overwrite)  # before minutes of work
    from vaexprs.model.vae_fit import VAEFit

    if not isinstance(fit, VAEFit):
        raise TypeError(f"fit must be what fit_vae or load_vae returned, got {type(fit).__name__}.")
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
    with written_whole(path, overwrite=overwrite) as beside:
        beside.write_text(render(page), encoding="utf-8")
    return path
