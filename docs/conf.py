"""How the documentation is built: `sphinx-build -W --keep-going -b html docs docs/_build/html`."""

import os
import shutil
import subprocess
import sys
from importlib.metadata import version as installed
from pathlib import Path

import latex2mathml.converter

# what pages run sees the same as its reader would, and compiled programs are kept between the pages
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
os.environ["VAEXPRS_REPOSITORY"] = str(Path(__file__).parents[1])

project = "vaexprs"
author = "The vaexprs developers"
release = installed("vaexprs")
version = release
language = "en"

extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
    "sphinx_copybutton",
]
exclude_patterns = ["_build", "**.ipynb_checkpoints"]

html_theme = "sphinx_book_theme"
html_title = "vaexprs"
html_static_path = ["_static"]
html_css_files = ["vaexprs.css"]
html_js_files = ["vaexprs.js"]
html_theme_options = {
    "show_toc_level": 2,
    "navbar_persistent": [],
    "use_download_button": False,
    "use_fullscreen_button": False,
    "pygments_light_style": "a11y-high-contrast-light",
    "pygments_dark_style": "a11y-high-contrast-dark",
}
html_copy_source = False
html_show_sourcelink = False

# every page is run when it is built, in a folder of its own that is then thrown away
nb_execution_mode = "force"
nb_execution_in_temp = True
nb_execution_raise_on_error = True
nb_execution_timeout = 300
nb_merge_streams = True
nb_output_stderr = "remove"  # progress bars; a page that shows a warning says so
nb_mime_priority_overrides = [("html", "image/svg+xml", 0), ("html", "image/png", 1)]

myst_enable_extensions = ["deflist", "dollarmath"]
myst_heading_anchors = 3
# what is made by the build is linked to as it will lie beside the pages
myst_url_schemes = {
    "http": None,
    "https": None,
    "mailto": None,
    "built": "{{path}}",
    "code": "_modules/vaexprs/{{path}}.html",
}

autosummary_generate = True
autodoc_typehints = "description"
autodoc_typehints_description_target = "documented"
autodoc_member_order = "bysource"
autodoc_preserve_defaults = True
napoleon_google_docstring = False
napoleon_use_rtype = False
copybutton_exclude = ".linenos, .gp, .go"

# Pages say where things lie in the repository, so that their links work there too.
MOVED = {
    "../src/vaexprs/": "code:",
    "../benchmarks/": "benchmarks/",
    "../CHANGELOG.md": "changelog.md",
    "../CONTRIBUTING.md": "contributing.md",
    "../SECURITY.md": "security.md",
}


def _point_into_the_site(app, docname, source):
    up = "../" * docname.count("/")
    for repository, site in MOVED.items():
        to = site if site.startswith("code:") else up + site
        source[0] = source[0].replace(f"]({up}{repository}", f"]({to}")


def _write_commands(app):
    """Write the page of the command line, as Typer tells it."""
    page = Path(app.srcdir, "reference", "cli.md")
    shutil.rmtree(page.parent, ignore_errors=True)  # pages of names that there were
    page.parent.mkdir()
    told = subprocess.run(
        [sys.executable, "-m", "typer", "vaexprs.cli", "utils", "docs", "--name", "vaexprs"],
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    told = told.replace("# `vaexprs`", "# The command line", 1)
    page.write_text(told)


def _math(display):
    """Return a visitor that writes formulas as MathML: no script, and screen readers read it."""

    def visit(writer, node):
        from docutils import nodes

        written = latex2mathml.converter.convert(node.astext(), display=display)
        if display == "block":  # wide ones are scrolled, also by keyboard
            written = f'<div class="math" tabindex="0" role="group" aria-label="Formula">{written}</div>'
        writer.body.append(written)
        raise nodes.SkipNode

    return visit


def setup(app):
    """Say where the build lies, for pages that leave a file there; add the renderer of formulas."""
    os.environ["VAEXPRS_DOCS_OUT"] = str(app.outdir)
    app.connect("builder-inited", _write_commands, priority=100)
    app.connect("source-read", _point_into_the_site)
    app.add_html_math_renderer("mathml", (_math("inline"), None), (_math("block"), None))


html_math_renderer = "mathml"
