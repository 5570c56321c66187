"""From an AnnData to the matrix the network sees and one-hot conditions, and back."""

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
from scipy.special import boxcox
from sklearn.preprocessing import MinMaxScaler, OneHotEncoder

import vaexprs as vx
from vaexprs.data import backed as ondisk
from vaexprs.data.backed import BackedCells, BackedMatrix, stamp_of
from vaexprs.data.demo import demo_cells
from vaexprs.data.matrix import limits
from vaexprs.io.stores import open_store
from vaexprs.preprocessing.conditions import Conditions, LevelCodes, column_of_levels, learn_conditions
from vaexprs.preprocessing.genes import check_genes, with_genes
from vaexprs.preprocessing.prepare import Cells, Preprocessing
from vaexprs.preprocessing.scaling import POWERS, SCALINGS, Scaling
from vaexprs.preprocessing.splits import apportion, split_rows
from vaexprs.preprocessing.summary import Summary, check_cells, summarise

# genes with their smallest value at 0, above and below it, and a constant one
VALUES = np.array([[0, 2, -1, 5], [4, 3, 1, 5], [1, 6, 0, 5]], np.float32)
SCALED = np.array([[0, 0, 0, 0], [1, 0.25, 1, 0], [0.25, 1, 0.5, 0]])
NO_LIMITS = np.empty(0)

both_forms = pytest.mark.parametrize("form", [np.asarray, sp.csr_matrix], ids=["dense", "sparse"])


def dense(x):
    return x.toarray() if sp.issparse(x) else np.asarray(x)


@pytest.fixture(scope="module")
def cells():
    return demo_cells()


# ---- Scaling


@both_forms
def test_minmax_is_each_gene_from_its_smallest_to_its_largest_value(form):
    x = form(VALUES)
    scaling = Scaling.fit("minmax", *limits(x))
    np.testing.assert_array_equal(scaling.low, [0, 2, -1, 5])
    np.testing.assert_array_equal(scaling.range, [4, 4, 2, 0])
    scaled = scaling.forward(x)
    assert scaled.dtype == np.float32
    assert sp.issparse(scaled) == sp.issparse(x)
    np.testing.assert_allclose(dense(scaled), SCALED, atol=1e-7)


@both_forms
def test_minmax_of_real_cells_is_that_of_scikit_learn(cells, form):
    x = form(cells.X.toarray())
    expected = MinMaxScaler().fit_transform(cells.X.toarray().astype(float))
    np.testing.assert_allclose(dense(Scaling.fit("minmax", *limits(x)).forward(x)), expected, atol=1e-6)


def test_minmax_keeps_its_digits_far_from_zero():
    x = (1e4 + np.random.default_rng(0).random((50, 3))).astype(np.float32)
    expected = MinMaxScaler().fit_transform(x.astype(float))
    for form in (np.asarray, sp.csr_matrix):
        np.testing.assert_allclose(
            dense(Scaling.fit("minmax", *limits(form(x))).forward(form(x))), expected, atol=1e-6
        )


def test_other_cells_are_scaled_with_the_limits_of_the_training_cells():
    scaling = Scaling.fit("minmax", *limits(VALUES))
    other = np.array([[8, 0, 2, 5], [-4, 4, -3, 5]], np.float32)
    expected = [[2, -0.5, 1.5, 0], [-1, 0.5, -1, 0]]
    np.testing.assert_allclose(scaling.forward(other), expected, atol=1e-6)
    np.testing.assert_allclose(scaling.forward(sp.csr_matrix(other)).toarray(), expected, atol=1e-6)


def test_constant_gene_becomes_zero_and_comes_back_as_its_value():
    scaling = Scaling.fit("minmax", *limits(VALUES))
    assert (scaling.forward(VALUES)[:, 3] == 0).all()
    np.testing.assert_array_equal(scaling.inverse(np.zeros((2, 4)))[:, 3], [5, 5])


def test_genes_with_a_smallest_value_of_zero_stay_sparse():
    x = sp.random_array((200, 20), density=0.1, rng=np.random.default_rng(0), format="csr")
    x = sp.csr_matrix(x, dtype=np.float32)
    assert Scaling.fit("minmax", *limits(x)).forward(x).nnz == x.nnz


