"""write_report: what is in the page, and what a browser makes of it."""

import html
import json
import os
import re
import subprocess
import sys
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import vaexprs as vx

# isort: split
import anndata as ad
import numpy as np
import pandas as pd
import plotly
import plotly.graph_objects as go
import pytest

from vaexprs.interface.html import exact, number
from vaexprs.io.convert import fingerprint
from vaexprs.metrics import evaluate as evaluation
from vaexprs.metrics.evaluate import evaluate
from vaexprs.plotting.model_graph import plot_vae
from vaexprs.plotting.reductions import REDUCTIONS
from vaexprs.preprocessing import splits
from vaexprs.report import collect, reproduce, write_report
from vaexprs.report import plotly_figures as figures
from vaexprs.report.plotly_figures import Ellipse, Embedding, GenePlotData, Latent
from vaexprs.report.render import Page, _by_label, _resource, _script_json, render

LONG = "a population with a very long name, double positive and activated, of the second kind"
HOSTILE = [
    "<script>window.hacked=1;alert(1)</script>",
    "</script><img src=x onerror=window.hacked=1;alert(1)>",
    "<a href='javascript:alert(1)'>x</a><br>&lt;b&gt; %{x} $a$ \"'",
    "__proto__",
]


def answer(question, light, sentence):
    return SimpleNamespace(question=question, light=light, sentence=sentence)


def table(labels):
    """Return a scorecard with numbers of every size, and with some that are missing."""
    rng = np.random.default_rng(0)
    rows = []
    for i, (metric, size) in enumerate({"auc": 1, "distance": 1e4, "tiny": 1e-7, "missing": np.nan}.items()):
        for j, label in enumerate(["all", *labels]):
            floor = size * rng.random()
            verdict = ["within", "close", "off"][(i + j) % 3] if np.isfinite(size) else None
            rows.append(
                (metric, label, size * rng.normal(), floor, floor - size / 9, floor + size / 9, verdict)
            )
    names = ["metric", "label", "value", "floor", "floor_low", "floor_high", "verdict"]
    return pd.DataFrame(rows, columns=names)


def as_page(few, labels, genes=None, names=None):
    """Return a page of real cells, the second half of them in the part of generated ones."""
    x = np.log1p(few.X.toarray())
    half = len(x) // 2
    coordinates, axes = REDUCTIONS["PCA"](x, 0, {})
    label = np.array([labels[i % len(labels)] for i in range(len(x))], dtype=object)
    cells = few.obs_names.to_numpy(dtype=object) if names is None else np.resize(names, len(x)).astype(object)
    genes = few.var_names.to_numpy(dtype=object) if genes is None else np.resize(genes, few.n_vars)

    def statistics(part):
        return np.stack([part.mean(axis=0), part.var(axis=0), (part == 0).mean(axis=0)])

    title = {"auc": "AUC", "distance": "Distance", "tiny": "Tiny"}
    evaluation = table(labels)
    return Page(
        title="Report on 60 generated cells",
        facts={"Generated cells": "60", "Genes": "50"},
        answers=[
            answer("Do they look real?", "green", "They do."),
            answer("Is each type right?", "amber", "Most are."),
            answer("Are the differences kept?", "red", "They are not."),
            answer("Did it copy?", "unknown", "Not measured."),
        ],
        evaluation=evaluation,
        metrics={
            k: SimpleNamespace(title=v, what=f"What {v} is.", question="looks") for k, v in title.items()
        },
        questions={"looks": "Do they look real?"},
        curves=[
            {"label": name, "method": method, "n": n, "f1": n / 60, "low": n / 70, "high": n / 50}
            for name in labels[:2]
            for method, n in [("real", 5), ("real", 50), ("generated", 50)]
        ],
        audit=pd.DataFrame(
            [("copy_ratio", 1.0234567, 0.97, np.nan, "pass"), ("auc", 0.5, np.nan, np.nan, "caution")],
            columns=["metric", "value", "low", "high", "verdict"],
        ),
        audits={"copy_ratio": SimpleNamespace(title="Nearest training cell", what="A ratio.")},
        exposed=[{"cell": cells[i], "label": label[i], "distance": i / 7, "ratio": None} for i in range(25)],
        embedding=Embedding(
            coordinates,
            np.repeat(["real", "generated"], [half, len(x) - half]),
            label,
            cells,
            axes,
            (100, 60),
        ),
        genes=GenePlotData(
            genes,
            statistics(x[:half]),
            statistics(x[half:]),
            (statistics(x[:half:2]), statistics(x[1:half:2])),
        ),
        history={"loss": [3.0, 2.0], "val_loss": [3.5, 2.5], "kl": [1.0, 1.5]},
        latent=Latent(
            coordinates, label, cells, ("Axis 1", "Axis 2"), [Ellipse(labels[0], np.zeros(2), np.eye(2))]
        ),
        recipe={"Model": {"seed": "0", "likelihood": labels[0]}},
        code=f"label = {labels[0]!r}",
        notes=[f"A note on {labels[0]}."],
    )


