"""plot_vae and plot_aug: what is in the pictures."""

import re
from pathlib import Path

import anndata as ad
import keras
import matplotlib as mpl
import numpy as np
import pytest

import vaexprs as vx
from commands import run
from vaexprs.plotting.embedding import save_figure
from vaexprs.plotting.model_graph import NODE_COLORS
from vaexprs.plotting.reductions import REDUCTIONS

REFERENCE = Path(__file__).parents[1] / "reference"


def nodes(dot):
    """Return (type, colour) of each node of a DOT text, ours or R's, with ours' escapes removed."""
    dot = dot.replace("\\ ", " ")
    found = re.findall(
        r"label = ?[\"']?(.+?)[\"'], fillcolor ?= ?[\"']?(\w+)", dot.replace("label=", "label = ")
    )
    return [(re.sub(r"[|{ ].*", "", label.split(" : ")[1]), color) for label, color in found]


def edges(dot):
    return {tuple(map(int, pair)) for pair in re.findall(r"(\d+) ?-> ?(\d+)", dot)}


@pytest.mark.parametrize("reference", ["plot_vae.dot", "plot_cvae.dot"])
def test_the_graph_has_the_nodes_edges_and_colours_of_the_originals(few, reference):
    """Against the DOT text that the original wrote for the same architecture."""
    r = (REFERENCE / reference).read_text().replace("Lambda", "Sampling")
    conditional = "condition" in r
    fit = vx.fit_vae(
        few,
        label_key="cell_type" if conditional else None,
        encoder_layers=[keras.Input((50,)), keras.layers.Dense(8, "relu")],
        decoder_layers=[keras.layers.Dense(8, "relu"), keras.layers.Dense(50, "sigmoid")],
        epochs=1,
        verbose=0,
    )
    ours = vx.plot_vae(fit.model).dot
    assert sorted(nodes(ours)) == sorted(nodes(r))
    types = [dict(enumerate((kind for kind, _ in nodes(text)), 1)) for text in (ours, r)]
    named = [sorted((t[a], t[b]) for a, b in edges(text)) for t, text in zip(types, (ours, r), strict=True)]
    assert named[0] == named[1]


def test_the_graph_shows_names_and_shapes(conditional):
    dot = vx.plot_vae(conditional).dot.replace("\\ ", " ")
    assert "expression : InputLayer|{input:|output:}|{(None, 765)|(None, 765)}" in dot
    assert "condition : InputLayer|{input:|output:}|{(None, 13)|(None, 13)}" in dot
    assert "latent : Sampling|{input:|output:}|{[(None, 10), (None, 10)]|(None, 10)}" in dot


@pytest.mark.parametrize("name", NODE_COLORS)
def test_each_colour_can_be_changed(conditional, name):
    before = vx.plot_vae(conditional).dot
    after = vx.plot_vae(conditional, {name: "#123456"}).dot
    assert before.count(f'fillcolor="{NODE_COLORS[name]}"') == after.count('fillcolor="#123456"') > 0


def test_any_colour_matplotlib_knows(conditional):
    assert 'fillcolor="#1f77b4"' in vx.plot_vae(conditional, {"decoder_col": "C0"}).dot


def test_encoder_and_decoder_can_be_drawn(conditional):
    assert ": Sampling" not in vx.plot_vae(conditional.encoder).dot.replace("\\ ", " ")
    assert vx.plot_vae(conditional.decoder).dot.replace("\\ ", " ").startswith("digraph")


@pytest.mark.parametrize(
    ("suffix", "start"), [("svg", b"<?xml"), ("png", b"\x89PNG"), ("pdf", b"%PDF"), ("dot", b"digraph")]
)
def test_the_graph_is_written(conditional, tmp_path, suffix, start):
    path = vx.plot_vae(conditional).save(tmp_path / f"model.{suffix}")
    assert path.read_bytes().startswith(start)
    with pytest.raises(FileExistsError, match=r"exists"):
        vx.plot_vae(conditional).save(path)
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


def test_the_graph_shows_itself_in_a_notebook(conditional):
    svg = vx.plot_vae(conditional)._repr_svg_()
    assert "<svg" in svg
    assert "z_log_stddev" in svg


@pytest.mark.parametrize(
    ("colors", "words"),
    [
        (
            {"encoder": "red"},
            r"node_color.*'encoder_col',.*'encoder'.*'encoder_col'",
        ),
        (
            {"encoder_col": "tomatoe"},
            r"colour.*'tomatoe'.*'tomato'",
        ),
    ],
)
def test_colours_that_are_none(conditional, colors, words):
    with pytest.raises(ValueError, match=words):
        vx.plot_vae(conditional, colors)


