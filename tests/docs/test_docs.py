"""What README and docs say is true.

Each block of code in them is run here or by the build of the docs, or says in a comment before it why it is not.
"""

import doctest
import importlib
import re
import shlex
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import vaexprs as vx

# isort: split
import numpy as np
import pandas as pd
import pytest
import typer
from markdown_it import MarkdownIt

from vaexprs.cli import app

ROOT = Path(__file__).parents[2]
PAGES = [
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    *(p for p in sorted((ROOT / "docs").rglob("*.md")) if not {"_build", "reference"} & set(p.parts)),
]
MODULES = sorted(p for p in (ROOT / "src/vaexprs").rglob("*.py") if ">>> " in p.read_text())
# Comments before a block: `<!-- not run (name): why -->`, `<!-- one by one -->` (each line in a folder of its own),
# `<!-- run with: --epochs 2 -n 40 -->` (values in place of those that are there; --epochs for all that fit).
NOT_RUN = {
    "atlas": "needs millions of cells",
    "benchmarks": "takes hours, data sets and other packages",
    "dask": "needs the scheduler of a cluster (tests/generation/test_dask.py has one)",
    "docs": "is what .ci/all does",
    "install": "installs packages",
    "kubernetes": "needs a cluster",
    "processes": "needs several processes (tests/training/test_processes.py has them)",
    "r": "needs R",
    "slurm": "needs a cluster",
    "tensorboard": "needs TensorFlow or tensorboardX",
    "yan": "needs a data set that is not part of the project",
}
OUTPUT = {"", "r"}  # what a run printed, and R's side of a comparison
SHELL = {"shell", "bash"}


@dataclass(frozen=True)
class Block:
    page: Path
    line: int
    language: str
    code: str
    said: str  # the comment before it

    @property
    def not_run(self):
        found = re.match(r"not run \((\w+)\): \S", self.said)
        return found and found[1]

    @property
    def name(self):
        return f"{self.page.relative_to(ROOT)}:{self.line}"


def blocks_of(page):
    said = ""
    for token in MarkdownIt("commonmark").parse(page.read_text(encoding="utf-8")):
        if token.type == "html_block":
            said = token.content.strip().removeprefix("<!--").removesuffix("-->").strip()
        elif token.type in ("fence", "code_block"):
            language = token.info.strip() if token.type == "fence" else "shell"
            yield Block(page, token.map[0] + 1, language, token.content, said)
            said = ""


BLOCKS = [block for page in PAGES for block in blocks_of(page)]


def chosen(languages):
    found = [block for block in BLOCKS if block.language in languages and not block.not_run]
    assert found
    marked = [pytest.param(block, marks=pytest.mark.docs) for block in found]
    return pytest.mark.parametrize("block", marked, ids=lambda block: block.name)


def test_each_block_is_run_or_says_why_not():
    known = {"python", *SHELL, *OUTPUT, "yaml"}
    for block in BLOCKS:
        assert block.language in known or block.language.startswith("{"), f"{block.name}: {block.language}"
        if block.language == "yaml":
            assert block.not_run, block.name
    assert {block.not_run for block in BLOCKS} - {None} <= set(NOT_RUN)
    assert sum(block.language == "{code-cell} python3" for block in BLOCKS) > 50


def commands(code):
    """Return the words of each `vaexprs` command in lines of shell, YAML or text."""
    joined = re.sub(r"\\\n\s*", " ", code)
    for line in joined.splitlines():
        if found := re.match(r"\s*(?:.*&& |srun |\$ )?vaexprs (\w.*)$", line):
            yield shlex.split(found[1], comments=True)


def parse(words):
    verbs = typer.main.get_command(app).commands
    assert words[0] in verbs, words
    known = {option for parameter in verbs[words[0]].params for option in parameter.opts} | {"--help"}
    assert {word for word in words[1:] if re.match(r"-[-\w]", word)} <= known, words
    return verbs[words[0]]


def test_commands_that_are_not_run_exist_with_their_options():
    asked = [words for block in BLOCKS if block.not_run for words in commands(block.code)]
    assert len(asked) >= 5
    for words in asked:
        parse(words)