@pytest.fixture(scope="module")
def page(few):
    return as_page(few, ["B", "Mono", "NK", "DC"])


@pytest.fixture
def opened(browser, tmp_path):
    """Return a function that opens a page, with the width and theme asked for, and watches over it."""

    @contextmanager
    def open_page(text_or_path, width=1000, theme="light", expected=None):
        path = tmp_path / "page.html" if isinstance(text_or_path, str) else text_or_path
        if isinstance(text_or_path, str):
            path.write_text(text_or_path, encoding="utf-8")
        context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=theme)
        tab = context.new_page()
        seen = SimpleNamespace(errors=[], requests=[], dialogs=[])
        tab.on("console", lambda m: seen.errors.append(m.text) if m.type in ("error", "warning") else None)
        tab.on("pageerror", lambda error: seen.errors.append(str(error)))
        tab.on("request", lambda request: seen.requests.append(request.url))
        tab.on("dialog", lambda dialog: (seen.dialogs.append(dialog.message), dialog.dismiss()))
        tab.goto(path.as_uri())
        tab.wait_for_selector("html[data-ready]", timeout=30_000)
        yield tab
        known = (path.as_uri(), "data:", "blob:")
        errors = [text for text in seen.errors if expected is None or expected not in text]
        outside = [url for url in seen.requests if not url.startswith(known)]
        assert (errors, outside, seen.dialogs) == ([], [], [])
        context.close()

    return open_page


def traces(tab, what, plot="embedding"):
    """Return a property of each trace as it is drawn now."""
    return tab.evaluate(f"document.getElementById('{plot}')._fullData.map((trace) => trace.{what})")


def visible_groups(tab):
    shown = zip(traces(tab, "legendgroup"), traces(tab, "visible"), strict=True)
    return {group for group, visible in shown if visible is True}


def background(tab):
    return sum(map(int, re.findall(r"\d+", tab.evaluate("getComputedStyle(document.body).backgroundColor"))))


def test_labels_that_were_not_generated_have_no_row(page):
    """Real cells of NK only; the generated label DC has too few cells to be measured."""
    label = page.embedding.label.copy()
    label[(label == "NK") & (page.embedding.group == "generated")] = "DC"
    rest = page.evaluation[~page.evaluation["label"].isin(["NK", "DC"])]
    of_three = replace(page, evaluation=rest, embedding=replace(page.embedding, label=label))
    rows = _by_label(of_three)["rows"]
    assert [row["label"] for row in rows] == ["B", "DC", "Mono"]
    assert rows[1]["word"] == "not judged"


# ---- the file


def test_nothing_is_overwritten_unasked_and_the_suffix_is_checked_before_any_work(tmp_path):
    there = tmp_path / "there.html"
    there.write_text("mine")
    with pytest.raises(FileExistsError, match=r"there\.html'.*exists.*overwrite"):
        write_report(None, None, None, there)
    with pytest.raises(ValueError, match=r"\.html\b.*'report\.pdf'.*'report\.html'"):
        write_report(None, None, None, tmp_path / "report.pdf")
    with pytest.raises(FileNotFoundError, match=r"(?i)folder.*nowhere'"):
        write_report(None, None, None, tmp_path / "nowhere" / "report.html")
    with pytest.raises(TypeError, match=r"^fit\b.*fit_vae.*load_vae.*\bNoneType\b"):
        write_report(None, None, None, there, overwrite=True)
    assert there.read_text() == "mine"