def test_a_graph_of_something_else(few, conditional, tmp_path):
    with pytest.raises(TypeError, match=r"^x\b.*fit.*Keras model.*\bAnnData\b"):
        vx.plot_vae(few)
    with pytest.raises(ValueError, match=r"'svg', 'png', 'pdf', 'dot'.*'gif'"):
        vx.plot_vae(conditional).save(tmp_path / "a.gif")


# --- plot_aug -----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def small(few):
    return vx.gen_exprs(vx.fit_vae(few, label_key="cell_type", epochs=30, verbose=0), 60)


@pytest.mark.parametrize(
    "method",
    # UMAP is compiled when it is first called
    [
        pytest.param(name, marks=pytest.mark.slow) if name in ("UMAP", "DiffusionMap") else name
        for name in REDUCTIONS
    ],
)
def test_each_reduction_shows_both_groups_and_each_label(small, method, tmp_path):
    figure = vx.plot_aug(small, method)
    assert isinstance(figure, mpl.figure.Figure)
    everything, *panels = figure.axes
    assert [text.get_text() for text in everything.get_legend().get_texts()] == [
        "real (120)",
        "generated (60)",
    ]
    assert sorted(len(points.get_offsets()) for points in everything.collections) == [60, 120]
    titles = sorted(panel.get_title().split("\n")[0] for panel in panels)
    assert titles == sorted(small.fit.preprocessing.conditions.labels)
    assert all("30 real, 15 generated" in panel.get_title() for panel in panels)
    key = "X_diffmap" if method == "DiffusionMap" else f"X_{method.lower()}"
    both = small.to_anndata(real=True).obsm[key]
    np.testing.assert_array_equal(small.adata.obsm[key], both[120:])
    assert np.isfinite(both).all()
    assert both[:, :2].std(axis=0).min() > 0
    assert save_figure(figure, tmp_path / "a.png").stat().st_size > 10_000


def test_the_groups_differ_in_colour_and_shape(small):
    real, generated = vx.plot_aug(small, "PCA").axes[0].collections
    assert not np.array_equal(real.get_facecolor(), generated.get_edgecolor())
    assert len(real.get_paths()[0].vertices) != len(generated.get_paths()[0].vertices)


@pytest.mark.slow
def test_further_arguments_reach_the_reduction(small):
    assert vx.plot_aug(small, "PCA", n_components=5)
    assert small.adata.obsm["X_pca"].shape == (60, 5)
    vx.plot_aug(small, "UMAP", n_neighbors=3)
    one = small.adata.obsm["X_umap"]
    vx.plot_aug(small, "UMAP", n_neighbors=40)
    assert not np.array_equal(one, small.adata.obsm["X_umap"])
    vx.plot_aug(small, "UMAP", metric="cosine")
    vx.plot_aug(small, "UMAP", n_neighbors=500)  # more than there are cells: UMAP takes fewer
    vx.plot_aug(small, "DiffusionMap", n_neighbors=8, n_comps=4)
    assert small.adata.obsm["X_diffmap"].shape == (60, 3)


@pytest.mark.parametrize(
    ("method", "given", "words"),
    [
        ("PCA", {"colour": 1}, r"\bcolour\b.*'colour'"),
        ("TSNE", {"perplexity": "x", "init": "pca"}, r"perplexity, init\b.*'perplexity' .* Got 'x'"),
        (
            "DiffusionMap",
            {"n_neighbors": "x"},
            r"n_neighbors\b.*'str' and 'int'",
        ),
    ],
)
def test_arguments_that_a_reduction_does_not_take(small, method, given, words):
    before = set(small.adata.obsm)
    with pytest.raises(TypeError, match=rf"^{method}\b.*arguments.*{words}"):
        vx.plot_aug(small, method, **given)
    assert set(small.adata.obsm) == before


def test_the_seed_is_the_reductions(small):
    embeddings = []
    for seed in (0, 0, 1):
        vx.plot_aug(small, "TSNE", seed=seed, init="random")
        embeddings.append(small.adata.obsm["X_tsne"])
    assert np.array_equal(embeddings[0], embeddings[1])
    assert not np.array_equal(embeddings[0], embeddings[2])


def test_the_space_is_the_models(small, simulated, r_fit):
    """Values scaled as the network sees them, not log-normalised once more."""
    made = vx.gen_exprs(r_fit, 50)
    vx.plot_aug(made, "PCA", n_components=3)
    from sklearn.decomposition import PCA

    scaled = np.vstack([r_fit.preprocessing.x_train, r_fit.preprocessing.scaling.forward(made.x_gen)])
    expected = PCA(3, random_state=0).fit_transform(scaled)
    np.testing.assert_allclose(np.abs(made.joined.obsm["X_pca"]), np.abs(expected), atol=1e-2)


