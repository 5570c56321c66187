"""The page that compares generators: its tables are those of `compare`, it loads nothing, text is escaped."""

import re
from html.parser import HTMLParser

import numpy as np
import pandas as pd
import pytest

import vaexprs as vx
from vaexprs.report.comparison import render_comparison, write_comparison

HOSTILE = "</th><script>alert(1)</script>"


class Page(HTMLParser):
    """Elements with their attributes, and the cells of each table as text."""

    def __init__(self, text):
        super().__init__()
        self.elements, self.tables, self.values = [], {}, {}
        self._rows = self._cell = None
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        attributes = dict(attributes)
        self.elements.append((tag, attributes))
        if tag == "table":
            self._rows = self.tables.setdefault(attributes.get("id", len(self.tables)), [])
        elif tag == "tr" and self._rows is not None:
            self._rows.append([])
            self.values.setdefault(attributes.get("data-metric"), [])
            self._metric = attributes.get("data-metric")
        elif tag in ("th", "td") and self._rows is not None:
            self._rows[-1].append("")
            self._cell = True
            if "data-value" in attributes:
                self.values[self._metric].append(attributes["data-value"])

    def handle_endtag(self, tag):
        if tag in ("th", "td"):
            self._cell = None
        if tag == "table":
            self._rows = None

    def handle_data(self, data):
        if self._cell and self._rows:
            self._rows[-1][-1] = f"{self._rows[-1][-1]} {data.strip()}".strip()


@pytest.fixture(scope="module")
def table(few):
    fresh, real, train = (few[np.arange(few.n_obs) // 4 % 3 == i].copy() for i in range(3))
    generated = {"mixed": train, HOSTILE: fresh}
    generated["mixed"].X = generated["mixed"].X[::-1]
    return vx.compare(
        generated,
        real,
        train=few[np.arange(few.n_obs) // 4 % 3 == 2],
        label_key="cell_type",
        only=["gene_means", "deviance_ratio", "recall_real_to_generated"],
        resamples=3,
        controls=True,
        progress=False,
    )


@pytest.fixture(scope="module")
def text(table):
    return render_comparison(table, {"--seed": 0, "--layer": None})


def test_the_tables_are_those_of_compare(table, text):
    page = Page(text)
    names = list(table.attrs["answers"])
    assert page.tables["answers-table"][0] == ["Question", *names]
    assert [row[0] for row in page.tables["answers-table"][1:]] == [
        "Do they look real?",
        "Is each type right?",
    ]
    words = {"green": "good", "amber": "fair", "red": "poor", "unknown": "not judged"}
    for i, row in enumerate(page.tables["answers-table"][1:]):
        for name, cell in zip(names, row[1:], strict=True):
            _, light, sentence = table.attrs["answers"][name][i]
            assert cell == f"{words[light]} {sentence}"
    of_all = pd.DataFrame(table[table["label"] == "all"]).pivot(
        index="metric", columns="generator", values="value"
    )
    for metric in ("gene_means", "deviance_ratio", "recall_real_to_generated"):
        assert [float(value) for value in page.values[metric]] == list(of_all.loc[metric, names])
    labels = {row[0]: row[1:] for row in page.tables["label-table"][1:]}
    assert set(labels) == {label for lights in table.attrs["label_lights"].values() for label in lights}
    for label, cells in labels.items():
        lights = [table.attrs["label_lights"][name].get(label, "unknown") for name in names]
        assert cells == ["not judged" if light == "unknown" else words[light] for light in lights]


def test_notes_settings_and_versions(table, text):
    for notes in table.attrs["notes"].values():
        for note in notes:
            assert note.replace("'", "&#39;") in text
    rows = [row for name, rows in Page(text).tables.items() if isinstance(name, int) for row in rows]
    assert ["--seed", "0"] in rows
    assert "--layer" not in text
    assert ["vaexprs", vx.__version__] in rows


def test_nothing_is_loaded_and_text_is_escaped(text):
    page = Page(text)
    tags = {tag for tag, _ in page.elements}
    assert not tags & {"script", "img", "iframe", "object", "form"}
    assert "&lt;script&gt;alert(1)" in text
    for _, attributes in page.elements:
        assert not {"src", "onclick", "onload", "style"} & set(attributes)
        assert attributes.get("href", "#").startswith(("#", "data:,"))
    assert not re.search(r"url\(|@import", text)


def test_tables_have_captions_and_scopes_and_regions_have_names(text):
    page = Page(text)
    assert [a.get("scope") for tag, a in page.elements if tag == "th" and "scope" not in a] == []
    assert sum(tag == "caption" for tag, _ in page.elements) == sum(
        tag == "table" for tag, _ in page.elements
    )
    ids = {a["id"] for _, a in page.elements if "id" in a}
    assert len(ids) == sum("id" in a for _, a in page.elements)
    for _, attributes in page.elements:
        if attributes.get("href", "").startswith("#"):
            assert attributes["href"][1:] in ids
        if "aria-labelledby" in attributes:
            assert attributes["aria-labelledby"] in ids


def test_nothing_is_overwritten_unasked(table, tmp_path):
    path = tmp_path / "page.html"
    assert write_comparison(table, path) == path
    before = path.read_bytes()
    with pytest.raises(FileExistsError, match=r"page\.html'.*exists.*overwrite"):
        write_comparison(table, path)
    assert path.read_bytes() == before
    write_comparison(table, path, settings={"--seed": 1}, overwrite=True)
    assert path.read_bytes() != before
    with pytest.raises(ValueError, match=r"\.html\b.*'page\.pdf'"):
        write_comparison(table, tmp_path / "page.pdf")
    assert [each.name for each in tmp_path.iterdir()] == ["page.html"]


@pytest.mark.parametrize("width", [400, 1200])
def test_the_page_in_a_browser(browser, text, tmp_path, width):
    (tmp_path / "page.html").write_text(text, encoding="utf-8")
    context = browser.new_context(viewport={"width": width, "height": 900})
    tab = context.new_page()
    said, dialogs = [], []
    tab.on("console", lambda message: said.append(message.text))
    tab.on("dialog", lambda dialog: (dialogs.append(dialog.message), dialog.dismiss()))
    tab.goto((tmp_path / "page.html").as_uri())
    assert tab.evaluate("document.documentElement.scrollWidth") <= width
    assert tab.locator("h1").inner_text() == "Comparison of 2 generators"
    assert (said, dialogs) == ([], [])
    context.close()