@both_forms
def test_log1p_is_the_logarithm_of_one_more(form):
    x = form(np.abs(VALUES))
    scaled = Scaling.fit("log1p", *limits(x)).forward(x)
    assert sp.issparse(scaled) == sp.issparse(x)
    np.testing.assert_allclose(dense(scaled), np.log(1 + np.abs(VALUES)), rtol=1e-6)


@both_forms
def test_sqrt_is_twice_the_root_of_one_more_less_two(form):
    x = form(np.array([[0, 3, 8, 0.5625]], np.float32))
    scaled = Scaling.fit("sqrt", *limits(x)).forward(x)
    assert sp.issparse(scaled) == sp.issparse(x)
    np.testing.assert_allclose(dense(scaled), [[0, 2, 4, 0.5]], rtol=1e-6)


@both_forms
@pytest.mark.parametrize("kind", ["none", "sqrt", "log1p"])
def test_powers_are_box_and_coxs_transformation_of_one_more(form, kind):
    x = form(np.abs(VALUES))
    expected = boxcox(1 + np.abs(VALUES).astype(float), POWERS[kind][0])
    scaled = Scaling.fit(kind, *limits(x)).forward(x)
    assert scaled.dtype == np.float32
    np.testing.assert_allclose(dense(scaled), expected, rtol=1e-6)


@both_forms
def test_scaling_leaves_the_users_values_as_they_are(form):
    for kind in SCALINGS:
        x = form(np.abs(VALUES))
        Scaling.fit(kind, *limits(x)).forward(x)
        np.testing.assert_array_equal(dense(x), np.abs(VALUES))


@pytest.mark.parametrize("kind", SCALINGS)
def test_inverse_gives_the_users_values_back(kind):
    x = VALUES if kind == "minmax" else np.abs(VALUES)
    scaling = Scaling.fit(kind, *limits(x))
    np.testing.assert_allclose(scaling.inverse(scaling.forward(x)), x, atol=1e-6)


def test_only_minmax_has_limits():
    assert {kind: len(Scaling.fit(kind, *limits(VALUES)).low) for kind in SCALINGS} == {
        kind: 4 if kind == "minmax" else 0 for kind in SCALINGS
    }


def test_unknown_scaling_suggests_the_nearest():
    words = r"^kind\b.*'none', .*'minmax'.*'min-max'.*'minmax'"
    with pytest.raises(ValueError, match=words):
        Scaling.fit("min-max", *limits(VALUES))


@both_forms
def test_constant_genes_are_named(form):
    genes = pd.Index(["g1", "g2", "g3", "g4"])
    assert Summary.of(form(VALUES)).constant_genes(genes) == ["g4"]
    assert Summary.of(form(VALUES * [1, 0, 1, 0])).constant_genes(genes) == ["g2", "g4"]


# ---- Conditions


@pytest.fixture
def conditions():
    return Conditions("cell_type", {"cell_type": ("T", "B", "NK"), "batch": ("1", "2")})


def test_label_comes_first_and_the_rest_are_covariates(conditions):
    assert conditions.keys == ["cell_type", "batch"]
    assert conditions.covariate_keys == ["batch"]
    assert conditions.labels == ("T", "B", "NK")
    assert conditions.width == 5


def test_conditions_may_have_no_label_or_be_none_at_all():
    covariate, none = Conditions(None, {"batch": ("1", "2")}), Conditions(None, {})
    assert (covariate.labels, covariate.covariate_keys, covariate.width) == ((), ["batch"], 2)
    assert (none.labels, none.covariate_keys, none.width) == ((), [], 0)
    assert none.one_hot(pd.DataFrame(index=range(3))).shape == (3, 0)


def test_one_hot_has_a_block_for_each_key_in_the_order_of_its_levels(conditions):
    frame = pd.DataFrame({"batch": ["2", "1", "1"], "cell_type": ["B", "NK", "T"]})
    code = conditions.one_hot(frame)
    assert code.dtype == np.float32
    np.testing.assert_array_equal(code, [[0, 1, 0, 0, 1], [0, 0, 1, 1, 0], [1, 0, 0, 1, 0]])


def test_one_hot_takes_categoricals_and_numbers(conditions):
    frame = pd.DataFrame({"batch": [2, 1], "cell_type": pd.Categorical(["B", "T"])})
    np.testing.assert_array_equal(conditions.one_hot(frame), [[0, 1, 0, 0, 1], [1, 0, 0, 1, 0]])