def test_real_cells_of_ones_own_for_a_loaded_fit(few, small, tmp_path):
    small.fit.save(tmp_path / "m")
    made = vx.gen_exprs(vx.load_vae(tmp_path / "m"), 20)
    with pytest.raises(ValueError, match=r"disk.*real cells"):
        vx.plot_aug(made, "PCA")
    assert len(vx.plot_aug(made, "PCA", real=few).axes) == 5
    assert len(vx.plot_aug(made.adata, "PCA", real=few, label_key="cell_type").axes) == 5
    with pytest.raises(ValueError, match=r"real cells.*genes.*: "):
        vx.plot_aug(made, "PCA", real=few[:, :-1])


def test_the_smaller_group_is_on_top_with_open_markers(few, small):
    for real, on_top in ((few[:9].copy(), 0), (few, 1)):
        points = vx.plot_aug(small, "PCA", real=real).axes[0].collections
        assert [len(part.get_offsets()) for part in points] == [real.n_obs, 60]
        assert points[on_top].get_zorder() > points[1 - on_top].get_zorder()
        assert [len(part.get_facecolor()) for part in points] == [int(i != on_top) for i in range(2)]
        assert points[on_top].get_linewidth()[0] > 0


def test_some_labels_only(few, small, tmp_path):
    before = {key: value.copy() for key, value in small.adata.obsm.items()}
    everything, *panels = vx.plot_aug(small, "PCA", labels=["Dendritic", "CD19+ B"]).axes
    assert [len(points.get_offsets()) for points in everything.collections] == [60, 30]
    assert sorted(panel.get_title().split("\n")[0] for panel in panels) == ["CD19+ B", "Dendritic"]
    assert len(vx.plot_aug(small, "PCA", labels="Dendritic").axes) == 1
    assert set(small.adata.obsm) == set(before)
    few.write_h5ad(tmp_path / "few.h5ad")
    vx.write(small.adata, tmp_path / "g.h5ad")
    words = ["--real", "few.h5ad", "--method", "pca", "--label", "Dendritc", "--out", "p.svg"]
    done = run("plot", "g.h5ad", *words, cwd=tmp_path)
    assert done.returncode == 2
    assert "--label must be labels of the cells" in done.stderr
    assert "got 'Dendritc'. Did you mean 'Dendritic'?" in done.stderr


def test_without_labels_there_is_one_panel(few):
    made = vx.gen_exprs(vx.fit_vae(few, epochs=1, verbose=0), 10)
    assert len(vx.plot_aug(made, "PCA").axes) == 1


def test_many_labels_get_as_many_panels_as_can_be_read(few):
    both = ad.concat([few, few])
    both.obs["group"] = ["real"] * 120 + ["generated"] * 120
    both.obs["many"] = [f"type {i % 40}" for i in range(240)]
    both.obs_names_make_unique()
    with pytest.warns(UserWarning, match=r"\b40 labels.*panel.*\b24\b"):
        assert len(vx.plot_aug(both, "PCA", label_key="many").axes) == 25


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"plot_fun": "PCA", "labels": []}, r"labels.*at least one.*none"),
        ({"plot_fun": "PCA", "labels": ["Dendritic", "NK"]}, r"labels.*'CD56\+ NK'.*got 'NK'"),
        ({"plot_fun": "umap"}, r"plot_fun.*'PCA',.*'umap'.*'UMAP'"),
        (
            {"plot_fun": "PCA", "label_key": "type"},
            r"column.*real.*generated.*'type'",
        ),
    ],
)
def test_plots_that_cannot_be_drawn(small, arguments, words):
    with pytest.raises(ValueError, match=words):
        vx.plot_aug(small, **arguments)


@pytest.mark.slow
def test_plots_of_something_else(few, small, tmp_path):
    with pytest.raises(ValueError, match=r"obs\['group'\].*'real'.*'generated'"):
        vx.plot_aug(few, "PCA")
    with pytest.raises(TypeError, match=r"gen_exprs.*AnnData.*\bint\b"):
        vx.plot_aug(3, "PCA")
    with pytest.raises(TypeError, match="plot_fun"):
        vx.plot_aug(small)
    with pytest.raises(ValueError, match=r"'svg', 'png', 'pdf'.*'txt'"):
        save_figure(vx.plot_aug(small, "PCA"), tmp_path / "a.txt")
    centred = vx.gen_exprs(vx.fit_vae(x_train=few.X.toarray() - 3.5, epochs=1, verbose=0), 10)
    with pytest.raises(ValueError, match=r"NMF.*negative"):
        vx.plot_aug(centred, "NMF")