@pytest.fixture(scope="module")
def given(few, tmp_path_factory):
    """A folder with files by the names that pages use: 80 cells, 40 others, a model of the first and its cells."""
    folder = tmp_path_factory.mktemp("given")
    cells = few.copy()
    cells.obs["cell_type"] = cells.obs["cell_type"].cat.rename_categories({"CD19+ B": "CD34+"})
    # labels come in turn: the first 80 cells have 20 of each, the others 10
    cells.obs["donor"] = [f"{101 + i // 20}" for i in range(cells.n_obs)]
    cells.obs["stim"] = ["ctrl" if i // 4 % 2 else "stim" for i in range(cells.n_obs)]
    train, test = cells[:80].copy(), cells[80:].copy()
    fit = vx.fit_vae(train, label_key="cell_type", epochs=2, verbose=0)
    made = vx.gen_exprs(fit, 60, seed=0)
    cells.write_h5ad(folder / "all.h5ad")
    for name in ("mine", "train", "atlas"):
        train.write_h5ad(folder / f"{name}.h5ad")
    train.write_zarr(folder / "atlas.zarr")
    for name in ("held_out", "holdout"):
        test.write_h5ad(folder / f"{name}.h5ad")
    for name in ("generated", "another"):
        made.adata.write_h5ad(folder / f"{name}.h5ad")
    fit.save(folder / "model")
    study = cells.to_df().T.set_axis([f"s{i}" for i in range(cells.n_obs)], axis=1)
    study.astype(int).to_csv(folder / "counts.csv")
    of_samples = {
        "cell_type": ["ACC", "FC"] * (cells.n_obs // 2),
        "sex": np.tile(["F", "F", "M"], cells.n_obs // 3),
    }
    pd.DataFrame(of_samples, study.columns).to_csv(folder / "metadata.csv")
    (folder / "wishes.csv").write_text("cell_type,stim,n\nCD34+,ctrl,5\nDendritic,,5\n")
    return folder


def resamples(block):
    """Return how often real cells are split for the baseline of a page's evaluation, or None for the default."""
    found = re.search(r"run with: .*resamples=(\d+)", block.said)
    return found and int(found[1])


@chosen(SHELL)
def test_shell(block, given, tmp_path, monkeypatch):
    """Each command in one process, with the files that it needs and the block has not made."""
    if few := resamples(block):
        monkeypatch.setitem(vx.evaluate.__kwdefaults__, "resamples", few)
        monkeypatch.setattr("vaexprs.metrics.evaluate.RESAMPLES", few)
    wanted = dict(re.findall(r"(--?[\w-]+) (\S+)", block.said.partition("run with:")[2]))
    written = [line for line in block.code.splitlines() if line.strip() and not line.lstrip().startswith("#")]
    asked = list(commands(block.code))
    assert len(asked) == len(re.sub(r"\\\n", "", block.code).strip().splitlines()), written
    for i, words in enumerate(asked):
        folder = tmp_path / (str(i) if "one by one" in block.said else "all")
        folder.mkdir(exist_ok=True)
        monkeypatch.chdir(folder)
        for option, value in wanted.items():
            if option in words:
                words[words.index(option) + 1] = value
        takes = {option for parameter in parse(words).params for option in parameter.opts}
        if "--epochs" in takes & wanted.keys() and "--epochs" not in words:
            words += ["--epochs", wanted["--epochs"]]
        out = ("--train", "--holdout") if words[0] == "split" else ("--out",)
        outputs = {words[i + 1] for i, word in enumerate(words[:-1]) if word in out}
        for word in set(words) - outputs:
            if (given / word).exists() and not Path(word).exists():
                Path(word).symlink_to(given / word)
        if words[0] == "split":
            words += ["--fraction", "0.5"]  # of few cells, so that some of each type are held out
        app(words, standalone_mode=False)
        for path in outputs:
            assert Path(path).exists(), f"{words}: {path} was not written"


@chosen({"python"})
def test_python(block, given, tmp_path, monkeypatch):
    """The README's blocks in a process of their own, those of other pages with the names that they use."""
    short = re.search(r"run with: epochs=(\d+)", block.said)
    if block.page.name == "README.md":
        before = "import vaexprs as vx\n"
        if short:
            before += "fit_vae = vx.fit_vae\n"
            before += f"vx.fit_vae = lambda *a, **k: fit_vae(*a, **(k | {{'epochs': {short[1]}}}))\n"
        if few := resamples(block):
            before += f"vx.evaluate.__kwdefaults__['resamples'] = {few}\n"
        done = subprocess.run(
            [sys.executable, "-c", before + block.code],
            capture_output=True, text=True, cwd=tmp_path, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr[-2000:]
        return
    monkeypatch.chdir(tmp_path)
    Path("another.h5ad").symlink_to(given / "another.h5ad")  # the page on judging reads it
    if short:
        fit_vae, epochs = vx.fit_vae, int(short[1])
        monkeypatch.setattr(
            vx, "fit_vae", lambda *a, **k: fit_vae(*a, **(k | {"epochs": epochs})), raising=False
        )
    cells = {name: vx.read(given / f"{name}.h5ad") for name in ("train", "generated")}
    test = vx.read(given / "holdout.h5ad")
    names = cells | {"vx": vx, "fit": vx.load_vae(given / "model"), "real": test, "test": test}
    exec(block.code, names)  # noqa: S102 -- the pages are ours


FITS = ("augment", "interpolate", "power", "simulate", "transform")  # modules whose examples fit a model


@pytest.mark.parametrize(
    "path",
    [pytest.param(path, marks=pytest.mark.docs if path.stem in FITS else ()) for path in MODULES],
    ids=lambda path: path.stem,
)
def test_examples_in_docstrings(path):
    name = ".".join(path.relative_to(ROOT / "src").with_suffix("").parts).removesuffix(".__init__")
    done = doctest.testmod(importlib.import_module(name), optionflags=doctest.NORMALIZE_WHITESPACE)
    assert done.attempted > 0
    assert done.failed == 0


def test_pages_and_their_links_within_the_repository():
    """Links work where the repository is read as files; those within the site are the build's to check."""
    checked = 0
    for page in PAGES:
        for target in re.findall(
            r"\]\((?!https?:|built:|mailto:|#)([^)#\s]+)", page.read_text(encoding="utf-8")
        ):
            if target.startswith("reference/"):  # made by the build
                continue
            if "benchmarks/" in target and not (ROOT / "benchmarks").is_dir():  # the sdist has none
                continue
            checked += 1
            assert (page.parent / target).exists(), f"{page.relative_to(ROOT)}: {target}"
    assert checked > 60
