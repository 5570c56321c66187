"""What results show of themselves in a notebook, and how progress is told where nobody looks on."""

import re
import subprocess
import sys
from html.parser import HTMLParser

import pandas as pd
import pytest

import vaexprs as vx
from vaexprs.interface import html as markup

EVIL = "<img src=x onerror=alert(1)>&\"'"


class Read(HTMLParser):
    """Collects tags with their attributes, and the text."""

    def __init__(self, html):
        super().__init__()
        self.tags, self.text, self._open = [], "", []
        self.feed(html)

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        self.text += " " if tag in ("td", "th") else ""
        if tag not in ("img", "circle", "path", "rect", "polyline"):
            self._open.append(tag)

    def handle_endtag(self, tag):
        if tag in self._open:
            assert self._open.pop() == tag, f"{tag} closes another element"

    def handle_data(self, text):
        if "style" not in self._open:
            self.text += text

    def having(self, tag):
        return [attributes for name, attributes in self.tags if name == tag]

    def words(self):
        assert self._open == []
        return re.sub(r"\s+", " ", self.text)


@pytest.fixture(scope="module")
def odd(few):
    """A fit and cells of it, with labels, genes and a column that hold HTML."""
    cells = few.copy()
    cells.var_names = [EVIL, *cells.var_names[1:]]
    names = cells.obs["cell_type"].astype(str).replace({"CD56+ NK": EVIL})
    cells.obs[EVIL] = pd.Categorical(names)
    fit = vx.fit_vae(cells, label_key=EVIL, epochs=2, verbose=0)
    return fit, vx.gen_exprs(fit, labels={EVIL: 30, "Dendritic": 12}, seed=3, library_size=400)


def test_a_fit_shows_its_numbers(conditional):
    page = Read(conditional._repr_html_())
    words = page.words()
    assert "VAEFit 765 genes, 700 cells, likelihood nb, 10 latent dimensions, seed 0" in words
    assert "Dendritic 240" in words
    assert "cell_type level training cells" in words
    losses = conditional.history["loss"]
    assert f"{len(losses)} epochs, loss {losses[-1]:.0f}, kl" in words
    assert page.having("svg")[0]["aria-label"].startswith("Loss by epoch, from ")
    assert repr(conditional).startswith("VAEFit: 765 genes, 700 cells")


def test_cells_show_how_many_of_each_label(generated):
    words = Read(generated._repr_html_()).words()
    assert (
        "Generated 400 cells \N{MULTIPLICATION SIGN} 765 genes, whole counts, likelihood nb, seed 1" in words
    )
    numbers = generated.adata.obs["cell_type"].value_counts()
    for label in ("Dendritic", "CD34+"):
        real = (generated.y_train == label).sum()
        assert f"{label} {numbers[label]} {real} " in words
    assert "real cells" in words


def test_names_are_text_whatever_they_hold(odd):
    fit, gen = odd
    for result in (fit, gen, vx.plot_vae(fit)):
        page = Read(result._repr_html_())
        assert not [a for tag, a in page.tags if "onerror" in a or tag == "script"]
    assert EVIL in Read(fit._repr_html_()).words()
    assert f"{EVIL} 30 30 Dendritic 12 30" in Read(gen._repr_html_()).words()
    assert "400 counts" in Read(gen._repr_html_()).words()


def test_many_levels_are_cut():
    found = markup.levels({f"donor {i}": (i,) for i in range(40)})
    assert [name for name, _ in found["rows"][:2]] == ["donor 39", "donor 38"]
    assert (len(found["rows"]), found["more"]) == (12, 28)


def test_cells_on_disk_name_their_file(conditional, tmp_path):
    gen = vx.gen_exprs(conditional, 20, out=tmp_path / "many.h5ad")
    assert str(tmp_path / "many.h5ad") in Read(gen._repr_html_()).words()


def test_the_scorecard_answers_and_stays_a_table(cells, generated):
    only = ["gene_means", "library_size_ratio", "detected_genes_ratio"]
    table = vx.evaluate(generated, cells, only=only, progress=False, resamples=3)
    page = Read(table._repr_html_())
    assert "Do they look real?" in page.words()
    assert "Gene means (largest differences) " in page.words()
    assert f"{len(table)} rows" in page.words()
    assert len(page.having("table")) == 1
    assert all(cell.get("scope") in ("row", "col") for cell in page.having("th"))
    part = table[table["label"] == "all"]
    assert type(part) is pd.DataFrame
    assert "<table" in part._repr_html_()
    del table["verdict"]
    assert "Do they look real?" not in table._repr_html_()
    assert "gene_means" in table._repr_html_()


def test_the_audit_answers(cells):
    train, holdout = cells[::2], cells[1::2]
    table = vx.audit_privacy(holdout, train, cells[1::4], label_key="cell_type")
    words = Read(table._repr_html_()).words()
    assert "Did it copy its training cells?" in words
    assert "Exact copies" in words
    assert type(table.head(2)) is pd.DataFrame


def test_the_graph_has_words_for_those_who_do_not_see_it(conditional, monkeypatch):
    graph = vx.plot_vae(conditional)
    assert re.match(r'ModelGraph: 10 layers.*save\("model\.svg"\)', repr(graph))
    (picture,) = Read(graph._repr_html_()).having("img")
    assert "z_mean, z_log_stddev, latent" in picture["alt"]
    assert picture["src"].startswith("data:image/svg+xml;base64,")
    monkeypatch.setitem(sys.modules, "pygraphviz", None)  # as where its shared library is missing
    words = Read(graph._repr_html_()).words()
    assert "Graphviz" in words
    assert "pip install --force-reinstall pygraphviz" in words
    assert "z_log_stddev" in words


def test_a_log_gets_lines_and_not_a_moving_bar():
    code = """
import time
from vaexprs.interface import progress
progress.SECONDS_PER_LINE = 0.2
with progress.progress_bar(40, "fitting", "step") as bar:
    for _ in range(40):
        time.sleep(0.02)
        bar.update()
with progress.progress_bar(3, "hidden", "step", shown=False) as bar:
    bar.update(3)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True)
    assert b"\r" not in done.stderr
    lines = done.stderr.decode().splitlines()
    assert lines[0].startswith("fitting:   0% of 40 steps")
    assert lines[-1].startswith("fitting: 100% of 40 steps")
    assert 3 <= len(lines) < 12
    assert "hidden" not in done.stderr.decode()


@pytest.mark.slow
def test_a_notebook_shows_results_and_bars():
    nbformat = pytest.importorskip("nbformat", reason="Jupyter is not installed")
    nbclient = pytest.importorskip("nbclient", reason="Jupyter is not installed")
    pytest.importorskip("ipykernel", reason="Jupyter is not installed")
    cells = [
        "import vaexprs as vx\nfit = vx.fit_vae(vx.demo_cells()[:60, :40].copy(), epochs=2)",
        "fit",
    ]
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(code) for code in cells])
    nbclient.NotebookClient(notebook, timeout=300, kernel_name="python3").execute()
    told = str(notebook.cells[0].outputs)
    assert "fitting:   0%|" in told
    assert "elapsed" not in told
    (shown,) = notebook.cells[1].outputs
    assert shown["data"]["text/plain"].startswith("VAEFit: 40 genes, 60 cells")
    assert "covariates" in shown["data"]["text/html"]