@pytest.fixture(scope="module")
def written(few, tmp_path_factory):
    """Return a fit of half of the cells, cells generated from it, the other half, the page and its table."""
    tables = []

    def evaluated(*cells, **given):
        tables.append(evaluate(*cells, **given, resamples=3))
        return tables[-1]

    fit = vx.fit_vae(few[:60].copy(), label_key="cell_type", epochs=30, verbose=0)
    made = vx.gen_exprs(fit, 80, seed=1)
    real = few[60:].copy()
    path = tmp_path_factory.mktemp("report") / "report.html"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(evaluation, "evaluate", evaluated)
        assert write_report(fit, made, real, path, progress=False) == path
    return SimpleNamespace(fit=fit, made=made, real=real, path=path, table=tables[0])


def embedded(text, name):
    return json.loads(
        re.search(rf'<script type="application/json" id="{name}">(.*?)</script>', text, re.S)[1]
    )


def test_a_report_has_the_tables_of_evaluate_and_of_the_audit(written):
    text = written.path.read_text(encoding="utf-8")
    found = embedded(text, "scorecard")
    expected = written.table
    assert found["evaluation"]["columns"] == list(expected.columns)
    assert len(found["evaluation"]["data"]) == len(expected)
    for row, there in zip(expected.itertuples(index=False), found["evaluation"]["data"], strict=True):
        assert [None if value != value else value for value in row] == there
    assert {row[0] for row in found["privacy"]["data"]} >= {"copy_ratio", "membership_auc"}
    assert len(text.encode()) < 8e6
    assert "80 generated cells" in text


def few_train(written):
    return collect.training_cells(written.fit, written.made.adata, 0).cells


def test_a_report_tells_how_to_repeat_it(written):
    text = written.path.read_text(encoding="utf-8")
    for cells in (written.made.adata, written.real, few_train(written)):
        assert fingerprint(cells) in text
    assert "label_key=&#39;cell_type&#39;" in text
    assert "fit, 80,\n    seed=1," in text
    for name in collect.PACKAGES:
        assert f'<th scope="row">{name}</th>' in text


def test_the_code_of_a_report_makes_the_same_cells(written, few):
    recipe = written.made.adata.uns["vaexprs"]
    text = reproduce.code(
        written.fit, recipe, 80, given=True, label_key="cell_type", donor_key=None, layer=None, seed=0
    )
    assert 'report.html", train=train,' in text
    assert "stratified" not in text
    told = [line for line in text.splitlines() if "vx.read" not in line]
    repeat = "\n".join(told).split("vx.write_report")[0]
    names = {"train": few[:60].copy()}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(vx, "fit_vae", lambda cells, **given: (names.update(given=given), written.fit)[1])
        exec(compile(repeat, "recipe", "exec"), names)  # noqa: S102 -- our own text
    assert names["given"]["epochs"] == 30
    assert (names["generated"].x_gen != written.made.x_gen).nnz == 0


def test_a_fit_from_disk_is_reported_without_an_audit(written, tmp_path, opened):
    fit = vx.load_vae(written.fit.save(tmp_path / "model"))
    page = collect.gather(
        fit,
        written.made.adata,
        written.real,
        train=None,
        label_key=None,
        donor_key=None,
        layer=None,
        seed=0,
        progress=False,
    )
    assert page.audit is None
    assert page.answers[-1].light == "unknown"
    assert len(page.latent.cells) == len(written.real)
    text = render(page)
    assert "training cells" in page.answers[-1].sentence
    assert page.answers[-1].sentence in html.unescape(text)
    with opened(text):
        pass


def test_donors_are_audited_only_where_some_are_held_out(written):
    train = few_train(written)
    train.obs["donor"] = ["1", "2"] * 30
    real = written.real.copy()
    real.obs["donor"] = ["2", "1"] * 30
    table, notes = collect.audit(written.made.adata, train, real, "cell_type", "donor", 0)
    assert not table["metric"].str.startswith("donor").any()
    assert "donor" in notes[0]
    table, notes = collect.audit(written.made.adata, train, train, "cell_type", None, 0)
    assert table is None
    assert re.search(r"\bholdout\b.*\b10\b", notes[0])


def test_the_fingerprint_is_that_of_the_values_however_they_are_stored(few):
    dense = ad.AnnData(few.X.toarray(), obs=few.obs, var=few.var)
    assert fingerprint(few) == fingerprint(dense)
    dense.X[0, 0] += 1
    assert fingerprint(few) != fingerprint(dense)


