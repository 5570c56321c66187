"""Comparison of generators: fresh real cells come before known-bad ones, on equal numbers of the same labels."""

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp

import vaexprs as vx
from vaexprs.metrics.compare import (
    CONTROLS,
    INDEPENDENT_CONTROL,
    REAL_CONTROL,
    _with_independent_genes,
    grouped_notes,
    view,
)

CHEAP = ["gene_means", "library_size_ratio", "deviance_ratio"]
GIVEN = {"label_key": "cell_type", "only": CHEAP, "resamples": 12, "progress": False}


@pytest.fixture(scope="module")
def parts(few):
    """Cells in three sets with equal composition: fresh, real and training cells."""
    return [few[np.arange(few.n_obs) // 4 % 3 == i].copy() for i in range(3)]


@pytest.fixture(scope="module")
def bad(parts):
    """Cells with the means of all cells together, whatever their label."""
    x = parts[2].X.toarray()
    drawn = np.random.default_rng(0).poisson(x.mean(axis=0), x.shape)
    return ad.AnnData(sp.csr_matrix(drawn, dtype=np.float32), obs=parts[2].obs, var=parts[2].var)


@pytest.fixture(scope="module")
def table(parts, bad):
    generated = {"bad": bad, "fresh": parts[0]}
    return vx.compare(generated, parts[1], train=parts[2], controls=True, **GIVEN)


def test_the_best_generator_is_first_and_controls_are_last(table):
    assert list(table.columns) == [
        "generator", "metric", "label", "value", "floor", "floor_low", "floor_high", "verdict",
    ]  # fmt: skip
    assert list(dict.fromkeys(table["generator"])) == ["fresh", "bad", REAL_CONTROL, INDEPENDENT_CONTROL]
    assert not table.duplicated(["generator", "metric", "label"]).any()
    lights = {name: {q: light for q, light, _ in of} for name, of in table.attrs["answers"].items()}
    assert lights["fresh"]["Do they look real?"] == "green"
    assert lights[REAL_CONTROL]["Do they look real?"] == "green"
    assert lights["bad"]["Do they look real?"] == "red"
    assert table.attrs["controls"] == list(CONTROLS)


def test_generators_have_the_same_baseline(table):
    columns = ["metric", "label", "floor", "floor_low", "floor_high"]
    first, second = (table.loc[table["generator"] == name, columns] for name in ("fresh", "bad"))
    pd.testing.assert_frame_equal(first.reset_index(drop=True), second.reset_index(drop=True))


def test_values_are_those_of_evaluate(parts, table):
    alone = vx.evaluate(parts[0], parts[1], train=parts[2], **GIVEN)
    rows = table[table["generator"] == "fresh"].drop(columns="generator").reset_index(drop=True)
    pd.testing.assert_frame_equal(rows, pd.DataFrame(alone), check_like=True)


def test_the_table_depends_on_the_seed_only(parts, bad):
    larger = ad.concat([parts[0], parts[2]])
    one, again = (vx.compare({"a": larger, "b": bad}, parts[1], **GIVEN) for _ in range(2))
    pd.testing.assert_frame_equal(one, again)
    assert one.attrs == again.attrs
    other = vx.compare({"a": larger, "b": bad}, parts[1], **GIVEN | {"seed": 1})
    assert not one["value"].equals(other["value"])


def test_all_generators_have_the_smallest_number_of_cells(parts):
    of_label = parts[0].obs["cell_type"].astype(str)
    fewer = parts[0][(of_label != "Dendritic") | (np.arange(parts[0].n_obs) < 24)].copy()
    table = vx.compare({"all": parts[0], "fewer": fewer}, parts[1], train=parts[2], **GIVEN)
    assert len(set(table.attrs["cells"].values())) == 1
    assert any(f"{fewer.n_obs} cells in total" in note for note, names in grouped_notes(table) if not names)


def test_labels_that_a_generator_lacks_are_left_out_with_a_note(parts):
    rest = parts[0][parts[0].obs["cell_type"] != "Dendritic"].copy()
    table = vx.compare({"all": parts[0], "rest": rest}, parts[1], train=parts[2], **GIVEN)
    assert "Dendritic" not in set(table["label"])
    assert "CD56+ NK" in set(table["label"])
    for notes in table.attrs["notes"].values():
        assert "Labels that not all generators have, not compared: 'Dendritic'." in notes
    # of the rest, the cells are the same
    by = {name: part.drop(columns="generator").reset_index(drop=True)
          for name, part in pd.DataFrame(table).groupby("generator")}  # fmt: skip
    pd.testing.assert_frame_equal(by["all"], by["rest"])


def test_only_shared_genes_are_compared(parts):
    table = vx.compare({"all": parts[0], "fewer": parts[0][:, :30].copy()}, parts[1], **GIVEN)
    assert any("30 genes" in note for note in table.attrs["notes"]["all"])
    values = pd.DataFrame(table).pivot(index=["metric", "label"], columns="generator", values="value")
    np.testing.assert_array_equal(values["all"], values["fewer"])


def test_cells_without_labels_and_one_generator(parts):
    table = vx.compare({"one": parts[0]}, parts[1], only=["gene_means"], resamples=3, progress=False)
    assert list(table["generator"]) == ["one"]
    assert view(table)["labels"] == []


def test_independent_genes_keep_the_values_of_each_gene_and_label(parts):
    cells = parts[2]
    labels = cells.obs["cell_type"].astype(str).to_numpy()
    permuted = _with_independent_genes(cells, labels, 0)
    dense = ad.AnnData(cells.X.toarray(), obs=cells.obs, var=cells.var)
    np.testing.assert_array_equal(permuted.toarray(), _with_independent_genes(dense, labels, 0))
    assert (permuted != cells.X).nnz > 0
    for label in np.unique(labels):
        rows = labels == label
        of_label = (x[rows].toarray() for x in (permuted, cells.X))
        before, after = (np.sort(x, axis=0) for x in of_label)
        np.testing.assert_array_equal(before, after)


def test_controls_are_not_among_the_real_cells(parts):
    train = ad.concat([parts[2], parts[1]])
    given = GIVEN | {"only": ["copies"], "controls": True}
    table = vx.compare({"fresh": parts[0]}, parts[1], train=train, **given)
    copies = pd.DataFrame(table).set_index("generator")["value"]
    assert copies[REAL_CONTROL] == copies["fresh"] == 0
    with pytest.raises(ValueError, match=r"^controls=True requires training cells.*not among the real cells"):
        vx.compare({"fresh": parts[0]}, parts[1], train=parts[1], **given)


def test_notebooks_show_a_summary_and_slices_are_plain(table):
    page = table._repr_html_()
    assert "Comparison of 4 generators" in page
    assert "Gene means (largest differences)" in page
    assert 'scope="row"' in page
    part = table[table["label"] == "all"]
    assert type(part) is pd.DataFrame
    without = type(table)(table.drop(columns="verdict"))  # as after `del table["verdict"]`
    assert "Comparison of" not in without._repr_html_()
    assert "gene_means" in without._repr_html_()


@pytest.mark.parametrize(
    ("generated", "error", "message"),
    [
        ([1], TypeError, r"^generated must be a mapping .*, got list\."),
        ({}, ValueError, r"^generated must have at least one entry"),
        ({1: None}, TypeError, r"^The names in generated must be text, got 1\."),
        ({" ": None}, ValueError, r"^The names in generated must not be empty"),
        ({"a": None, "a ": None}, ValueError, r"^The names in generated must be unique, got 'a'"),
        ({"a": 3}, TypeError, r"^a: generated must be .*, got int\."),
    ],
)
def test_mistakes_in_names(parts, generated, error, message):
    with pytest.raises(error, match=message):
        vx.compare(generated, parts[1], **GIVEN)


def test_mistakes_in_cells(parts):
    fresh, real, train = parts
    with pytest.raises(ValueError, match=r"^controls=True requires training cells\."):
        vx.compare({"a": fresh}, real, controls=True, **GIVEN)
    with pytest.raises(ValueError, match=r"is reserved for a control"):
        vx.compare({REAL_CONTROL: fresh}, real, train=train, controls=True, **GIVEN)
    with pytest.raises(ValueError, match=r"^a: label_key must be a column of obs \('cell_type'.*'nothing'"):
        vx.compare({"a": fresh}, real, **GIVEN | {"label_key": "nothing"})
    one, other = (fresh[fresh.obs["cell_type"] == name] for name in ("Dendritic", "CD56+ NK"))
    with pytest.raises(ValueError, match=r"must share labels.*b has 'CD56\+ NK'"):
        vx.compare({"a": one, "b": other}, real, **GIVEN)
    renamed = fresh.copy()
    renamed.var_names = [f"x{i}" for i in range(renamed.n_vars)]
    with pytest.raises(ValueError, match=r"must share genes"):
        vx.compare({"a": fresh, "b": renamed}, real, **GIVEN)
    with pytest.raises(ValueError, match=r"^a: real must have the genes of the generated cells"):
        vx.compare({"a": renamed}, real, **GIVEN)
    first, second = fresh.copy(), fresh.copy()
    first.uns["vaexprs"], second.uns["vaexprs"] = {"label_key": "cell_type"}, {"label_key": "phase"}
    with pytest.raises(ValueError, match=r"different label keys .*'cell_type', 'phase'"):
        vx.compare({"a": first, "b": second}, real, **GIVEN | {"label_key": None})