def test_one_hot_of_real_cells_is_that_of_scikit_learn(cells):
    learned = learn_conditions(cells.obs, "cell_type", ["phase"])
    expected = OneHotEncoder(categories=[list(levels) for levels in learned.levels.values()])
    values = cells.obs[["cell_type", "phase"]].astype(str).to_numpy()
    np.testing.assert_array_equal(learned.one_hot(cells.obs), expected.fit_transform(values).toarray())


def test_one_hot_of_no_cells_has_no_rows(conditions):
    assert conditions.one_hot(pd.DataFrame({"batch": [], "cell_type": []})).shape == (0, 5)


def test_one_hot_names_the_first_value_that_is_no_level(conditions):
    frame = pd.DataFrame({"batch": ["1", "1", "1"], "cell_type": ["T", "nk", "b"]})
    words = r"^cell_type\b.*'T', 'B', 'NK'.*'nk'.*'NK'"
    with pytest.raises(ValueError, match=words):
        conditions.one_hot(frame)


def test_level_is_checked_as_a_string(conditions):
    assert conditions.check("batch", 2) == "2"
    with pytest.raises(ValueError, match=r"^batch\b.*'1', '2'.*'3'"):
        conditions.check("batch", 3)


def test_message_lists_twenty_levels_at_most():
    many = Conditions("n", {"n": tuple(f"level {i}" for i in range(23))})
    with pytest.raises(ValueError, match=r"'level 19'.*\b3 more\b.*'zzz'"):
        many.check("n", "zzz")


# ---- learn_conditions


@pytest.fixture
def obs():
    return pd.DataFrame(
        {
            "cell_type": pd.Categorical(["T", "B", "T", "B"], categories=["NK", "T", "B"]),
            "donor": ["d2", "d1", "d2", "d1"],
            "day": [10, 3, 3, 10],
            "treated": [True, False, True, True],
            "barcode": ["w", "x", "y", "z"],
            "phase": ["G1", None, "S", np.nan],
            "group": pd.Categorical(["a", "b", None, "b"]),
        },
        index=["c1", "c2", "c3", "c4"],
    )


def test_categories_keep_their_order_and_unused_ones_are_dropped(obs):
    assert learn_conditions(obs, "cell_type", []).levels == {"cell_type": ("T", "B")}


def test_levels_of_other_columns_are_sorted_numbers_as_numbers(obs):
    learned = learn_conditions(obs, "donor", ["day", "treated"])
    assert learned.label_key == "donor"
    assert learned.levels == {"donor": ("d1", "d2"), "day": ("3", "10"), "treated": ("False", "True")}


def test_categories_that_are_numbers_become_strings_in_their_order():
    obs = pd.DataFrame({"day": pd.Categorical([10, 3, 3, 10], categories=[3, 7, 10])})
    assert learn_conditions(obs, "day", []).levels == {"day": ("3", "10")}
    assert list(column_of_levels(obs, "day")) == ["10", "3", "3", "10"]


def test_column_of_levels_keeps_the_names_of_the_cells(obs):
    for key in ("cell_type", "donor"):
        column = column_of_levels(obs, key)
        assert list(column.index) == ["c1", "c2", "c3", "c4"]
        assert list(column) == list(obs[key])


def test_one_covariate_may_be_given_by_its_bare_name(obs):
    assert learn_conditions(obs, None, "donor") == learn_conditions(obs, None, ["donor"])


def test_no_keys_make_no_conditions(obs):
    assert learn_conditions(obs, None, ()) == Conditions(None, {})


@pytest.mark.parametrize(
    ("label", "covariates", "what", "given", "nearest"),
    [
        ("celltype", [], "label_key", "celltype", "cell_type"),
        (None, ["Donor"], "covariate_keys", "Donor", "donor"),
    ],
)
def test_missing_column_suggests_the_nearest(obs, label, covariates, what, given, nearest):
    words = rf"^{what}\b.*\bobs\b.*'cell_type', .*'{given}'.*'{nearest}'"
    with pytest.raises(ValueError, match=words):
        learn_conditions(obs, label, covariates)


def test_missing_column_of_an_empty_obs_has_its_own_message(obs):
    with pytest.raises(ValueError, match=r"^label_key\b.*\bobs\b.*'cell_type'"):
        learn_conditions(obs[[]], "cell_type", [])


