"""Messages of the command line name its options."""

import re

import pytest
import typer

from commands import run
from vaexprs.cli import app
from vaexprs.cli.messages import option_names, with_options

COMMANDS = typer.main.get_command(app).commands


@pytest.mark.parametrize(
    ("command", "text", "expected"),
    [
        ("fit", "Use layer='counts' or n_top_genes=2000.", "Use --layer counts or --n-top-genes 2000."),
        ("fit", "genes must be in X, got 'genes'.", "--genes must be in X, got 'genes'."),
        ("fit", "obs has no column 'label_key'.", "obs has no column 'label_key'."),
        ("fit", "obs must not have both columns.", "obs must not have both columns."),
        ("fit", "cannot be combined with privacy=.", "cannot be combined with --epsilon."),
        ("fit", "Take fewer genes (n_top_genes).", "Take fewer genes (--n-top-genes)."),
        ("fit", "covariate_keys must differ.", "--covariate-key must differ."),
        ("fit", "Pass likelihood='nb' (--likelihood nb).", "Pass --likelihood nb."),
        ("fit", "Use overwrite=True.", "Use --overwrite."),
        ("fit", "encoder_layers=[] is no option.", "encoder_layers=[] is no option."),
        ("fit", "x.layer=3, my.label_key and data_label_key", "x.layer=3, my.label_key and data_label_key"),
        (
            "generate",
            "num_samples must be given, such as labels={'B cell': 100}.",
            "--num-samples must be given, such as --labels 'B cell=100'.",
        ),
        ("generate", "labels['NK'] must be at least 1.", "--labels 'NK' must be at least 1."),
        ("generate", "Use labels= and covariates=.", "Use --labels and --covariate."),
        ("plot", "Try plot_aug(gen, 'UMAP', real=adata).", "Try plot_aug(gen, 'UMAP', real=adata)."),
        ("augment", "fit must be fitted with label_key='a b'.", "--model must be fitted with --label-key 'a b'."),
    ],
)  # fmt: skip
def test_arguments_become_options(command, text, expected):
    assert with_options(text, option_names(COMMANDS[command])) == expected


@pytest.fixture(scope="module")
def folder(few, tmp_path_factory):
    folder = tmp_path_factory.mktemp("messages")
    few.write_h5ad(folder / "few.h5ad")
    return folder


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--to", "NK=x"], "--to must give a whole number, as in 'B cells=500', got 'NK=x'."),
        (["--to", "5", "--to", "NK=5"], "--to must look like 'B cells=500', got '5'."),
        (["--to", "NK cells=500"], "--to must name labels of the cells ('CD14+ Monocyte', 'CD19+ B', "),
        (["--to", "0"], "--to must be at least 1, got 0."),
        (["--model", "m", "--epochs", "3"], "--model cannot be combined with --covariate-key, --n-top-genes or"),
    ],
)  # fmt: skip
def test_augment_names_its_options(folder, words, expected):
    done = run("augment", "few.h5ad", "--label-key", "cell_type", *words, "--out", "a.h5ad", cwd=folder)
    assert done.returncode == 2
    assert expected in done.stderr
    assert not (folder / "a.h5ad").exists()


def test_warnings_name_options_too(folder):
    done = run("augment", "few.h5ad", "--label-key", "cell_type", "--to", "1", "--epochs", 1, "--quiet", "--out", "b.h5ad", cwd=folder)  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "(--to 1), so no cells were generated. Try a larger number, such as --to 1000." in done.stderr


def test_min_counts_of_the_command_line(folder):
    words = ["fit", "few.h5ad", "--epochs", 1, "--quiet", "--out", "m", "--overwrite", "--min-counts"]
    done = run(*words, 150, cwd=folder)
    assert done.returncode == 0, done.stderr
    assert re.search(
        r"Warning: 29 of 120 cells have fewer than 150 counts in all 50 genes and are left", done.stderr
    )
    done = run(*words, 100_000, cwd=folder)
    assert done.returncode == 2
    assert "Error: --min-counts must leave at least 10 cells, but 0 of 120 have 100,000 counts" in done.stderr