def test_rows_on_the_map_have_some_of_every_label():
    column = np.array(["common"] * 5_000 + ["rare"] * 3 + ["middling"] * 400)
    rows = splits.stratified(column, 500, np.random.default_rng(0))
    names, counts = np.unique(column[rows], return_counts=True)
    assert len(rows) == 500
    assert dict(zip(names, counts, strict=True))["rare"] == 3
    assert np.all(np.diff(rows) > 0)
    assert len(splits.stratified(np.arange(900).astype(str), 500, np.random.default_rng(0))) == 500


# ---- numbers and texts


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (0.123456, "0.123"),
        (-0.5, "\u22120.500"),
        (12.345, "12.3"),
        (123_456.7, "123,457"),
        (0.0, "0"),
        (1.0, "1.00"),
        (50.0, "50"),
        (0.9999, "1.00"),
        (1.2345e-5, "1.23 \u00d7 10\u207b\u2075"),
        (2e9, "2.00 \u00d7 10\u2079"),
        (float("nan"), "\u2013"),
        (None, "\u2013"),
        (float("inf"), "\u221e"),
    ],
)
def test_numbers_are_shown_with_three_digits(value, shown):
    assert number(value) == shown
    if value is not None and np.isfinite(value):
        assert float(exact(value)) == value
    else:
        assert exact(value) == ""


def test_json_cannot_end_its_script_element():
    value = {"a": HOSTILE, "b": [float("nan"), float("inf"), np.float64(0.1), np.int64(3), True, None]}
    text = str(_script_json(value))
    assert "<" not in text
    assert "&" not in text
    assert json.loads(text) == {"a": HOSTILE, "b": [None, None, 0.1, 3, True, None]}


def test_another_plotly_that_would_break_the_page_is_refused(tmp_path):
    """Installed before the other one: the same but for a script that ends the element it is put into."""
    installed = Path(plotly.__file__).parent
    other = tmp_path / "plotly"
    other.mkdir()
    for part in installed.iterdir():
        if part.name != "package_data":
            (other / part.name).symlink_to(part)
    (other / "package_data").mkdir()
    (other / "package_data" / "plotly.min.js").write_text("x = '</SCRIPT>'")
    code = """
from vaexprs.report.render import _plotly
try:
    _plotly()
except ImportError as error:
    print(error)
"""
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
    )
    version = re.escape(plotly.__version__)
    pattern = rf"[^\n]*plotly\.js.*script.*{version}.*pip install 'plotly!={version}'\n"
    assert re.fullmatch(pattern, done.stdout), done.stdout + done.stderr


def in_mode(figure, mode):
    """Return the plotly figure of one mode, merged as by `patched` in script.js."""
    data = []
    for trace, patch in zip(figure["data"], figure["modes"][mode], strict=True):
        merged = trace | patch
        merged |= {
            key: trace[key] | value
            for key, value in patch.items()
            if isinstance(value, dict) and isinstance(trace.get(key), dict)
        }
        data.append(merged)
    return {"data": data, "layout": figure["layout"]}


def test_figures_are_valid_plotly_figures(page):
    mapped = figures.embedding(page.embedding)
    for mode in ("group", "label"):
        figure = go.Figure(in_mode(mapped, mode))
        assert len(figure.data) == 8
        assert sum(len(trace.x) for trace in figure.data) == 120
    curves = figures.curves(page.curves)
    shown = go.Figure(in_mode(curves, "1")).data
    assert [trace.visible for trace in shown] == [False, False, True, True]
    for figure in [*figures.gene_plots(page.genes).values(), *figures.training(page.history).values()]:
        go.Figure(figure)
    go.Figure({key: figures.latent(page.latent)[key] for key in ("data", "layout")})
    assert figures.curves([]) is None


def test_the_gene_plots_show_the_genes_furthest_off(page):
    n = 3_000
    values = np.random.default_rng(0).random((3, n))
    far = values.copy()
    far[0, 1234] = 50
    statistics = GenePlotData(np.arange(n).astype(str), values, far, (values, values))
    rows = figures.shown_genes(statistics)
    assert len(rows) == figures.MAX_GENES
    assert 1234 in rows
    plot = figures.gene_plots(page.genes)["mean"]["data"][2]
    assert plot["name"] == "generated"
    np.testing.assert_allclose([pair[1] for pair in plot["customdata"]], page.genes.generated[0], rtol=1e-4)