@pytest.mark.parametrize(("key", "missing"), [("phase", 2), ("group", 1)])
def test_missing_values_are_counted_with_how_to_leave_them_out(obs, key, missing):
    words = rf"^'{key}'.*value.*\bcell\b.*\b{missing}\b.*obs\['{key}'\]\.notna"
    with pytest.raises(ValueError, match=words):
        learn_conditions(obs, key, [])


@pytest.mark.parametrize(("label", "covariates"), [("donor", ["donor"]), (None, ["donor", "donor"])])
def test_key_named_twice_is_refused(obs, label, covariates):
    with pytest.raises(ValueError, match=r"^covariate_keys\b.*'donor'"):
        learn_conditions(obs, label, covariates)


@pytest.mark.parametrize(
    ("label", "covariates", "what"), [("barcode", [], "label_key"), (None, ["barcode"], "covariate_keys")]
)
def test_key_with_a_different_value_in_every_cell_is_refused(obs, label, covariates, what):
    words = rf"^{what}\b.*'barcode'.*\b4 cells"
    with pytest.raises(ValueError, match=words):
        learn_conditions(obs, label, covariates)


def test_two_cells_of_one_value_are_enough_to_group(obs):
    obs["barcode"] = ["w", "w", "y", "z"]
    assert learn_conditions(obs, "barcode", []).levels == {"barcode": ("w", "y", "z")}


def test_single_cell_may_have_a_label(obs):
    assert learn_conditions(obs[:1], "barcode", []).levels == {"barcode": ("w",)}


@pytest.mark.parametrize("given", [5, None])
def test_covariate_keys_that_are_no_list_are_a_type_error_that_names_them(obs, given):
    with pytest.raises(TypeError, match="covariate_keys"):
        learn_conditions(obs, None, given)


def test_categories_that_read_the_same_are_one_level_as_other_values_are():
    values = [1, "1", 1, "2"]
    assert learn_conditions(pd.DataFrame({"day": values}), "day", []).levels == {"day": ("1", "2")}
    assert learn_conditions(pd.DataFrame({"day": pd.Categorical(values)}), "day", []).levels == {
        "day": ("1", "2")
    }


# ---- check_cells


@both_forms
@pytest.mark.parametrize("shape", [(0, 3), (3, 0), (0, 0)])
def test_cells_without_cells_or_genes_are_refused(form, shape):
    words = rf"^x_val\b.*\b{shape[0]} cells x {shape[1]} genes"
    with pytest.raises(ValueError, match=words):
        check_cells(ad.AnnData(form(np.zeros(shape))), "x_val")


@both_forms
def test_one_cell_of_one_gene_is_accepted(form):
    check_cells(ad.AnnData(form(np.ones((1, 1)))), "x_train")


@both_forms
@pytest.mark.parametrize(("value", "word"), [(np.nan, "NaN"), (np.inf, "infinite"), (-np.inf, "infinite")])
def test_values_that_are_not_finite_are_counted(form, value, word):
    x = VALUES.copy()
    x[0, 1] = x[2, 3] = value
    with pytest.raises(ValueError, match=rf"^x_train\b.*finite.*\b2 {word}"):
        check_cells(ad.AnnData(form(x)), "x_train")


@both_forms
@pytest.mark.parametrize("dtype", [np.float32, np.int64, bool])
def test_finite_values_of_any_type_are_accepted(form, dtype):
    check_cells(ad.AnnData(form(VALUES.astype(dtype))), "x_train")


@pytest.mark.filterwarnings("ignore:Variable names are not unique")
def test_duplicate_genes_are_named_with_how_to_make_them_unique():
    var = pd.DataFrame(index=["CD4", "CD8", "CD4", "CD4"])
    words = r"(?i)gene names.*unique.*\b1\b.*'CD4'.*adata\.var_names_make_unique\(\)"
    adata = ad.AnnData(VALUES, var=var)
    with pytest.raises(ValueError, match=words):
        check_cells(adata, "x_train")
    adata.var_names_make_unique()
    check_cells(adata, "x_train")


# ---- Preprocessing


@pytest.fixture
def adata():
    obs = pd.DataFrame({"cell_type": ["T", "B", "T"], "batch": [1, 2, 2]}, index=["c1", "c2", "c3"])
    return ad.AnnData(VALUES, obs=obs, var=pd.DataFrame(index=["g1", "g2", "g3", "g4"]))


@pytest.fixture
def preprocessing(conditions, adata):
    return Preprocessing(adata.var_names, conditions, Scaling.fit("minmax", *limits(VALUES)), "bernoulli")


