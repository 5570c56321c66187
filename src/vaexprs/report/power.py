"""`write_power`: a self-contained HTML page on the power of planned studies."""

from __future__ import annotations

import io
import os
import platform
from collections.abc import Mapping
from importlib import resources
from importlib.metadata import version
from pathlib import Path
from typing import Any

from markupsafe import Markup

from vaexprs.interface import html as markup
from vaexprs.io.atomic import check_output, written_whole
from vaexprs.plotting.power import plot_power
from vaexprs.report import check_suffix
from vaexprs.report.comparison import POLICY
from vaexprs.studies.expression_tests import TESTS
from vaexprs.studies.power_table import Power
from vaexprs.studies.replicates import EXPRESSION

PACKAGES = ("vaexprs", "numpy", "scipy")  # packages whose versions are shown


def write_power(
    power: Power,
    path: str | os.PathLike[str],
    *,
    settings: Mapping[str, Any] | None = None,
    overwrite: bool = False,
) -> Path:
    """Write an HTML page on the result of `power`: its sentences, figure and tables.

    The page is one HTML file without scripts or external resources. It contains the name of the label, and
    no names of genes or donors.

    Parameters
    ----------
    power
        Result of `power`.
    path
        File to write, ending in .html.
    settings
        Names and values of further settings to show.
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
    text = render_power(power, settings or {})
    with written_whole(path, overwrite=overwrite) as temporary:
        temporary.write_text(text, encoding="utf-8")
    return path


def render_power(power: Power, settings: Mapping[str, Any]) -> str:
    """Return the HTML of the page.

    Parameters
    ----------
    power
        Result of `power`.
    settings
        Names and values of further settings to show.
    """
    svg = io.StringIO()
    plot_power(power).savefig(svg, format="svg", metadata={"Date": None})
    by_expression = power.by_expression["power"].to_numpy().reshape(-1, len(EXPRESSION))
    quarters = [
        row | dict(zip(EXPRESSION, of_design, strict=True))
        for row, of_design in zip(markup.records(power.table), by_expression, strict=True)
    ]
    effects, settings = power.effects, dict(settings)
    several = isinstance(effects.genes, (int, float))
    settings |= {
        "label": power.label,
        "test": TESTS[power.test].title,
        "false discovery rate": f"{power.fdr:g}",
        "altered genes": effects.genes if several else f"{len(effects.genes)} given genes",  # type: ignore[arg-type]
        "standard deviation of log2 fold changes": f"{effects.sd:g}",
        "direction": effects.direction,
        "minimum mean count of altered genes": f"{effects.min_mean:g}",
        "seed": power.seed,
    }
    return markup.render(
        "report/power.html",
        title="Power of planned studies" + (f" of {power.label}" if power.label is not None else ""),
        policy=POLICY,
        style=Markup(resources.files("vaexprs.report").joinpath("style.css").read_text(encoding="utf-8")),
        sentences=power.sentences,
        figure=markup.data_uri(svg.getvalue()),
        rows=markup.records(power.table),
        quarters=quarters,
        expression=EXPRESSION,
        recipe={
            "Settings": {str(name): str(value) for name, value in settings.items() if value is not None},
            "Versions": {name: version(name) for name in PACKAGES} | {"Python": platform.python_version()},
        },
    )