def test_outlines_hold_95_percent():
    covariance = np.array([[2.0, 0.6], [0.6, 0.5]])
    path = figures.outline(np.array([1.0, -1.0]), covariance) - np.array([1.0, -1.0])
    np.testing.assert_allclose(
        np.einsum("ni,ij,nj->n", path, np.linalg.inv(covariance), path), figures.ELLIPSE
    )
    points = np.random.default_rng(0).multivariate_normal([0, 0], covariance, 20_000)
    inside = np.einsum("ni,ij,nj->n", points, np.linalg.inv(covariance), points) < figures.ELLIPSE
    assert inside.mean() == pytest.approx(0.95, abs=0.005)


def luminance(color):
    channels = np.array([int(color[i : i + 2], 16) for i in (1, 3, 5)]) / 255
    linear = np.where(channels <= 0.04045, channels / 12.92, ((channels + 0.055) / 1.055) ** 2.4)
    return linear @ [0.2126, 0.7152, 0.0722]


def contrast(a, b):
    low, high = sorted([luminance(a), luminance(b)])
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("theme", [0, 1])
def test_texts_and_points_stand_out_from_the_paper(theme):
    """WCAG 2.2: 4.5 for text, 3 for what a figure is made of."""
    found = re.findall(r"--(\w+): light-dark\((#\w{6}), (#\w{6})\)", _resource("style.css"))
    colors = {name: both[theme] for name, *both in found}
    for text in ("ink", "soft", "link", "good", "fair", "poor", "unknown"):
        for behind in ("paper", "panel"):
            assert contrast(colors[text], colors[behind]) >= 4.5, text
    for color in (*figures.PALETTE, figures.FAINT):
        assert contrast(figures.DARK[color] if theme else color, colors["paper"]) >= 3, color


def test_nothing_in_the_page_points_outside(page):
    text = render(replace(page, architecture=plot_vae_svg()))
    scripts = re.findall(r"<script>(.*?)</script>", text, re.S)
    assert len(scripts) == 2
    for script in scripts:
        text = text.replace(script, "")
    assert not re.search(r"(src|href)=[\"'](?!data:|#)", text)
    assert not re.search(r"url\(|@import", text)
    assert "connect-src" not in text  # default-src 'none' stands for all
    policy = re.search(r'Content-Security-Policy" content="([^"]*)"', text)[1]
    assert policy.startswith("default-src &#39;none&#39;; script-src &#39;sha256-")
    assert "unsafe" not in policy.split("style-src")[0]


def plot_vae_svg():
    import keras

    hidden = keras.Input((3,), name="a<b")
    return plot_vae(keras.Model(hidden, keras.layers.Dense(2)(hidden)))._repr_svg_()


# ---- in a browser


def test_the_page_opens_without_errors_or_requests(opened, written):
    with opened(written.path) as tab:
        assert tab.locator("h1").inner_text() == "Report on 80 generated cells"
        assert tab.locator(".card").count() == 5
        assert tab.evaluate("document.querySelectorAll('.plot .main-svg').length") > 8
        assert tab.locator(".plate img").evaluate("(image) => image.naturalWidth") > 100
        ids = tab.evaluate("[...document.querySelectorAll('[id]')].map((e) => e.id)")
        assert len(set(ids)) == len(ids)


def test_scripts_that_are_not_the_pages_own_do_not_run(opened, page):
    with opened(render(page), expected="Content Security Policy") as tab:
        stopped = tab.evaluate(
            """() => new Promise((resolve) => {
                document.addEventListener("securitypolicyviolation", (event) => resolve(event.violatedDirective));
                const script = document.createElement("script");
                script.textContent = "window.hacked = 1";
                document.body.append(script);
            })"""
        )
        assert stopped.startswith("script-src")
        assert tab.evaluate("window.hacked") is None


def test_hover_shows_the_name_and_label_of_a_cell(opened, page):
    with opened(render(page)) as tab:
        tab.locator("#embedding").scroll_into_view_if_needed()
        box = tab.locator("#embedding .trace.scatter .point").first.bounding_box()
        tab.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
        tab.wait_for_selector("#embedding .hoverlayer .hovertext")
        text = tab.locator("#embedding .hoverlayer .hovertext").text_content()
        names = [name for name in page.embedding.cells if name in text]
        assert names
        row = list(page.embedding.cells).index(max(names, key=len))
        assert page.embedding.label[row] in text
        assert page.embedding.group[row] in text