def test_prepared_cells_are_scaled_and_have_levels_as_strings(preprocessing, adata):
    prepared = preprocessing.prepare(adata, dense=True)
    assert len(prepared) == 3
    np.testing.assert_allclose(prepared.x, SCALED, atol=1e-7)
    assert list(prepared.obs["batch"]) == ["1", "2", "2"]
    assert list(prepared.obs.columns) == ["cell_type", "batch"]
    assert list(prepared.obs.index) == ["c1", "c2", "c3"]


@pytest.mark.parametrize("make_dense", [True, False])
def test_sparse_cells_become_dense_only_if_asked(preprocessing, adata, make_dense):
    adata.X = sp.csr_matrix(VALUES)
    prepared = preprocessing.prepare(adata, dense=make_dense)
    assert sp.issparse(prepared.x) != make_dense
    np.testing.assert_allclose(dense(prepared.x), SCALED, atol=1e-7)


def test_genes_are_matched_by_name_whatever_their_order(preprocessing, adata):
    shuffled = adata[:, ["g3", "g1", "g4", "g2"]]
    np.testing.assert_allclose(preprocessing.prepare(shuffled, dense=True).x, SCALED, atol=1e-7)


def test_genes_that_differ_are_named(preprocessing, adata):
    adata.var_names = ["g1", "x2", "g3", "x4"]
    words = r"\b4\b.*training cells.*\b4\b.*'g2', 'g4'.*'x2', 'x4'"
    with pytest.raises(ValueError, match=words):
        preprocessing.prepare(adata, dense=True)


def test_fewer_and_further_genes_are_named(preprocessing, adata):
    with pytest.raises(ValueError, match=r"\b3\b.*'g2'"):
        preprocessing.prepare(adata[:, ["g1", "g3", "g4"]], dense=True)
    extra = ad.concat(
        [adata, ad.AnnData(VALUES[:, :1], adata.obs, pd.DataFrame(index=["g5"]))], axis=1, merge="same"
    )
    with pytest.raises(ValueError, match=r"\b5\b.*'g5'"):
        preprocessing.prepare(extra, dense=True)


def test_label_that_the_training_cells_lack_is_refused(preprocessing, adata):
    adata.obs["cell_type"] = ["T", "Tcell", "B"]
    with pytest.raises(ValueError, match=r"^cell_type\b.*'T', 'B', 'NK'.*'Tcell'"):
        preprocessing.prepare(adata, dense=True)


def test_missing_label_column_of_other_cells_is_named(preprocessing, adata):
    del adata.obs["cell_type"]
    with pytest.raises(ValueError, match=r"^label_key\b.*\bobs\b.*'batch'.*'cell_type'"):
        preprocessing.prepare(adata, dense=True)


def test_missing_covariate_column_of_other_cells_is_not_called_the_label(preprocessing, adata):
    del adata.obs["batch"]
    with pytest.raises(ValueError, match=r"^covariate_keys\b.*\bobs\b.*'cell_type'.*'batch'"):
        preprocessing.prepare(adata, dense=True)


def test_cells_without_conditions_have_no_codes(adata):
    bare = Preprocessing(adata.var_names, Conditions(None, {}), Scaling("none", NO_LIMITS, NO_LIMITS), "nb")
    prepared = bare.prepare(adata, dense=True)
    assert prepared.obs.shape == (3, 0)
    assert Preprocessing(bare.genes, bare.conditions, bare.scaling, "nb", prepared).y_train is None


def test_preprocessing_holds_matrices_and_codes_of_both_sets(preprocessing, adata):
    train, val = (preprocessing.prepare(part, dense=True) for part in (adata, adata[:1]))
    full = Preprocessing(
        preprocessing.genes, preprocessing.conditions, preprocessing.scaling, "bernoulli", train, val
    )
    np.testing.assert_allclose(full.x_train, SCALED, atol=1e-7)
    np.testing.assert_allclose(full.x_val, SCALED[:1], atol=1e-7)
    np.testing.assert_array_equal(full.y_train, [[1, 0, 0, 1, 0], [0, 1, 0, 0, 1], [1, 0, 0, 0, 1]])
    np.testing.assert_array_equal(full.y_val, [[1, 0, 0, 1, 0]])
    bare = full.without_cells()
    assert (bare.x_train, bare.x_val, bare.y_train, bare.y_val) == (None, None, None, None)
    assert bare.scaling is full.scaling


