"""`plot_vae`: plot the layers of a model as a graph."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras

from vaexprs.interface import html as markup
from vaexprs.interface.validation import check_choice, check_path, did_you_mean
from vaexprs.io.atomic import written_whole
from vaexprs.model.vae_fit import VAEFit
from vaexprs.nn.vae import VAE

NODE_COLORS = {
    "encoder_col": "tomato",
    "mean_vector_col": "orange",
    "stddev_vector_col": "lavender",
    "latent_vector_col": "lightblue",
    "decoder_col": "palegreen",
    "condition_col": "gray",
}
COLORED_BY_NAME = {
    "z_mean": "mean_vector_col",
    "z_log_stddev": "stddev_vector_col",
    "latent": "latent_vector_col",
    "condition": "condition_col",
}
GRAPH_FORMATS = ("svg", "png", "pdf", "dot")


@dataclass(frozen=True)
class ModelGraph:
    """Graph of a Keras model, displayed in notebooks.

    Parameters
    ----------
    dot
        The graph in the DOT language of Graphviz.
    layers
        Names of the layers, in the order of the model.
    """

    dot: str
    layers: tuple[str, ...] = ()

    def __repr__(self) -> str:
        return f'ModelGraph: {len(self.layers)} layers; save("model.svg") writes it'

    def save(self, path: str | os.PathLike[str], *, overwrite: bool = False) -> Path:
        """Write the graph as svg, png, pdf or dot, by the suffix of `path`.

        Raises
        ------
        ValueError
            If the suffix is not one of these.
        FileExistsError
            If `path` exists and `overwrite` is false.
        """
        path = check_path(path)
        suffix = check_choice("The suffix of the file", path.suffix.removeprefix("."), GRAPH_FORMATS)
        with written_whole(path, overwrite=overwrite) as temporary:
            temporary.write_bytes(self.dot.encode() if suffix == "dot" else self._render(suffix))
        return path

    def _render(self, suffix: str, *, transparent: bool = False) -> bytes:
        import pygraphviz

        graph = pygraphviz.AGraph(string=self.dot)
        if transparent:  # arrows must be visible on white and on black; nodes have their own background
            graph.graph_attr["bgcolor"] = "transparent"
            graph.edge_attr["color"] = "gray50"
        return bytes(graph.draw(format=suffix, prog="dot"))

    def _repr_svg_(self) -> str:
        return self._render("svg").decode()

    def _repr_html_(self) -> str:
        picture = problem = None
        try:
            picture = markup.data_uri(self._render("svg", transparent=True).decode())
        except (ImportError, OSError) as error:
            problem = str(error)
        return markup.render(
            "interface/templates/graph.html", layers=self.layers, source=picture, problem=problem
        )


def plot_vae(x: VAEFit | keras.Model, node_color: Mapping[str, str] | None = None) -> ModelGraph:
    """Draw the graph of a model: the layers with their names, types, input and output shapes.

    Parameters
    ----------
    x
        A fit, or a functional Keras model such as ``fit.model``, ``fit.encoder`` or ``fit.decoder``.
    node_color
        Colours that replace the defaults of R: encoder_col ("tomato"), mean_vector_col ("orange"),
        stddev_vector_col ("lavender"), latent_vector_col ("lightblue"), decoder_col ("palegreen"),
        condition_col ("gray").

    Returns
    -------
    ModelGraph
        Displayed in notebooks; ``save("model.svg")`` writes svg, png, pdf or dot.

    Raises
    ------
    TypeError
        If `x` is neither a fit nor a Keras model.
    ValueError
        If a name in `node_color` is not one of the six, or its value is not a colour.
    """
    model = x.model if isinstance(x, VAEFit) else x
    if not isinstance(model, keras.Model):
        raise TypeError(f"x must be a fit or a Keras model, got {type(x).__name__}.")
    colors = NODE_COLORS | _checked_colors(node_color)
    graph = keras.Model(model.input, model.output) if isinstance(model, VAE) else model
    layers = graph.get_config()["layers"]
    sources = {
        layer["name"]: list(dict.fromkeys(_tensor_sources(layer["inbound_nodes"]))) for layer in layers
    }
    roles = _roles(sources)
    number = {name: i + 1 for i, name in enumerate(sources)}
    lines = [
        "digraph {",
        "  graph [layout=dot, rankdir=TB]",
        '  node [shape=record, color=black, style=filled, fontname="Helvetica"]',
    ]
    for name, i in number.items():
        label = _record(model.get_layer(name))
        lines.append(f'  {i} [label="{label}", fillcolor="{colors[roles[name]]}"]')
    for name, before in sources.items():
        lines += [f"  {number[source]} -> {number[name]}" for source in before]
    return ModelGraph("\n".join([*lines, "}"]) + "\n", tuple(number))


def _checked_colors(node_color: Mapping[str, str] | None) -> dict[str, str]:
    from matplotlib import colors

    checked = {}
    for name, color in (node_color or {}).items():
        check_choice("node_color", name, tuple(NODE_COLORS))
        if not colors.is_color_like(color):
            raise ValueError(
                f"node_color[{name!r}] must be a colour such as 'tomato' or '#ff6347', got {color!r}."
                f"{did_you_mean(color, colors.CSS4_COLORS)}"
            )
        checked[name] = color if color in colors.CSS4_COLORS else colors.to_hex(color)
    return checked


def _tensor_sources(config: Any) -> Iterator[str]:
    """Yield the names of the layers whose output tensors are inputs in a functional model's configuration."""
    if isinstance(config, dict):
        if config.get("class_name") == "__keras_tensor__":
            yield config["config"]["keras_history"][0]
        else:
            for value in config.values():
                yield from _tensor_sources(value)
    elif isinstance(config, (list, tuple)):
        for value in config:
            yield from _tensor_sources(value)


def _roles(sources: Mapping[str, list[str]]) -> dict[str, str]:
    """Return the colour argument of each layer; the encoder is z_mean and all its ancestors."""
    encoder: set[str] = set()
    waiting = ["z_mean"] if "z_mean" in sources else []
    while waiting:
        name = waiting.pop()
        encoder.add(name)
        waiting += [source for source in sources[name] if source not in encoder]
    return {
        name: COLORED_BY_NAME.get(name, "encoder_col" if name in encoder else "decoder_col")
        for name in sources
    }


def _record(layer: keras.layers.Layer) -> str:
    """Return the label of a layer in the syntax of Graphviz records."""

    def escaped(text: str) -> str:
        return re.sub(r'([{}|<>"\\ ])', r"\\\1", text)

    def shapes(tensors: Any) -> str:
        flat = [str(tuple(tensor.shape)) for tensor in keras.tree.flatten(tensors)]
        return escaped(flat[0] if len(flat) == 1 else f"[{', '.join(flat)}]")

    title = escaped(f"{layer.name} : {type(layer).__name__}")
    taken = layer.output if isinstance(layer, keras.layers.InputLayer) else layer.input
    return f"{title}|{{input:|output:}}|{{{shapes(taken)}|{shapes(layer.output)}}}"
