"""`write_comparison`: a self-contained HTML page that compares generators."""

from __future__ import annotations

import os
import platform
from collections.abc import Mapping
from importlib import resources
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pandas as pd
from markupsafe import Markup

from vaexprs.interface import html as markup
from vaexprs.io.atomic import check_output, written_whole
from vaexprs.metrics.compare import view
from vaexprs.metrics.registry import QUESTIONS
from vaexprs.report import check_suffix

# Content-Security-Policy of the page: no scripts run, nothing is loaded
POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:; base-uri 'none'; form-action 'none'"
PACKAGES = ("vaexprs", "numpy", "anndata", "scikit-learn")  # packages whose versions are shown


def write_comparison(
    table: pd.DataFrame,
    path: str | os.PathLike[str],
    *,
    settings: Mapping[str, Any] | None = None,
    overwrite: bool = False,
) -> Path:
    """Write an HTML page on the table of `compare`.

    The page is one HTML file without scripts or external resources. It contains names of generators and
    labels, and no values of single cells.

    Parameters
    ----------
    table
        The table returned by `compare`.
    path
        File to write, ending in .html.
    settings
        Names and values of settings to show, such as files and arguments.
    overwrite
        Whether to replace an existing file.

    Returns
    -------
    The path.

    Raises
    ------
    FileExistsError
        If `path` exists and `overwrite` is false.
    ValueError
        If `path` does not end in .html.
    """
    path = check_output(check_suffix(path), overwrite=overwrite)
    text = render_comparison(table, settings or {})
    with written_whole(path, overwrite=overwrite) as temporary:
        temporary.write_text(text, encoding="utf-8")
    return path


def render_comparison(table: pd.DataFrame, settings: Mapping[str, Any]) -> str:
    """Return the HTML of the page.

    Parameters
    ----------
    table
        The table returned by `compare`.
    settings
        Names and values of settings to show.
    """
    shown = view(table)
    groups = [
        {"question": text, "rows": [row for row in shown["metrics"] if row["question"] == question]}
        for question, text in QUESTIONS.items()
    ]
    n = len(shown["generators"]) - len(shown["controls"])
    cells = [size for name, size in table.attrs["cells"].items() if name not in shown["controls"]]
    return markup.render(
        "report/comparison.html",
        title=f"Comparison of {n} generator{'' if n == 1 else 's'}",
        policy=POLICY,
        style=Markup(resources.files("vaexprs.report").joinpath("style.css").read_text(encoding="utf-8")),
        groups=[group for group in groups if group["rows"]],
        facts={
            "Generators": f"{n:,}",
            "Cells per side": " to ".join(f"{size:,}" for size in sorted({min(cells), max(cells)})),
            "Labels": f"{len(shown['labels']):,}",
        },
        recipe={
            "Settings": {str(name): str(value) for name, value in settings.items() if value is not None},
            "Versions": {name: version(name) for name in PACKAGES} | {"Python": platform.python_version()},
        },
        **shown,
    )