def test_some_of_the_cells_are_taken_with_their_levels():
    taken = Cells(VALUES, pd.DataFrame({"cell_type": ["T", "B", "NK"]})).take(np.array([2, 0]))
    np.testing.assert_array_equal(taken.x, VALUES[[2, 0]])
    assert list(taken.obs["cell_type"]) == ["NK", "T"]


# ---- split, split_rows, apportion


def test_split_by_label_or_by_donor(cells):
    train, held_out = vx.split(cells, 0.25, label_key="cell_type", seed=3)
    assert (train.n_obs, held_out.n_obs) == (525, 175)
    assert sorted([*train.obs_names, *held_out.obs_names]) == sorted(cells.obs_names)
    sizes = cells.obs["cell_type"].value_counts()
    held = held_out.obs["cell_type"].value_counts()
    assert all(abs(held[label] - n / 4) < 1 for label, n in sizes.items())
    again = vx.split(cells, 0.25, label_key="cell_type", seed=3)[1]
    assert list(again.obs_names) == list(held_out.obs_names)
    assert list(vx.split(cells, 0.25, label_key="cell_type")[1].obs_names) != list(again.obs_names)
    train, held_out = vx.split(cells, 0.3, by="phase")
    assert not set(train.obs["phase"]) & set(held_out.obs["phase"])
    assert held_out.obs["phase"].nunique() == 1
    held_out.obs["new"] = 1  # a copy
    assert "new" not in cells.obs


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        ({"adata": "x.h5ad"}, TypeError, r"adata.*AnnData.*\bstr\b.*vx\.read"),
        ({"fraction": 1}, ValueError, r"fraction.*less than 1.*got 1"),
        ({"fraction": 0}, ValueError, r"got 700 .*\b0 held out.*fraction=0"),
        ({"by": "phase", "label_key": "cell_type"}, ValueError, r"by.*label_key"),
        ({"label_key": "type"}, ValueError, r"label_key.*'cell_type'.*'type'"),
    ],
)
def test_splits_that_cannot_be_made(cells, arguments, error, words):
    with pytest.raises(error, match=words):
        vx.split(**{"adata": cells} | arguments)


LABELS = np.repeat(["a", "b", "c"], [60, 30, 10])


def test_split_is_disjoint_complete_and_sorted():
    train, val = split_rows(LABELS, 100, 0.25, seed=0)
    assert sorted([*train, *val]) == list(range(100))
    assert len(val) == 25
    assert (np.diff(train) > 0).all()
    assert (np.diff(val) > 0).all()


@pytest.mark.parametrize("fraction", [0.1, 0.2, 0.5])
def test_split_holds_the_same_fraction_of_each_label(fraction):
    _, val = split_rows(LABELS, 100, fraction, seed=0)
    held = [int((LABELS[val] == label).sum()) for label in "abc"]
    assert held == [60 * fraction, 30 * fraction, 10 * fraction]


@pytest.mark.parametrize(("n", "fraction"), [(700, 0.2), (7, 0.3), (10, 0.04), (3, 0.5)])
def test_split_without_labels_holds_the_rounded_fraction(n, fraction):
    train, val = split_rows(None, n, fraction, seed=0)
    assert len(val) == round(n * fraction)
    assert len(train) + len(val) == n


def test_split_of_real_cells_is_within_one_cell_of_each_labels_share(cells):
    labels = cells.obs["cell_type"].to_numpy()
    _, val = split_rows(labels, 700, 0.2, seed=0)
    assert len(val) == 140
    share = cells.obs["cell_type"].value_counts() * 0.2
    held = pd.Series(labels[val]).value_counts().reindex(share.index, fill_value=0)
    assert ((held - share).abs() < 1).all()


def test_label_of_one_cell_is_never_held_out():
    labels = np.array(["a"] * 9 + ["rare"])
    for seed in range(20):
        for fraction in (0.1, 0.5, 0.9):
            assert 9 in split_rows(labels, 10, fraction, seed)[0]


def test_every_label_keeps_a_training_cell_however_large_the_fraction():
    train, _ = split_rows(LABELS, 100, 0.999, seed=0)
    assert sorted(LABELS[train]) == ["a", "b", "c"]


def test_fraction_of_zero_holds_nothing_out():
    train, val = split_rows(LABELS, 100, 0.0, seed=0)
    assert len(val) == 0
    np.testing.assert_array_equal(train, np.arange(100))


