"""The model card and `vaexprs info`."""

import json
import shutil

import numpy as np
import pytest

import vaexprs as vx
from commands import run


@pytest.fixture(scope="module")
def saved(few, tmp_path_factory):
    """A saved model with a label, a covariate and a continuous covariate, whose names are hard to print."""
    mine = few.copy()
    mine.obs_names = [f"patient-{i}-barcode" for i in range(mine.n_obs)]
    mine.obs["cell_type"] = mine.obs["cell_type"].astype(str).replace({"Dendritic": "a|b <i>*c*\x1b[31m"})
    mine.obs["age"] = np.random.default_rng(0).integers(20, 80, mine.n_obs)
    fit = vx.fit_vae(
        mine, label_key="cell_type", covariate_keys=["phase"], continuous_keys=["age"], epochs=2, verbose=0
    )
    return fit.save(tmp_path_factory.mktemp("card") / "model")


def test_info_describes_a_model(few, saved):
    done = run("info", saved, "--json")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["genes"] == list(few.var_names)
    assert found["label_key"] == "cell_type"
    assert found["labels"] == {
        "CD14+ Monocyte": 30, "CD19+ B": 30, "CD56+ NK": 30, "a|b <i>*c*\x1b[31m": 30
    }  # fmt: skip
    assert found["covariates"] == {"phase": few.obs["phase"].value_counts()[["G1", "G2M", "S"]].to_dict()}
    assert (found["continuous"]["age"]["low"], found["continuous"]["age"]["high"]) == (20, 79)
    assert (found["likelihood"], found["counts"], found["guarantee"], found["cells"]) == (
        "nb",
        True,
        None,
        120,
    )
    assert (found["epochs"], found["recipe"]["arguments"]["epochs"]) == (2, 2)
    text = run("info", saved).stdout
    for line in ("CD19+ B: 30", "age: 20 to 79", "likelihood nb of counts", "covariate_keys: ['phase']"):
        assert line in text
    assert f"50: {', '.join(few.var_names[:5])}, ... (45 more)" in text
    assert "\x1b" not in text  # a terminal would execute it


def test_the_card_is_written_and_not_needed(saved, tmp_path):
    card = (saved / "README.md").read_text(encoding="utf-8")
    assert "* CD19+ B: 30" in card
    assert "a\\|b \\<i\\>\\*c\\*\\\\x1b\\[31m: 30" in card  # nothing in it is Markdown or HTML
    assert "without differential privacy" in card
    assert "barcode" not in card
    shutil.copytree(saved, tmp_path / "model")
    expected = vx.gen_exprs(vx.load_vae(saved), 20).adata.to_df()
    (tmp_path / "model" / "README.md").unlink()
    assert vx.gen_exprs(vx.load_vae(tmp_path / "model"), 20).adata.to_df().equals(expected)
    # a model saved by an earlier version is replaced; loading and saving again writes the same card
    vx.load_vae(saved).save(tmp_path / "model", overwrite=True)
    assert (tmp_path / "model" / "README.md").read_text(encoding="utf-8") == card


def test_a_folder_with_a_readme_alone_is_not_replaced(saved, tmp_path):
    (tmp_path / "project").mkdir()
    (tmp_path / "project" / "README.md").write_text("my notes")
    with pytest.raises(FileExistsError, match=r"project'.*not a saved model"):
        vx.load_vae(saved).save(tmp_path / "project", overwrite=True)
    assert (tmp_path / "project" / "README.md").read_text() == "my notes"


def test_a_data_set_is_not_a_model(few, tmp_path):
    few.write_h5ad(tmp_path / "few.h5ad")
    done = run("generate", "few.h5ad", "-n", 5, "--out", "g.h5ad", cwd=tmp_path)
    assert done.returncode == 2
    assert "saved model is a folder, got the file 'few.h5ad'" in done.stderr
