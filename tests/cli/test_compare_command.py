"""`vaexprs compare`, as a user types it."""

import re

import anndata as ad
import numpy as np
import pytest
import scipy.sparse as sp

import vaexprs as vx
from commands import run

CHEAP = ["--only", "gene_means", "--only", "deviance_ratio", "--resamples", 12]
COMMAND = ["compare", "bad.h5ad", "fresh.h5ad", "--real", "real.h5ad", "--label-key", "cell_type"]


@pytest.fixture(scope="module")
def folder(few, tmp_path_factory):
    """Fresh, real and training cells as files, and known-bad cells with the means of all cells together."""
    folder = tmp_path_factory.mktemp("compare")
    for i, name in enumerate(("fresh", "real", "train")):
        few[np.arange(few.n_obs) // 4 % 3 == i].write_h5ad(folder / f"{name}.h5ad")
    cells = vx.read(folder / "train.h5ad")
    x = cells.X.toarray()
    cells.X = sp.csr_matrix(np.random.default_rng(0).poisson(x.mean(axis=0), x.shape), dtype=np.float32)
    cells.write_h5ad(folder / "bad.h5ad")
    return folder


def test_the_terminal_shows_generators_in_columns_the_best_first(folder):
    done = run(*COMMAND, *CHEAP, "--train", "train.h5ad", "--controls", cwd=folder)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert re.split(r"  +", lines[0].strip()) == [
        "fresh", "bad", "real cells (control)", "independent genes (control)", "real vs real",
    ]  # fmt: skip
    looks = next(line for line in lines if "Do they look real?" in line)
    assert re.search(r"● good +■ poor +● good", looks), looks
    assert re.search(r"Gene means.* to ", done.stdout)
    assert "Do they help a classifier?" not in done.stdout  # its metrics were not requested


def test_tables_are_those_of_python(folder):
    given = {"label_key": "cell_type", "only": ["gene_means", "deviance_ratio"], "resamples": 12}
    cells = {name: ad.read_h5ad(folder / f"{name}.h5ad") for name in ("bad", "fresh", "real")}
    real = cells.pop("real")
    cells = {"a": cells["bad"], "b": cells["fresh"]}
    text = vx.compare(cells, real, seed=2, progress=False, **given).to_csv(index=False)
    words = [*COMMAND, *CHEAP, "--name", "a", "--name", "b", "--seed", 2]
    printed = run(*words, "--csv", "--out", "table.csv", cwd=folder)
    assert printed.returncode == 0, printed.stderr
    assert printed.stdout == text
    assert (folder / "table.csv").read_text() == text
    again = run(*words, "--out", "table.csv", cwd=folder)
    assert again.returncode == 2
    assert re.search(r"'table\.csv'.*exists", again.stderr), again.stderr
    (folder / "table.csv").unlink()


def test_the_page(folder):
    done = run(*COMMAND, *CHEAP, "--out", "page.html", cwd=folder)
    assert done.returncode == 0, done.stderr
    assert "page -> page.html" in done.stdout
    text = (folder / "page.html").read_text()
    assert "Comparison of 2 generators" in text
    assert "real.h5ad" in text
    again = run(*COMMAND, *CHEAP, "--out", "page.html", cwd=folder)
    assert again.returncode == 2
    assert re.search(r"'page\.html'.*exists.*--overwrite", again.stderr), again.stderr
    again = run(*COMMAND, *CHEAP, "--out", "page.html", "--overwrite", "--quiet", cwd=folder)
    assert (again.returncode, again.stdout) == (0, ""), again.stderr
    (folder / "page.html").unlink()


@pytest.mark.parametrize(
    ("words", "error"),
    [
        (["compare", "--real", "real.h5ad"], r"(?i)missing argument.*generated"),
        (["compare", "fresh.h5ad"], r"'--real'"),
        (["compare", "no.h5ad", "--real", "real.h5ad"], r"'no\.h5ad'"),
        (["compare", "fresh.h5ad", "--real", "no.h5ad"], r"'no\.h5ad'"),
        ([*COMMAND, "--json", "--csv"], r"--json.*--csv"),
        ([*COMMAND, "--out", "t.txt"], r"\.html, \.csv or \.json.*'t\.txt'"),
        ([*COMMAND, "--out", "nowhere/t.html"], r"nowhere"),
        ([*COMMAND, "--controls"], r"--controls requires .*--train"),
        ([*COMMAND, "--name", "a"], r"--name must be given once for each of the 2 files, got 1 name\."),
        ([*COMMAND, "--name", "a", "--name", "a"], r"unique.*'a'.*Choose other names"),
        (["compare", "fresh.h5ad", "fresh.h5ad", "--real", "real.h5ad"], r"unique.*'fresh'.*--name"),
        ([*COMMAND, "--only", "nothing"], r"\bonly\b.*'nothing'"),
        ([*COMMAND, "--resamples", 2], r"resamples .*\b3\b.*\b2\."),
        (["compare", "fresh.h5ad", "--real", "real.h5ad", "--label-key", "x"], r"--label-key.*\bobs\b.*'x'"),
    ],
)
def test_mistakes_end_in_one_line_and_status_2(folder, words, error):
    before = sorted(path.name for path in folder.iterdir())
    done = run(*words, cwd=folder)
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr
    assert re.search(error, done.stderr), done.stderr
    assert sorted(path.name for path in folder.iterdir()) == before


def test_a_failed_comparison_leaves_no_page(folder):
    done = run(
        "compare", "fresh.h5ad", "--real", "real.h5ad", "--label-key", "x", "--out", "p.html", cwd=folder
    )
    assert done.returncode == 2
    assert not list(folder.glob("*p.html*"))