def test_a_click_in_the_legend_hides_a_trace(opened, page):
    with opened(render(page)) as tab:
        assert visible_groups(tab) == {"real", "generated"}
        tab.locator("#embedding .legendtoggle").first.click()
        tab.wait_for_timeout(600)  # a second click would isolate it
        assert visible_groups(tab) == {"real"}


def test_the_controls_work_from_the_keyboard(opened, page):
    with opened(render(page)) as tab:
        tab.locator("input[value=group]").focus()
        tab.keyboard.press("ArrowRight")
        assert tab.locator("input[value=label]").is_checked()
        assert len(set(traces(tab, "marker.color"))) == 4
        assert {"circle", "circle-open"} == set(traces(tab, "marker.symbol"))
        tab.keyboard.press("Tab")
        assert tab.evaluate("document.activeElement.dataset.highlight") == "embedding"
        tab.keyboard.press("ArrowDown")
        label = tab.evaluate("document.activeElement.selectedOptions[0].textContent")
        assert label == "B"
        clear = [opacity > 0.5 for opacity in traces(tab, "marker.opacity")]
        assert sum(clear) == 2
        assert len(clear) == 8
        tab.locator("select[data-mode]").focus()
        tab.keyboard.press("ArrowDown")
        assert traces(tab, "visible", "curves") == [False, False, True, True]
        tab.keyboard.press("Control+Home")
        tab.evaluate("document.activeElement.blur()")


def test_numbers_on_the_page_are_those_of_the_tables(opened, page):
    with opened(render(page)) as tab:
        everything = page.evaluation[page.evaluation["label"] == "all"].set_index("metric")
        for metric, row in everything.iterrows():
            cells = tab.locator(f"#scorecard-table tr[data-metric={metric}]")
            found = cells.locator("[data-value]").evaluate_all(
                "(all) => all.map((cell) => [cell.dataset.value, cell.textContent])"
            )
            expected = [row[name] for name in ("value", "floor", "floor_low", "floor_high")]
            if metric == "missing":
                expected = expected[:2]
            assert found == [[exact(value), number(value)] for value in expected]
            assert cells.locator(".verdict").inner_text().strip() == (row["verdict"] or "not judged")
        for label, part in page.evaluation[page.evaluation["label"] != "all"].groupby("label"):
            for metric, value in part.dropna(subset="value").set_index("metric")["value"].items():
                cell = tab.locator(f"#label-table tr[data-label={label}] [data-metric={metric}]")
                assert cell.get_attribute("data-value") == repr(value)
                assert number(value) in cell.inner_text()
        assert tab.locator("#privacy-table tbody tr").count() == 2
        assert tab.locator("#privacy-table [data-value]").first.get_attribute("data-value") == "1.0234567"
        assert tab.locator("#exposed-table tbody tr").count() == 20
        assert "25 in total, of which the first 20 are shown" in tab.locator("#privacy").inner_text()


def test_the_csv_is_the_table(opened, few, tmp_path):
    formulas = ["=1+1", "-2+3", "+1", "@SUM(1)", "'=1", "\t=1", "\uff1d1"]  # a spreadsheet would run them
    page = as_page(few, ['with "quotes", and comma', *HOSTILE, *formulas])
    with opened(render(page)) as tab:
        with tab.expect_download() as download:
            tab.locator("button[data-csv=evaluation]").click()
        download.value.save_as(tmp_path / "table.csv")
    read = pd.read_csv(tmp_path / "table.csv", float_precision="round_trip")
    assert (read["value"] < 0).any()  # numbers may begin with a minus
    shown = page.evaluation.assign(
        label=["'" + label if label in formulas else label for label in page.evaluation["label"]]
    )
    pd.testing.assert_frame_equal(read, shown, check_exact=True, check_dtype=False)


