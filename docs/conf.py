"""Configuration of the documentation build: `sphinx-build -W --keep-going -b html docs docs/_build/html`."""

import os
import re
import shutil
import subprocess
import sys
from importlib.metadata import version as installed
from pathlib import Path

import latex2mathml.converter

# keep compiled programs between the pages, which makes the build faster
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

# run each page when it is built, in a temporary folder
nb_execution_mode = "force"
nb_execution_in_temp = True
nb_execution_raise_on_error = True
nb_execution_timeout = 300
nb_merge_streams = True
nb_output_stderr = "remove"  # progress bars and warnings
nb_mime_priority_overrides = [("html", "image/svg+xml", 0), ("html", "image/png", 1)]

myst_enable_extensions = ["deflist", "dollarmath"]
myst_heading_anchors = 3
# built: files that pages write into the site; code: source pages of sphinx.ext.viewcode
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

# Pages link to files of the repository; these are their places in the site.
MOVED = {
    "../benchmarks/": "benchmarks/",
    "../CHANGELOG.md": "changelog.md",
    "../CONTRIBUTING.md": "contributing.md",
    "../SECURITY.md": "security.md",
}


def _point_into_the_site(app, docname, source):
    """Replace links to files of the repository by links to their pages in the site."""
    up = "../" * docname.count("/")
    for repository, site in MOVED.items():
        source[0] = source[0].replace(f"]({up}{repository}", f"]({up}{site}")
    source[0] = re.sub(rf"\]\({re.escape(up)}\.\./src/vaexprs/([\w/]+)\.py\)", r"](code:\1)", source[0])


def _write_commands(app):
    """Write the page of the command line with Typer."""
    page = Path(app.srcdir, "reference", "cli.md")
    shutil.rmtree(page.parent, ignore_errors=True)  # remove pages of names that no longer exist
    page.parent.mkdir()
    text = subprocess.run(
        [sys.executable, "-m", "typer", "vaexprs.cli", "utils", "docs", "--name", "vaexprs"],
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    page.write_text(text.replace("# `vaexprs`", "# The command line", 1))


def _math(display):
    """Return a visitor that writes formulas as MathML, readable without scripts and by screen readers."""

    def visit(writer, node):
        from docutils import nodes

        written = latex2mathml.converter.convert(node.astext(), display=display)
        if display == "block":  # focusable, so that wide formulas can be scrolled by keyboard
            written = f'<div class="math" tabindex="0" role="group" aria-label="Formula">{written}</div>'
        writer.body.append(written)
        raise nodes.SkipNode

    return visit


def setup(app):
    """Export the output folder, to which pages copy files; register handlers and math renderer."""
    os.environ["VAEXPRS_DOCS_OUT"] = str(app.outdir)
    app.connect("builder-inited", _write_commands, priority=100)
    app.connect("source-read", _point_into_the_site)
    app.add_html_math_renderer("mathml", (_math("inline"), None), (_math("block"), None))


html_math_renderer = "mathml"