def test_split_is_that_of_its_seed():
    first, again, other = (split_rows(LABELS, 100, 0.25, seed)[1] for seed in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    assert set(first) != set(other)


def test_apportion_of_an_election_by_largest_remainders():
    """The example of the Wikipedia article on the quota method: Hare quota, ten seats."""
    votes = np.array([47_000, 16_000, 15_900, 12_000, 6_000, 3_100])
    assert apportion(votes, 10).tolist() == [5, 2, 1, 1, 1, 0]


def test_apportion_gives_whole_numbers_within_one_of_the_proportion_that_sum_to_n():
    rng = np.random.default_rng(0)
    for _ in range(200):
        weights, n = rng.random(rng.integers(1, 30)) ** 4, int(rng.integers(0, 500))
        counts = apportion(weights, n)
        assert counts.sum() == n
        assert (np.abs(counts - weights / weights.sum() * n) < 1).all()


def test_apportion_is_exact_where_the_proportion_is_whole():
    assert apportion(np.array([0.29, 0.57, 0.14]), 100).tolist() == [29, 57, 14]
    assert apportion(np.array([0, 3]), 4).tolist() == [0, 4]


# ---- in blocks, and from disk


def on_disk(x, path):
    """Return a matrix as one that is left on disk."""
    ad.AnnData(x).write_h5ad(path)
    part = open_store(path).group["X"]
    return BackedMatrix(ad.io.sparse_dataset(part) if sp.issparse(x) else part, path, stamp_of(path))


def test_summary_says_what_is_known_of_the_values(cells):
    x = cells.X.toarray().astype(np.float64)
    x[3] = 0
    found = Summary.of(sp.csr_matrix(x, dtype=np.float32))
    assert (found.cells, found.n_empty, found.empty.tolist(), found.fractions) == (700, 1, [3], 0)
    assert found.nonzero == np.count_nonzero(x)
    np.testing.assert_array_equal(found.low, x.min(axis=0))
    np.testing.assert_array_equal(found.high, x.max(axis=0))
    np.testing.assert_array_equal(found.total, x.sum(axis=0))
    logged = np.log1p(1e4 * x / np.maximum(x.sum(axis=1, keepdims=True), 1))
    np.testing.assert_allclose(found.logged, logged.sum(axis=0), rtol=1e-5)
    np.testing.assert_allclose(found.logged_squares, (logged**2).sum(axis=0), rtol=1e-5)
    assert found.whole
    assert not Summary.of(np.array([[0.5, 1]], np.float32)).whole
    assert not Summary.of(np.array([[-1, 1]], np.float32)).whole


def same(one, other):
    for name in ("cells", "nonzero", "fractions", "n_empty"):
        assert getattr(one, name) == getattr(other, name)
    for name in ("low", "high", "empty"):
        np.testing.assert_array_equal(getattr(one, name), getattr(other, name))
    for name in ("total", "logged", "logged_squares"):
        np.testing.assert_allclose(getattr(one, name), getattr(other, name), rtol=1e-6)


@both_forms
def test_summaries_of_blocks_are_together_that_of_the_whole(form):
    x = np.random.default_rng(0).poisson(0.3, (101, 8)).astype(np.float32)
    x[[0, 20, 21, 50, 51, 52, 99, 100]] = 0
    x[30, 2], x[31, 3] = 0.5, -2
    parts = [Summary.of(form(x[first : first + 17])) for first in range(0, 101, 17)]
    joined = parts[0]
    for part in parts[1:]:
        joined = joined.joined(part)
    whole = Summary.of(form(x))
    assert whole.n_empty >= 8
    assert whole.empty.tolist()[:2] == [0, np.flatnonzero(x.sum(axis=1) == 0)[1]]
    same(joined, whole)


@both_forms
def test_summary_from_disk_is_that_from_memory(tmp_path, monkeypatch, form, cells):
    monkeypatch.setattr(ondisk, "BLOCK_BYTES", 50_000)
    x = form(cells.X.toarray())
    disk = on_disk(x, tmp_path / "x.h5ad")
    assert disk.rows_in(ondisk.BLOCK_BYTES) < 100
    same(summarise(disk, "object"), Summary.of(x))
    kept = np.arange(0, 700, 3)
    same(summarise(disk.keep(kept), "object"), Summary.of(x[kept]))


def test_digest_distinguishes_matrices(cells):
    x = cells.X.toarray()
    first = Summary.of(x).digest()
    assert first == Summary.of(x.copy()).digest()
    other = x.copy()
    other[7, 9] += 1
    assert Summary.of(other).digest() != first
    assert Summary.of(x[:, ::-1]).digest() != first


@both_forms
def test_values_on_disk_that_are_not_finite_are_refused(tmp_path, monkeypatch, form):
    monkeypatch.setattr(ondisk, "BLOCK_BYTES", 200)
    x = np.ones((60, 4), np.float32)
    x[55, 2] = np.nan
    with pytest.raises(ValueError, match=r"object.*finite.*\b1 NaN\b"):
        summarise(on_disk(form(x), tmp_path / "x.h5ad"), "object")


@both_forms
@pytest.mark.parametrize("kind", SCALINGS)
def test_cells_on_disk_are_prepared_as_those_in_memory(tmp_path, form, kind, adata, conditions):
    x = form(VALUES if kind == "minmax" else np.abs(VALUES))
    turned = ad.AnnData(x, obs=adata.obs, var=adata.var)[:, ::-1].copy()
    prep = Preprocessing(adata.var_names, conditions, Scaling.fit(kind, *limits(x)), "gaussian")
    disk = BackedCells(
        on_disk(turned.X, tmp_path / "x.h5ad"), turned.obs.reset_index(drop=True), turned.var_names
    )
    found, wanted = prep.prepare(disk, dense=False), prep.prepare(turned, dense=True)
    assert isinstance(found.x, BackedMatrix)
    np.testing.assert_allclose(dense(found.x[:]), wanted.x, atol=1e-6)
    np.testing.assert_array_equal(found.obs.to_numpy(str), wanted.obs.to_numpy(str))
    rows = np.array([0, 2])
    left, taken = found.keep(rows), found.take(rows)
    assert isinstance(left.x, BackedMatrix)
    assert not isinstance(taken.x, BackedMatrix)
    for part in (dense(left.x[:]), dense(taken.x)):
        np.testing.assert_allclose(part, wanted.x[rows], atol=1e-6)
    assert len(left) == len(taken) == 2
    assert list(left.obs.iloc[:, 0]) == list(taken.obs.iloc[:, 0]) == list(wanted.obs.iloc[rows, 0])


def test_level_codes_are_one_hot_for_the_rows_asked_for(conditions):
    rng = np.random.default_rng(0)
    obs = pd.DataFrame({key: rng.choice(levels, 50) for key, levels in conditions.levels.items()})
    codes, all_of_them = LevelCodes(conditions, conditions.columns(obs)), conditions.one_hot(obs)
    np.testing.assert_array_equal(codes[:], all_of_them)
    np.testing.assert_array_equal(codes[10:20], all_of_them[10:20])
    np.testing.assert_array_equal(codes[np.array([4, 4, 0])], all_of_them[[4, 4, 0]])
    np.testing.assert_array_equal(codes.take(np.array([7, 3]))[:], all_of_them[[7, 3]])
    assert codes[:].dtype == np.float32


def test_listed_genes_are_taken_in_the_order_of_the_cells():
    cells = ad.AnnData(
        np.arange(8, dtype=np.float32).reshape(2, 4),
        obs=pd.DataFrame({"type": pd.Categorical(["a", "a"], ["a", "b"])}, index=["1", "2"]),
        var=pd.DataFrame(index=list("wxyz")),
    )
    with pytest.warns(UserWarning, match=r"1 of the 3 listed genes.*left out.*'q'"):
        found = with_genes(cells, ["z", "q", "x"])
    assert list(found.var_names) == ["x", "z"]
    assert found.X.tolist() == [[1, 3], [5, 7]]
    assert list(found.obs["type"].cat.categories) == ["a", "b"]
    with pytest.raises(ValueError, match=r"genes.*'w'.*'q'.*none"):
        with_genes(cells, ["q"])


@pytest.mark.parametrize(
    ("genes", "error", "words"),
    [
        ("CD3D", TypeError, r"genes must be a list.*str"),
        ([1, 2], TypeError, r"genes.*got 1"),
        ([], ValueError, r"genes.*at least one"),
        (["a", "b", "a"], ValueError, r"genes.*once.*'a'"),
    ],
)
def test_lists_of_genes_are_checked(genes, error, words):
    with pytest.raises(error, match=words):
        check_genes(genes)