def test_hostile_names_stay_text(opened, few):
    page = as_page(few, HOSTILE, genes=HOSTILE, names=HOSTILE)
    page = replace(
        page,
        title=HOSTILE[0],
        facts={HOSTILE[1]: HOSTILE[0]},
        answers=[answer(HOSTILE[0], "green", HOSTILE[1])],
        recipe={HOSTILE[0]: {HOSTILE[1]: HOSTILE[2]}},
        notes=[HOSTILE[1]],
        audit_notes=[HOSTILE[1]],
        code=HOSTILE[1],
    )
    with opened(render(page)) as tab:
        assert tab.locator("h1").inner_text() == HOSTILE[0]
        assert tab.locator("#code").inner_text() == HOSTILE[1]
        for choice in tab.locator("select[data-highlight=embedding] option").all()[1:]:
            assert choice.text_content() in HOSTILE
        tab.locator("input[value=label]").check()
        legend = tab.locator("#embedding .legendtext").all_text_contents()
        assert sorted(text[:31] for text in legend) == sorted(text[:31] for text in HOSTILE)
        seen = set()
        for plot in ("embedding", "genes-mean", "latent"):
            tab.locator(f"#{plot}").scroll_into_view_if_needed()
            for point in tab.locator(f"#{plot} .trace.scatter .point").all()[:60:7]:
                box = point.bounding_box()
                tab.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
                tab.wait_for_timeout(40)
                texts = tab.locator(f"#{plot} .hoverlayer .hovertext .nums").all_text_contents()
                seen |= {(plot, text[:9]) for text in texts}
                for text in texts:
                    assert any(text.startswith(name[:40]) for name in HOSTILE), text
        assert {plot for plot, _ in seen} == {"embedding", "genes-mean", "latent"}
        assert {text for _, text in seen} == {name[:9] for name in HOSTILE}
        assert tab.evaluate("window.hacked") is None
        assert tab.locator("main img, main a, header img").count() == 0
        assert tab.locator(".plot a").count() == 0
        assert tab.evaluate("document.scripts.length") == 4


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_the_theme_follows_the_system_and_the_button(opened, page, theme):
    with opened(render(page), theme=theme) as tab:
        dark = background(tab) < 200
        assert dark == (theme == "dark")
        ink = traces(tab, "marker.color")[0]
        assert ink == (figures.DARK[figures.GENERATED] if dark else figures.GENERATED)
        button = tab.locator("#theme")
        assert button.inner_text() == ("Light theme" if dark else "Dark theme")
        button.click()
        assert (background(tab) < 200) != dark
        assert traces(tab, "marker.color")[0] != ink


@pytest.mark.parametrize("n", [2, 40])
def test_nothing_is_wider_than_a_narrow_screen(opened, few, n):
    page = as_page(few, [f"{LONG} {i}" for i in range(n)])
    with opened(render(page), width=400) as tab:
        assert tab.evaluate("document.documentElement.scrollWidth") <= 400
        tab.locator("input[value=label]").check()
        assert tab.evaluate("document.documentElement.scrollWidth") <= 400
        for plot in tab.locator(".plot").all():
            assert plot.bounding_box()["x"] + plot.bounding_box()["width"] <= 400


def test_a_print_is_light_and_without_controls(opened, page):
    with opened(render(page), theme="dark") as tab:
        tab.emulate_media(media="print", color_scheme="dark")
        assert background(tab) > 700
        assert not tab.locator("#theme").is_visible()
        assert not tab.locator(".controls").first.is_visible()
        tab.evaluate("window.dispatchEvent(new Event('beforeprint'))")
        assert traces(tab, "marker.color")[0] == figures.GENERATED
        tab.evaluate("window.dispatchEvent(new Event('afterprint'))")
        assert traces(tab, "marker.color")[0] == figures.DARK[figures.GENERATED]


def test_a_page_without_labels_and_figures_still_opens(opened, page):
    bare = replace(
        page,
        embedding=replace(page.embedding, label=None),
        latent=replace(page.latent, label=None, ellipses=[Ellipse("", np.zeros(2), np.eye(2))]),
        curves=(),
        audit=None,
        evaluation=page.evaluation[page.evaluation["label"] == "all"],
    )
    with opened(render(bare)) as tab:
        assert tab.locator("input[name=colour], select").count() == 0
        assert tab.locator("#by-label").count() == 0
    with opened(
        render(replace(bare, embedding=None, genes=None, latent=None, history={}, answers=()))
    ) as tab:
        assert tab.locator(".plot").count() == 0
