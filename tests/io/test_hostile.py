"""Files of strangers are data: no code runs, memory stays bounded, and one sentence names the file."""

import ast
import bz2
import gzip
import io
import json
import lzma
import math
import os
import pickle
import re
import shutil
import struct
import subprocess
import sys
import zipfile
from contextlib import nullcontext, suppress
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import vaexprs as vx

# isort: split
import anndata as ad
import h5py
import keras
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
import zarr

from vaexprs.cli import main
from vaexprs.cli.console import plain
from vaexprs.comparison.provenance import recipe_of
from vaexprs.io.r import tree as rds
from vaexprs.io.r import write_rds as rds_writer
from vaexprs.io.tables.fields import guarded, unguarded
from vaexprs.io.untrusted import archives as packed
from vaexprs.io.untrusted import keras_archive as architecture
from vaexprs.report import reproduce as gathering
from vaexprs.training.checkpoint import read_state

HUGE = 10**9
ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def small(few):
    cells = few[:40, :8].copy()
    cells.obs["cell_type"] = cells.obs["cell_type"].cat.remove_unused_categories()
    return cells


@pytest.fixture(scope="module")
def kept(small, tmp_path_factory):
    """Return the folder of a small saved fit."""
    dense = keras.layers.Dense
    fit = vx.fit_vae(
        small,
        label_key="cell_type",
        encoder_layers=[dense(4, "relu")],
        decoder_layers=[dense(4, "gelu", kernel_regularizer="l2")],
        latent_dim=2,
        epochs=1,
        verbose=0,
    )
    return fit.save(tmp_path_factory.mktemp("kept") / "model")


@pytest.fixture
def saved(kept, tmp_path):
    return Path(shutil.copytree(kept, tmp_path / "model"))


@pytest.fixture
def mark(tmp_path):
    """Return the name of a file that appears if code of a stranger runs."""
    return tmp_path / "ran"


def members(saved):
    with zipfile.ZipFile(saved / "model.keras") as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def put(saved, parts, compression=zipfile.ZIP_STORED):
    with zipfile.ZipFile(saved / "model.keras", "w", compression) as archive:
        for name, content in parts.items():
            archive.writestr(name, content)


def with_config(saved, change):
    """Change the configuration of the network of a saved fit."""
    parts = members(saved)
    config = json.loads(parts["config.json"])
    change(config)
    put(saved, parts | {"config.json": json.dumps(config)})


def layers_of(config):
    return {layer["name"]: layer for layer in config["config"]["graph"]["config"]["layers"]}


def refused(call, path, words=None):
    """Check that a call ends in one sentence that names the file."""
    with pytest.raises(ValueError, match=words) as caught:
        call()
    sentence = str(caught.value)
    assert str(path) in sentence
    assert "\n" not in sentence
    assert "MemoryError" not in sentence
    assert "Unable to allocate" not in sentence


# networks


def function(module, name, registered=None):
    return {"module": module, "class_name": "function", "config": name, "registered_name": registered or name}


def layer(module, name, config=None, registered=None):
    return {"module": module, "class_name": name, "config": config or {}, "registered_name": registered}


def code(mark):
    """Return a lambda as Keras writes it, which makes a file."""
    from keras.src.utils.python_utils import func_dump

    made = eval(f"lambda x: (open({str(mark)!r}, 'w').close(), x)[1]")  # noqa: S307
    value, defaults, closure = func_dump(made)
    inner = {"code": value, "defaults": defaults, "closure": closure}
    return {"class_name": "__lambda__", "config": {"value": inner, **inner}}


ACTIVATIONS = {
    "a module that is imported": lambda mark: function("os", "system"),
    "a builtin": lambda mark: function("builtins", "eval"),
    "one by its registered name": lambda mark: function("builtins", "relu6x", "builtins>exec"),
    "a function of Keras that fetches files": lambda mark: function("keras.utils", "get_file"),
    "the same from inside": lambda mark: function("keras.src.utils.file_utils", "get_file"),
    "a function that ends safe mode": lambda mark: function("keras.config", "enable_unsafe_deserialization"),
    "a loader": lambda mark: function("keras.saving", "load_model"),
    "a function of NumPy": lambda mark: function("numpy", "load"),
    "a lambda": code,
    "a type": lambda mark: {**layer("builtins", "__typespec__"), "spec_name": "object"},
    "no name": lambda mark: {**layer("os", ""), "class_name": ["system"]},
    "a name in a name": lambda mark: {**layer("os", ""), "class_name": {"class_name": "relu", "config": {}}},
    "another module for what is listed": lambda mark: function("posix", "relu"),
}
LAYERS = {
    "Lambda": lambda mark: layer("keras.layers", "Lambda", {"function": code(mark)}),
    "a Lambda of old": lambda mark: {
        "class_name": "Lambda",
        "config": {"name": "l", "function": [code(mark)["config"]["value"]["code"], None, None]},
    },
    "a vocabulary of any file": lambda mark: layer(
        "keras.layers", "StringLookup", {"vocabulary": "/etc/hosts"}
    ),
    "one of numbers": lambda mark: layer("keras.layers", "IntegerLookup", {"vocabulary": "/etc/hosts"}),
    "one of texts": lambda mark: layer("keras.layers", "TextVectorization", {"vocabulary": "/etc/hosts"}),
    "TFSMLayer": lambda mark: layer("keras.layers", "TFSMLayer", {"filepath": "/tmp"}),
    "TorchModuleWrapper": lambda mark: layer("keras.layers", "TorchModuleWrapper", {"module": "gASV"}),
    "JaxLayer": lambda mark: layer("keras.layers", "JaxLayer", {"call_fn": function("os", "system")}),
    "a class of any module": lambda mark: layer("subprocess", "Popen", {"args": ["touch", str(mark)]}),
    "a class within Keras": lambda mark: layer("keras.src.layers.core.lambda_layer", "Lambda"),
    "a listed name, another registered": lambda mark: layer(
        "keras.layers", "Dense", {"units": 4}, "Custom>Dense"
    ),
    "a registered name of nobody": lambda mark: layer(
        "vaexprs.networks", "Sampling", {"seed": 0}, "vaexprs>os"
    ),
    "a backbone from a hub": lambda mark: layer("keras_hub.models", "Backbone", {}, "keras_hub>Backbone"),
}


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_no_function_is_looked_up_that_is_not_listed(saved, mark, name):
    def hostile(config):
        layers = layers_of(config)
        target = next(layers[key] for key in layers if key.startswith("dense"))
        target["config"]["activation"] = ACTIVATIONS[name](mark)

    with_config(saved, hostile)
    refused(
        lambda: vx.load_vae(saved),
        saved / "model.keras",
        r"not an allowed layer or function\b.*custom_objects",
    )
    assert not mark.exists()


@pytest.mark.parametrize("name", LAYERS)
def test_no_layer_is_built_that_is_not_listed(saved, mark, name):
    def hostile(config):
        layers = layers_of(config)
        target = next(layers[key] for key in layers if key.startswith("dense"))
        evil = LAYERS[name](mark)
        evil["config"] = {**evil["config"], "name": target["name"]}
        for key in ("module", "class_name", "config", "registered_name", "build_config"):
            target.pop(key, None)
        target.update(evil)

    with_config(saved, hostile)
    refused(
        lambda: vx.load_vae(saved),
        saved / "model.keras",
        r"not an allowed layer or function\b.*custom_objects",
    )
    assert not mark.exists()


def test_the_same_attacks_elsewhere_in_the_configuration(saved, mark):
    def at_the_root(config):
        config["config"]["graph"] = layer("os", "system")

    def in_the_call(config):
        last = list(layers_of(config).values())[-1]
        last["inbound_nodes"][0]["kwargs"] = {
            "mask": layer("keras.layers", "Lambda", {"function": code(mark)})
        }

    def to_be_compiled(config):
        config["config"]["graph"]["compile_config"] = {"optimizer": "adam", "loss": function("os", "system")}

    def an_array_of_any_size(config):
        config["config"]["x"] = {
            "class_name": "__numpy__",
            "config": {"value": ["a"], "dtype": "S1000000000"},
        }

    for change in (at_the_root, in_the_call, to_be_compiled, an_array_of_any_size):
        before = members(saved)
        with_config(saved, change)
        refused(lambda: vx.load_vae(saved), saved / "model.keras")
        put(saved, before)
    assert not mark.exists()
    vx.load_vae(saved)


def test_another_root(saved, mark):
    parts = members(saved)
    put(saved, parts | {"config.json": json.dumps(layer("keras.layers", "Lambda", {"function": code(mark)}))})
    refused(lambda: vx.load_vae(saved), saved, "is not a vaexprs model.*Lambda")
    assert not mark.exists()
    # of the registered name of ours Keras would make what the other name says
    for name in architecture.PLAIN:
        put(saved, parts)
        with_config(saved, lambda config, name=name: config.update(class_name=name))
        refused(lambda: vx.load_vae(saved), saved, f"is not a vaexprs model.*{name}")


class OfMyOwn(keras.layers.Layer):
    """A layer that is not registered."""

    def call(self, x):
        return 2 * x


@keras.saving.register_keras_serializable("hostile_tests")
class Registered(OfMyOwn):
    """A layer that is."""


@pytest.mark.slow
def test_layers_of_the_users_own_are_loaded_where_his_process_has_them(small, tmp_path):
    layers = [
        OfMyOwn(),
        Registered(),
        keras.layers.Dense(4),
        Registered(),
    ]
    fit = vx.fit_vae(small, encoder_layers=layers, latent_dim=2, epochs=1, verbose=0)
    path = fit.save(tmp_path / "model")
    refused(
        lambda: vx.load_vae(path),
        path / "model.keras",
        r"'test_hostile.OfMyOwn'.*load_vae\(path, custom_objects=\{'OfMyOwn': OfMyOwn\}\)",
    )
    again = vx.load_vae(path, custom_objects={"OfMyOwn": OfMyOwn})
    assert sum(isinstance(each, Registered) for each in again.model.layers) == 2


@pytest.mark.slow
def test_a_layer_of_keras_that_is_not_listed_may_be_handed_over(small, tmp_path):
    encoder = [keras.layers.Dense(6), keras.layers.Reshape((6, 1)), keras.layers.MaxPooling1D(2)]
    encoder += [
        keras.layers.Reshape((3, 1, 1, 1)),
        keras.layers.Cropping3D(((1, 0), 0, 0)),
        keras.layers.Flatten(),
    ]
    path = vx.fit_vae(small, encoder_layers=encoder, latent_dim=2, epochs=1, verbose=0).save(
        tmp_path / "model"
    )
    refused(lambda: vx.load_vae(path), path / "model.keras", "'keras.layers.Cropping3D'")
    layer = keras.layers.Cropping3D
    vx.load_vae(path, custom_objects={"Cropping3D": layer})


def test_what_is_listed_is_there_and_can_be_built():
    """Each listed layer of the oldest and the newest Keras takes a part in a saved configuration."""
    lacking = [name for name in architecture.LAYERS.split() if not hasattr(keras.layers, name)]
    assert set(lacking) <= {"RMSNormalization", "GroupQueryAttention"}  # newer than the oldest Keras
    assert [name for name in architecture.FUNCTIONS.split() if not hasattr(keras.activations, name)] == []
    for risky in (
        "Lambda",
        "StringLookup",
        "TextVectorization",
        "TFSMLayer",
        "JaxLayer",
        "TorchModuleWrapper",
    ):
        assert risky not in architecture.LAYERS.split()


@pytest.mark.slow
def test_common_layers_come_back(small, tmp_path):
    k = keras.layers
    encoder = [
        k.Dense(6, kernel_initializer=keras.initializers.HeNormal(1), kernel_constraint="non_neg"),
        k.BatchNormalization(),
        k.LeakyReLU(),
        k.Dropout(0.1),
        keras.Sequential([keras.Input((6,)), k.Dense(6, keras.activations.softplus)]),
        k.Reshape((3, 2)),
        k.Conv1D(2, 2, activation="silu"),
        k.Flatten(),
        k.LayerNormalization(),
        k.Dense(4, kernel_initializer=keras.initializers.Constant(np.full((4, 4), 0.1))),
        k.PReLU(),
        k.GaussianNoise(0.1),
        k.SpectralNormalization(k.Dense(3)),
    ]
    fit = vx.fit_vae(small, encoder_layers=encoder, latent_dim=2, epochs=1, verbose=0)
    again = vx.load_vae(fit.save(tmp_path / "model"))
    cells = [vx.gen_exprs(each, 20, seed=0).x_gen for each in (fit, again)]
    np.testing.assert_array_equal(*(x.toarray() if sp.issparse(x) else x for x in cells))


def weights(change):
    content = io.BytesIO()
    with h5py.File(content, "w") as file:
        change(file)
    return content.getvalue()


def test_weights_that_lie_elsewhere_or_nowhere(saved, tmp_path):
    (tmp_path / "secret").write_bytes(bytes(400))

    def external(file):
        file.create_dataset("a", (100,), "f4", external=[(str(tmp_path / "secret"), 0, 400)])

    def linked(file):
        file["a"] = h5py.ExternalLink(str(tmp_path / "other.h5"), "/x")

    def virtual(file):
        layout = h5py.VirtualLayout((4,), "f4")
        layout[:] = h5py.VirtualSource(str(tmp_path / "other.h5"), "x", (4,))
        file.create_virtual_dataset("a", layout)

    def nowhere(file):
        file.create_dataset("a", (HUGE, HUGE), "f4", chunks=(1000, 1000))

    def packed_up(file):
        file.create_dataset("a", data=np.zeros(10**6, "f4"), compression="gzip")

    parts = members(saved)
    elsewhere = r"'/a'.*another file"
    for change, words in (
        (external, elsewhere),
        (linked, elsewhere),
        (virtual, elsewhere),
        (nowhere, r"4,000,000,000,000,000,000 bytes\b.*'/a'.*shape.*\b0\b"),
        (packed_up, r"4,000,000 bytes\b.*'/a'"),
    ):
        put(saved, parts | {"model.weights.h5": weights(change)})
        refused(lambda: vx.load_vae(saved), saved / "model.keras", words)


def test_a_network_larger_than_its_file(saved):
    def larger(config):
        layers = layers_of(config)
        target = next(layers[name] for name in layers if name.startswith("dense"))
        target["config"]["units"] = HUGE
        for each in layers.values():  # what follows is told its size by it
            each.pop("build_config", None)

    with_config(saved, larger)
    refused(
        lambda: vx.load_vae(saved),
        saved / "model.keras",
        r"\bnetwork\b.*\b[0-9]+,[0-9,]+,[0-9]{3} weights.*\b[0-9]{2,3}\b",
    )


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"units": -3}, r"damaged.*`units`.*\bunits=-3\b"),
        ({"colour": 3}, r"damaged.*\bDense\b.*'colour'"),
        ({"activation": 7}, r"damaged.*activation.*\b7\b"),
    ],
)
def test_a_network_that_cannot_be_built(saved, change, words):
    def wrong(config):
        layers = layers_of(config)
        next(layers[name] for name in layers if name.startswith("dense"))["config"].update(change)

    with_config(saved, wrong)
    refused(lambda: vx.load_vae(saved), saved / "model.keras", words)


def test_a_network_of_a_newer_keras(saved):
    """Its layers may have settings that this one does not know; what it says of itself is only believed so far."""
    meta = json.loads((saved / "meta.json").read_text())

    def wrong(config):
        layers = layers_of(config)
        next(layers[name] for name in layers if name.startswith("dense"))["config"]["colour"] = 3

    with_config(saved, wrong)
    newer = rf".*\bKeras\b.*\b99\.1\b.*\b{re.escape(keras.__version__)}\b.*: "
    for versions, words in (
        ({"keras": "99.1"}, newer),
        ({"keras": "3.0"}, ": "),
        ({"keras": "<script>"}, ": "),
        ({"keras": [9]}, ": "),
        ([], ": "),
    ):
        meta["recipe"]["versions"] = versions
        (saved / "meta.json").write_text(json.dumps(meta))
        refused(lambda: vx.load_vae(saved), saved / "model.keras", rf"damaged{words}Unrecognized keyword")


def test_a_network_that_blows_a_cell_up(small, tmp_path):
    layers = [keras.layers.RepeatVector(3), keras.layers.GlobalAveragePooling1D(), keras.layers.Dense(4)]
    path = vx.fit_vae(small, encoder_layers=layers, latent_dim=2, epochs=1, verbose=0).save(
        tmp_path / "model"
    )

    def larger(config):
        for each in layers_of(config).values():
            each.pop("build_config", None)
            if each["class_name"] == "RepeatVector":
                each["config"]["n"] = HUGE

    with_config(path, larger)
    refused(lambda: vx.load_vae(path), path / "model.keras", "8,000,000,000 activations")


def test_a_nested_network_that_blows_a_cell_up_inside_a_layer(small, tmp_path):
    k = keras.layers
    steps = keras.Input((4,))
    hidden = k.RepeatVector(3)(steps)
    inner = keras.Model(steps, k.GlobalAveragePooling1D()(k.Attention()([hidden, hidden])), name="inner")
    fit = vx.fit_vae(
        small,
        encoder_layers=[k.Dense(4)],
        decoder_layers=[k.Dense(4), inner],
        latent_dim=2,
        epochs=1,
        verbose=0,
    )
    path = fit.save(tmp_path / "model")
    assert vx.load_vae(path).latent_dim == 2

    def longer(config):
        for part in architecture._parts(config, path):
            part.pop("build_config", None)
            if part.get("class_name") == "RepeatVector":
                part["config"]["n"] = 200_000  # 800,000 activations, but the attention has 4e10 weights

    with_config(path, longer)
    refused(lambda: vx.load_vae(path), path / "model.keras", "40,000,000,000 intermediate values")


def test_archives_with_other_members_or_packed_ones(saved, tmp_path):
    parts = members(saved)
    for name in ("../../evil", "/tmp/evil", "assets/vocabulary.txt", "model.weights.npz"):
        put(saved, parts | {name: b"x"})
        refused(lambda: vx.load_vae(saved), saved / "model.keras", "'config.json', 'metadata.json'")
    put(saved, parts, zipfile.ZIP_DEFLATED)
    refused(lambda: vx.load_vae(saved), saved / "model.keras", "not a valid Keras archive")
    assert not (tmp_path / "evil").exists()
    assert not (tmp_path.parent / "evil").exists()


def test_nesting(saved):
    parts = members(saved)
    deep = json.loads(parts["config.json"])
    inner = deep["config"]["x"] = {}
    for _ in range(200):
        inner["x"] = inner = {}
    put(saved, parts | {"config.json": json.dumps(deep)})
    refused(lambda: vx.load_vae(saved), saved / "model.keras", "more than 100 nested levels")
    texts = ("[" * 10**6, '{"a":' * 10**5)
    for text in texts:
        put(saved, parts | {"config.json": text})
        refused(lambda: vx.load_vae(saved), saved / "model.keras")
    for text in texts:
        (saved / "meta.json").write_text(text)
        refused(lambda: vx.load_vae(saved), saved / "meta.json")


def npz(path, arrays, **headers):
    """Write arrays; of some the header says something else than what follows."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, array in arrays.items():
            content = io.BytesIO()
            if name in headers:
                shape, dtype = headers[name]
                about = {"descr": dtype, "fortran_order": False, "shape": shape}
                np.lib.format.write_array_header_1_0(content, about)
                content.write(b"x" * 80)
            else:
                np.lib.format.write_array(content, array)
            archive.writestr(f"{name}.npy", content.getvalue())


class Evil:
    """Unpickling it makes a file."""

    def __init__(self, mark):
        self.mark = mark

    def __reduce__(self):
        return (open, (str(self.mark), "w"))


def test_arrays(saved, mark, monkeypatch):
    path = saved / "arrays.npz"
    with np.load(path) as file:
        arrays = dict(file)
    for name in ("density.means", "density.seen", "extra"):
        for shape, dtype, words in (
            ((HUGE, HUGE), "<f8", r"\b8,000,000,000,000,000,000 bytes"),
            ((2**40,), "<U1000000", r"\b[0-9]+(,[0-9]{3}){5,} bytes"),
            ((-4, -5), "<f8", r"bytes|shape"),
            ((1,), "|O", r"Python objects"),
        ):
            npz(path, arrays | {name: None}, **{name: (shape, dtype)})
            refused(lambda: vx.load_vae(saved), saved, words)
            with pytest.raises(ValueError, match=words):
                read_state(path, {})
    # as long as the whole entry with its header, of which the header is not a value
    npz(path, arrays | {"density.bic": None}, **{"density.bic": ((20,), "<f8")})
    refused(lambda: vx.load_vae(saved), saved, r"damaged.*density\.bic\.npy")
    with pytest.raises(ValueError, match=r"density\.bic\.npy"):
        read_state(path, {})
    # a name of a field that only the third version can hold
    with pytest.warns(UserWarning, match="format 3.0"):
        np.savez(path, **{**arrays, "density.bic": np.ones(3, [("\N{GREEK SMALL LETTER BETA}", "<f8")])})
    refused(lambda: vx.load_vae(saved), saved, r"density\.bic\.npy.*NumPy.*format.*\(3, 0\)")
    np.savez(path, **{**arrays, "density.seen": np.array([Evil(mark)], dtype=object)})
    refused(lambda: vx.load_vae(saved), saved, r"Python objects")
    with pytest.raises(ValueError, match=r"Python objects"):
        read_state(path, {})
    assert not mark.exists()
    monkeypatch.setattr(packed, "ALWAYS_UNPACKED", 2**20)
    npz(path, arrays | {"density.bic": np.zeros(10**7)})
    refused(lambda: vx.load_vae(saved), saved, "decompresses to more than [0-9,]+ bytes")


@pytest.mark.slow
def test_parts_that_do_not_fit_together(saved):
    path = saved / "arrays.npz"
    with np.load(path) as file:
        arrays = dict(file)
    meta = json.loads((saved / "meta.json").read_text())
    n, dims = arrays["density.means"].shape
    for changes in (
        {"density.means": np.zeros((n, dims + 1))},
        {"density.means": np.zeros((n, 10**5), np.int8)},
        {"density.means": np.full((n, dims), np.nan)},
        {"density.pooled": np.eye(2)},
        {"density.effects": np.zeros((1, dims))},
        {"density.cells": np.zeros(0, int)},
        {"density.components": np.full(len(arrays["density.components"]), -1)},
        {"density.cells": np.array(["x"] * len(arrays["density.cells"]))},
        {"scaling.low": np.zeros(3)},
    ):
        np.savez(path, **{**arrays, **changes})
        refused(lambda: vx.load_vae(saved), saved)
    np.savez(path, **arrays)
    for changes in (
        {"genes": meta["genes"][1:]},
        {"genes": 5},
        {"levels": {"cell_type": ["x"]}},
        {"levels": {"cell_type": meta["levels"]["cell_type"], "donor": ["1"]}},
        {"label_key": "other"},
        {"likelihood": "gaussian"},
        {"scaling": "other"},
        {"unit": 0},
        {"unit": -1},
        {"unit": "x"},
        {"history": {}},
        {"history": {"loss": []}},
        {"history": 3},
        {"history": {"loss": 1e308}},
        {"history": {"loss": ["x"]}},
        {"history": {"loss": [1.0], "kl": [None]}},
        {"seed": "x"},
        {"recipe": 7},
        {"recipe": {"arguments": 7}},
        {"recipe": {"versions": ["x"]}},
        {"format": [1]},
    ):
        (saved / "meta.json").write_text(json.dumps(meta | changes))
        refused(lambda: vx.load_vae(saved), saved)
    for losses in ([math.nan], [1e308, -math.inf]):
        (saved / "meta.json").write_text(json.dumps(meta | {"history": {"loss": losses, "kl": []}}))
        fit = vx.load_vae(saved)
        assert f"{losses[-1]:.1f}" in repr(fit)
        assert "<table" in fit._repr_html_()
    (saved / "meta.json").write_text(json.dumps(meta))
    vx.load_vae(saved)


# cells


def x_of(part, *, shape=(3, 4), indices=(0, 1, 2), indptr=(0, 1, 2, 3), kind="csr_matrix"):
    group = part.create_group("X")
    group.attrs.update({"encoding-type": kind, "encoding-version": "0.1.0", "shape": np.array(shape)})
    group["data"] = np.ones(len(indices), "f4")
    group["indices"], group["indptr"] = np.array(indices, "i4"), np.array(indptr, "i4")


def h5ad(path, put_x=None, **more):
    ad.AnnData(obs=pd.DataFrame(index=list("abc")), var=pd.DataFrame(index=list("wxyz"))).write_h5ad(path)
    with h5py.File(path, "r+") as file:
        if "X" in file:
            del file["X"]
        if put_x is None:
            x_of(file)
        else:
            put_x(file)
        for name, (shape, dtype) in more.items():
            claimed = file.create_dataset(name, shape, dtype, chunks=tuple(min(n, 1000) for n in shape))
            claimed.attrs.update({"encoding-type": "array", "encoding-version": "0.2.0"})
    return path


@pytest.mark.parametrize(
    "wrong",
    [
        {"indices": (0, 1, 99)},
        {"indices": (0, 1, -3)},
        {"indptr": (0, 1, 2, 99)},
        {"indptr": (-9, 1, 2, 3)},
        {"indptr": (0, 5, 1, 3)},
        {"indptr": (0, 3)},
        {"shape": (HUGE, HUGE)},
        {"shape": (3, HUGE)},
        {"shape": (-3, 4)},
        {"indices": (0, 1, 9), "kind": "csc_matrix", "indptr": (0, 1, 2, 3, 3)},
    ],
)
def test_sparse_matrices_that_point_out_of_themselves(tmp_path, wrong):
    path = h5ad(tmp_path / "a.h5ad", lambda file: x_of(file, **wrong))
    refused(lambda: vx.read(path), path)
    path = h5ad(tmp_path / "b.h5ad", lambda file: (x_of(file), file.create_group("raw"))[0])
    with h5py.File(path, "r+") as file:
        x_of(file["raw"], **wrong)
        file.copy("var", file["raw"])
    refused(lambda: vx.read(path), path)


def test_10x_files_that_point_out_of_themselves(tmp_path):
    path = tmp_path / "a.h5"
    for wrong in (
        {"indices": [0, 1, 77]},
        {"indices": [0, 1, -7]},
        {"indptr": [0, 1, 2, 77]},
        {"shape": [HUGE, HUGE]},
        {"shape": [2, 3]},
        {"data": [1.0]},
    ):
        parts = {"data": [1, 1, 1], "indices": [0, 1, 2], "indptr": [0, 1, 2, 3], "shape": [4, 3]} | wrong
        with h5py.File(path, "w") as file:
            group = file.create_group("matrix")
            for name, values in parts.items():
                group[name] = np.array(values)
            group["barcodes"] = np.array([b"a", b"b", b"c"])
            features = group.create_group("features")
            for name in ("id", "name", "feature_type", "genome"):
                features[name] = np.array([b"Gene Expression"] * 4)
        refused(lambda: vx.read(path), path)


def test_hdf5_of_other_files(tmp_path):
    (tmp_path / "secret").write_bytes(bytes(48))

    def outside(file):
        data = file.create_dataset("X", (3, 4), "f4", external=[(str(tmp_path / "secret"), 0, 48)])
        data.attrs.update({"encoding-type": "array", "encoding-version": "0.2.0"})

    path = h5ad(tmp_path / "a.h5ad", outside)
    refused(lambda: vx.read(path), path, "'/X' in another file")
    path = h5ad(tmp_path / "b.h5ad")
    with h5py.File(path, "r+") as file:
        file["uns/more"] = h5py.ExternalLink("other.h5", "/")
        file["layers/loop"] = h5py.SoftLink("/layers/loop")
        file["uns/self"] = file["uns"]
    refused(lambda: vx.read(path), path, "'/uns/more' in another file")


def test_sequences_that_are_neither_numbers_nor_text(tmp_path):
    path = h5ad(tmp_path / "a.h5ad")
    with h5py.File(path, "r+") as file:
        file.create_dataset("uns/x", (2,), h5py.vlen_dtype(np.uint8))
    refused(lambda: vx.read(path), path, "'/uns/x', which is neither numbers nor text")
    with h5py.File(path, "r+") as file:
        del file["uns/x"]
        file.create_dataset("uns/y", (2,), [("a", "f4"), ("b", h5py.ref_dtype)])
    refused(lambda: vx.read(path), path, "'/uns/y', which is neither numbers nor text")
    with h5py.File(path, "r+") as file:
        del file["uns/y"]
    assert vx.read(path).n_obs
    sequences = np.empty(1, object)
    sequences[0] = np.arange(3, dtype=np.uint8)
    for place in ("/", "/X", "/obs"):
        with h5py.File(path, "r+") as file:
            file[place].attrs["z"] = file["obs"].ref  # says where something is
        assert vx.read(path).n_obs
        with h5py.File(path, "r+") as file:
            file[place].attrs.create("z", sequences, dtype=h5py.vlen_dtype(np.uint8))
        words = f"'z' of '{place}', which is neither numbers nor text"
        refused(lambda: vx.read(path), path, words)
        with h5py.File(path, "r+") as file:
            del file[place].attrs["z"]


def test_hdf5_filters_are_read(tmp_path):
    numbers = np.arange(77 * 13).reshape(77, 13)
    filters = [{"compression": "gzip", "shuffle": True}, {"compression": "lzf"}, {"fletcher32": True}]
    filters += [{"scaleoffset": 0}, {"compression": "szip"}]
    if not h5py.h5z.filter_avail(h5py.h5z.FILTER_SZIP):
        filters.pop()
    for settings in filters:
        path = h5ad(tmp_path / "a.h5ad")
        with h5py.File(path, "r+") as file:
            file.create_dataset("uns/x", data=numbers, chunks=(10, 5), **settings)
        np.testing.assert_array_equal(vx.read(path).uns["x"], numbers)


@pytest.mark.skipif(find_spec("awkward") is not None, reason="awkward is installed")
def test_what_needs_a_package_is_said(tmp_path):
    """AnnData's reader names neither the file nor what to do."""
    path = h5ad(tmp_path / "a.h5ad")
    with h5py.File(path, "r+") as file:
        airr = file.create_group("obsm/airr")
        airr.attrs.update(
            {"encoding-type": "awkward-array", "encoding-version": "0.1.0", "form": "{}", "length": 3}
        )
    words = rf"'{re.escape(str(path))}'.*installed.*'awkward'.*\bpip\b"
    with pytest.raises(ImportError, match=words):
        vx.read(path)


def test_a_pickle_in_uns_stays_what_it_is(tmp_path, mark):
    path = h5ad(tmp_path / "a.h5ad")
    bomb = pickle.dumps(Evil(mark))
    with h5py.File(path, "r+") as file:
        file["uns/opaque"] = np.void(bomb)
        file["uns/opaque"].attrs.update({"encoding-type": "numeric-scalar", "encoding-version": "0.2.0"})
        file["uns/bytes"] = np.frombuffer(bomb, np.uint8)
        file["uns/bytes"].attrs.update({"encoding-type": "array", "encoding-version": "0.2.0"})
    cells = vx.read(path)
    assert cells.uns["bytes"].tobytes() == bomb
    assert not mark.exists()
    with h5py.File(path, "r+") as file:
        file["uns/bytes"].attrs["encoding-type"] = "pickle"
    refused(lambda: vx.read(path), path)
    assert not mark.exists()


def pickled_store(path, mark):
    """Write a Zarr store of version 2 with an array of pickles; reading it with zarr runs them."""
    adata = ad.AnnData(np.ones((3, 4), "f4"))
    adata.uns["note"] = np.arange(3.0)
    adata.write_zarr(path)
    about = path / "uns" / "note" / ".zarray"
    told = json.loads(about.read_text())
    # zarr asks the first of them for the kind of values, and decodes with each
    told |= {"filters": [{"id": "vlen-utf8"}, {"id": "pickle"}], "compressor": None, "dtype": "|O"}
    told["fill_value"] = ""
    about.write_text(json.dumps(told))
    for chunk in (path / "uns" / "note").glob("[0-9]*"):
        chunk.write_bytes(pickle.dumps(Evil(mark)))
    for name in (".zmetadata",):
        (path / name).unlink(missing_ok=True)
    return path


@pytest.mark.parametrize(
    "middle",
    [
        [2**62, 0],  # SciPy does not look where the last one is 0
        [2**63 - 1, -2, 8],  # nor at differences that overflow
    ],
)
@pytest.mark.parametrize("where", ["X", "obsm/s"])
def test_ends_of_rows_that_fall(tmp_path, where, middle):
    rows = len(middle) + 1
    x = sp.csr_matrix((np.ones(8, np.float32), np.arange(8), [0] + [4] * (rows - 1) + [8]), (rows, 9))
    path = tmp_path / "cells.h5ad"
    ad.AnnData(x.copy(), obsm={"s": x.copy()}).write_h5ad(path)
    with h5py.File(path, "r+") as file:
        del file[where]["indptr"]
        file[where]["indptr"] = np.array([0, 4, *middle])
    words = "'indptr', 'indices' and 'data' of 'X' do not fit" if where == "X" else "indptr"
    refused(lambda: vx.read(path), path, words)


@pytest.mark.filterwarnings("ignore")
def test_a_zarr_store_of_pickles(tmp_path, mark, monkeypatch):
    with ad.settings.override(zarr_write_format=2):
        path = pickled_store(tmp_path / "a.zarr", mark)
    refused(lambda: vx.read(path), path, "'uns/note' with 'pickle'")
    refused(lambda: vx.fit_vae(path, label_key="x"), path, "'uns/note' with 'pickle'")
    assert not mark.exists()
    # newer versions of numcodecs refuse it themselves
    monkeypatch.setattr("numcodecs.pickles.ALLOW_UNSAFE_PICKLE_DECODE", True, raising=False)
    with suppress(Exception):  # it is about what it does before
        zarr.open_group(path, mode="r")["uns/note"][:]
    assert mark.exists(), "the attack is not one: the test tests nothing"


def test_names_that_lead_elsewhere(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as archive:
        archive.writestr("../../evil.npy", b"x")
    with pytest.raises(ValueError, match=r"a\.npz"):
        read_state(tmp_path / "a.npz", {})
    assert not list(tmp_path.parent.glob("evil*"))


def serialised(*parts):
    head = struct.pack(">3i", 3, 0x040202, 0x030500) + struct.pack(">i", 5) + b"UTF-8"
    return (
        b"X\n" + head + b"".join(struct.pack(">i", part) if isinstance(part, int) else part for part in parts)
    )


def add_claims(add):
    """Add files of R with matrices, names and runs that take no room in them."""
    rdata = rds.rdata()
    tree = rds_writer._Tree()
    most = 2**31 - 1

    def put(name, root):
        content = io.BytesIO()
        versions = rdata.parser.RVersions(3, 0x040202, 0x030500)
        file = rdata.parser.RData(versions, rdata.parser.RExtraInfo("UTF-8"), root)
        rds_writer._unparser()(content).unparse_r_data(file)
        add(f"{name}.rds", content.getvalue())

    none, one = (tree.numbers(np.zeros(n, np.int32)) for n in (0, 1))
    values = tree.numbers(np.zeros(0))
    wide = {"Dim": tree.numbers([most, 0]), "i": none, "p": one, "x": values}
    put("rows", tree.s4("dgCMatrix", "Matrix", **wide))
    two = tree.items([tree.strings(["a", "b"]), tree.strings(["c", "d"])])
    square = {"Dim": tree.numbers([most, most]), "i": none, "j": none, "x": values, "Dimnames": two}
    put("square", tree.s4("dgTMatrix", "Matrix", **square))
    empty = {"dim": tree.numbers([0, most])}
    put("empty", tree.numbers(np.zeros(0), **empty))
    data = tree._node(
        tree._kind.VEC,
        value=[tree.numbers([1.0])],
        is_object=True,
        attributes=tree.attributes(
            {
                "names": tree.strings(["g"]),
                "class": tree.strings(["data.frame"]),
                "row.names": tree.numbers(np.ma.masked_array([0, -most], [True, False])),
            }
        ),
    )
    put("numbered", data)
    cells = ad.AnnData(np.ones((2, 3), "f4"))
    runs = tree.s4("Rle", "S4Vectors", values=tree.numbers([1.0]), lengths=tree.numbers([most]))
    column, tree.column = tree.column, lambda values: runs
    cells.obs["runs"] = 1.0
    put("runs", tree.experiment(cells, "counts"))
    tree.column = column


def bombs(folder):
    """Write small files that claim or unpack to very much; return their names."""
    made = {}

    def add(name, content):
        path = folder / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(content)
        made[name] = path

    text, n = b"0," * 2**23, 20  # 16 MiB, 20 times: archives may be put one behind the other
    add("line.csv.gz", gzip.compress(b"c,g\na," + text) + gzip.compress(text) * n)
    add("rows.tsv.gz", gzip.compress(b"c\tg\n") + gzip.compress(b"a\t1\n" * 2**22) * n)
    add("a.rds", gzip.compress(b"X\n") + gzip.compress(text) * n)
    add("b.rds", bz2.compress(b"X\n") + bz2.compress(bytes(2**24)) * n)
    add("c.rds", lzma.compress(b"X\n") + lzma.compress(bytes(2**24)) * n)
    for kind in (9, 10, 13, 14, 15, 16, 19, 24):  # characters, logical, integer, ... lists, bytes
        add(f"long{kind}.rds", serialised(kind, 2**31 - 1, b"x" * 99))
        add(f"longer{kind}.rds", serialised(kind, -1, 2**20, 0, b"x" * 99))
    add_claims(add)
    add("deep.rds", serialised(*[19, 1] * 10**5))
    add("pairs.rds", serialised(*[2] * 10**5))
    for name, (size, entries) in {
        "names/matrix.mtx": ("3 2", 10**12),
        "sizes/matrix.mtx": (f"{HUGE} {HUGE}", 1),
        "packed/matrix.mtx.gz": ("3 2", 10**12),
    }.items():
        matrix = f"%%MatrixMarket matrix coordinate integer general\n{size} {entries}\n1 1 5\n".encode()
        add(name, gzip.compress(matrix) + gzip.compress(b"1 1 5\n" * 2**21) * 99 if ".gz" in name else matrix)
        add(name.split("/")[0] + "/features.tsv", b"a\nb\nc\n")
        add(name.split("/")[0] + "/barcodes.tsv", b"a\nb\n")
    names = b"".join(b"n%d\n" % i for i in range(30_000))
    add("dense/matrix.mtx", b"%%MatrixMarket matrix array real general\n30000 30000\n1.5\n")
    add("dense/features.tsv", names)
    add("dense/barcodes.tsv", names)
    for name in ("dense", "layers/x", "obsm/x", "uns/x"):
        shape = (HUGE, HUGE) if name == "dense" else (3, HUGE)
        path = folder / f"{name.replace('/', '_')}.h5ad"
        made[path.name] = h5ad(
            path,
            (lambda file: None) if name == "dense" else None,
            **{"X" if name == "dense" else name: (shape, "f4")},
        )
    path = folder / "obs.h5ad"
    h5ad(path)
    with h5py.File(path, "r+") as file:
        del file["obs/_index"]
        index = file["obs"].create_dataset("_index", (HUGE,), h5py.string_dtype(), chunks=(1000,))
        index.attrs.update({"encoding-type": "string-array", "encoding-version": "0.2.0"})
    made[path.name] = path
    path = folder / "a.h5"
    with h5py.File(path, "w") as file:
        group = file.create_group("matrix")
        for name in ("data", "indices", "indptr"):
            group.create_dataset(name, (HUGE,), "i8", chunks=(1000,))
        group["shape"], group["barcodes"] = np.array([HUGE, HUGE]), np.array([b"a"])
        features = group.create_group("features")
        for name in ("id", "name", "feature_type", "genome"):
            features[name] = np.array([b"x"])
    made[path.name] = path
    path = folder / "a.loom"
    with h5py.File(path, "w") as file:
        file.create_dataset("matrix", (HUGE, HUGE), "f4", chunks=(100, 100))
        for name in ("row_attrs", "col_attrs", "layers", "row_graphs", "col_graphs"):
            file.create_group(name)
    made[path.name] = path
    for version in (2, 3):
        path = folder / f"v{version}.zarr"
        with ad.settings.override(zarr_write_format=version):
            ad.AnnData(np.ones((3, 4), "f4")).write_zarr(path)
        group = zarr.open_group(path, mode="r+")
        claimed = group.create_array("layers/x", shape=(HUGE, HUGE), chunks=(1000, 1000), dtype="f4")
        claimed.attrs.update({"encoding-type": "array", "encoding-version": "0.2.0"})
        zarr.consolidate_metadata(group.store)
        made[path.name] = path
    return {name: path for name, path in made.items() if not name.endswith((".tsv", "s.mtx.gz"))}


# what is read in a process of its own, that may take little memory beyond what the packages take
CHILD = """
import json, resource, sys, warnings
warnings.simplefilter("ignore")
import vaexprs as vx
from vaexprs.io.untrusted import archives as packed
packed.ALWAYS_UNPACKED = 2**28  # a quarter of what it is, to be done in a quarter of the time
import rdata, loompy, zarr, scanpy, scipy.io, scipy.io._fast_matrix_market
size = lambda: int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
for path in json.loads(sys.stdin.read()):
    most = size() + 2**30
    resource.setrlimit(resource.RLIMIT_AS, (most, resource.RLIM_INFINITY))
    try:
        vx.read(path)
        told = "read"
    except Exception as error:
        told = f"{type(error).__name__}: {error}"
    print(json.dumps([path, told, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss]), flush=True)
"""


@pytest.mark.parametrize("suffix", [".h5ad", ".zarr", ".h5mu"])
def test_sides_that_a_matrix_claims_without_names_or_ends_of_rows(tmp_path, suffix):
    """Room was made for them: 32 GiB of a file of 20 KiB."""
    cells = ad.AnnData(sp.eye_array(3, 4, format="csr", dtype="f4"))
    cells.obsp["near"] = sp.eye_array(3, format="csr")
    cells.raw = cells.copy()
    path, within = tmp_path / f"a{suffix}", ""
    if suffix == ".h5mu":
        within = "mod/rna/"
        with h5py.File(path, "w") as file:
            ad.io.write_elem(file, "mod/rna", cells)
    elif suffix == ".zarr":
        cells.write_zarr(path)
        (path / ".zmetadata").unlink(missing_ok=True)
    else:
        cells.write_h5ad(path)

    def changed(part, name, value):
        opened = zarr.open_group(path, mode="r+") if suffix == ".zarr" else h5py.File(path, "r+")
        with nullcontext(opened) if suffix == ".zarr" else opened as file:
            attributes = file[f"{within}{part}"].attrs
            before = attributes.get(name)
            if value is None:
                del attributes[name]
            else:
                attributes[name] = value
        return before

    vx.read(path)
    for part in ("X", "obsp/near", "raw/X"):
        before = changed(part, "shape", [HUGE, 4])
        words = rf"incomplete: 'indptr' of '{within}{part}' .*shape"
        refused(lambda: vx.read(path), path, words)
        changed(part, "shape", before)
    for part in ("obs", "var", "raw/var"):
        before = changed(part, "encoding-type", "dict")
        changed("X", "shape", [3, HUGE])
        refused(lambda: vx.read(path), path, rf"'{part}' is not a table\.$")
        changed("X", "shape", [3, 4])
        changed(part, "encoding-type", before)
    vx.read(path)


@pytest.mark.parametrize("way", ["backslash", "link"])
def test_a_zarr_store_that_leads_out_of_itself_or_around_in_it(tmp_path, way):
    path = tmp_path / "a.zarr"
    ad.AnnData(np.ones((3, 4), "f4")).write_zarr(path)
    if way == "backslash":  # which Zarr takes for a slash: reading its members had no end
        shutil.copytree(path / "uns", path / "\\")
    else:
        (path / "uns" / "again").symlink_to("..", target_is_directory=True)
    name = {"backslash": r"'\\\\'", "link": "'again'"}[way]
    refused(lambda: vx.read(path), path, rf"{name}, .*another folder\b")
    linked = tmp_path / "linked.zarr"
    shutil.rmtree(path / "\\" if way == "backslash" else path / "uns")
    linked.symlink_to(path, target_is_directory=True)
    assert vx.read(linked).shape == (3, 4)


def test_what_a_file_of_r_claims_is_looked_at_before_room_is_made(tmp_path):
    made = {}
    add_claims(lambda name, content: made.update({name: content}))
    for name, words in {
        "rows.rds": "2,147,483,647 rows without names are more than 4,194,304",
        "square.rds": "2,147,483,647 rows, but 2 names",
        "empty.rds": "2,147,483,647 columns without names are more than 4,194,304",
        "numbered.rds": "2,147,483,647 rows without names are more than 4,194,304",
    }.items():
        (tmp_path / name).write_bytes(made[name])
        refused(lambda name=name: vx.read(tmp_path / name), tmp_path / name, re.escape(words))
    (tmp_path / "runs.rds").write_bytes(made["runs.rds"])
    assert list(vx.read(tmp_path / "runs.rds").obs) == []


def test_a_class_of_r_with_a_line_break_in_its_name_is_told_in_one_line(tmp_path):
    tree = rds_writer._Tree()
    odd = tree.s4("a\nb", "x", Dim=tree.numbers([1, 1]))
    content = io.BytesIO()
    package = rds.rdata()
    versions = package.parser.RVersions(3, 0x040202, 0x030500)
    rds_writer._unparser()(content).unparse_r_data(
        package.parser.RData(versions, package.parser.RExtraInfo("UTF-8"), odd)
    )
    (tmp_path / "odd.rds").write_bytes(content.getvalue())
    refused(lambda: vx.read(tmp_path / "odd.rds"), tmp_path / "odd.rds", r"got a 'a\\nb'\. In R")


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="limits of memory are Linux's")
@pytest.mark.filterwarnings("ignore")
def test_claims_and_bombs_take_little_memory(tmp_path):
    paths = [str(path) for path in bombs(tmp_path).values()]
    done = subprocess.run(
        [sys.executable, "-c", CHILD], input=json.dumps(paths), capture_output=True, text=True, timeout=500
    )
    assert done.returncode == 0, done.stderr[-2000:]
    told = [json.loads(line) for line in done.stdout.splitlines()]
    assert [path for path, _, _ in told] == paths
    for path, sentence, _ in told:
        if path.endswith("runs.rds"):  # a column that is not of the cells is left out
            assert sentence == "read"
            continue
        assert sentence.startswith(("ValueError: ", "FileFormatError: ")), (path, sentence)
        assert Path(path).name in sentence or str(Path(path).parent) in sentence, sentence
        assert "\n" not in sentence
        if not path.endswith(".rds"):  # the content of those is held while it is measured
            assert "Memory" not in sentence, sentence
            assert "allocate" not in sentence, sentence
    assert max(peak for _, _, peak in told) < 3 * 2**20  # KiB


# names

EVIL = [
    "<script>window.hacked=1;alert(1)</script>",
    "</script><img src=x onerror=window.hacked=1>",
    "=cmd|' /C calc'!A0",
    "+1+1",
    "-2+3",
    "@SUM(1)",
    "\t=1",
    "\r=1",
    "'=1",
    "''+1",
    "../../evil",
    "/etc/evil",
    "[bold]x[/] [link=file:///]y[/]",
    "$\\frac$ ${x}",
    "\x1b[31mred",
    "{{ 7*7 }} {% x %}",
    "\u202eevil\u2066",
    "%s %(x)s {0}",
    "\uff1d1+1",
    "a,b;c\"d'e",
]


@pytest.fixture(scope="module")
def named(small):
    """Return cells, and a fit of them, whose genes, labels, columns and cells have names of a stranger."""
    cells = small[:, :8].copy()
    cells.X = cells.X.copy()
    cells.var_names = EVIL[:8]
    cells.obs_names = [f"{EVIL[i % len(EVIL)]}{i}" for i in range(cells.n_obs)]
    labels = [EVIL[0], EVIL[2], EVIL[10], EVIL[13]]
    column = "<img src=x onerror=window.hacked=1>"
    cells.obs = pd.DataFrame({column: pd.Categorical(np.resize(labels, cells.n_obs))}, index=cells.obs_names)
    fit = vx.fit_vae(cells, label_key=column, epochs=1, latent_dim=2, verbose=0)
    return cells, fit, column


@pytest.mark.parametrize("suffix", [".csv", ".tsv.gz", ".h5ad", ".zarr", ".rds"])
@pytest.mark.filterwarnings("ignore")
def test_names_of_cells_and_genes_come_back_as_they_were(named, tmp_path, suffix):
    cells, _, column = named
    names = [name for name in EVIL if "\r" not in name or suffix not in (".csv", ".tsv.gz")]
    cells = ad.AnnData(
        np.ones((len(names), len(names)), "f4"),
        obs=pd.DataFrame({column: names}, index=names),
        var=pd.DataFrame(index=names),
    )
    path = vx.write(cells, tmp_path / f"a{suffix}")
    again = vx.read(path) if suffix in (".h5ad", ".zarr", ".rds") else vx.read(path, transpose=False)
    assert list(again.var_names) == names
    assert list(again.obs_names) == names
    assert list(again.obs[column].astype(str)) == names
    assert not list(tmp_path.parent.glob("evil*"))


def test_what_a_spreadsheet_would_run_is_guarded():
    with pytest.raises(ValueError, match=r"\bNUL\b.*carriage return"):
        guarded(["\r=1"])
    for name in (name for name in EVIL if "\r" not in name):
        (safe,) = guarded([name])
        assert safe[0] not in "=+-@\t\r\n\uff1d\uff0b\uff0d\uff20"
        assert unguarded(safe) == name


@pytest.mark.nightly  # tests/report/test_report.py has the page
@pytest.mark.filterwarnings("ignore")
def test_names_in_the_report_and_its_tables(named, browser, tmp_path):
    cells, fit, column = named
    here = tmp_path / "<img src=x onerror=window.hacked=1>"
    here.mkdir()
    generated = vx.gen_exprs(fit, 60, seed=0)
    path = here / "page.html"
    vx.write_report(fit, generated, cells, path, train=cells, label_key=column)
    assert [each.name for each in here.iterdir()] == ["page.html"]
    assert sorted(each.name for each in tmp_path.iterdir()) == [here.name]
    page = browser.new_context(accept_downloads=True).new_page()
    seen = []
    page.on("dialog", lambda dialog: (seen.append(dialog.message), dialog.dismiss()))
    page.on("request", lambda request: seen.append(request.url) if "page.html" not in request.url else None)
    page.on("pageerror", lambda error: seen.append(str(error)))
    page.goto(path.as_uri())
    page.wait_for_selector("html[data-ready]", timeout=60_000)
    assert page.evaluate("window.hacked") is None
    assert [url for url in seen if not url.startswith(("data:", "blob:"))] == []
    assert page.locator("img[src=x]").count() == 0
    for button in page.locator("button[data-csv]").all():
        if not button.is_visible():
            continue
        with page.expect_download() as download:
            button.click()
        table = pd.read_csv(download.value.path(), dtype=str, keep_default_na=False)
        # numbers may begin with a minus, texts may not
        for text in table.to_numpy(str).ravel():
            assert text[:1] not in ("=", "+", "@", "\t", "\r")
            assert not text.startswith("-") or pd.notna(pd.to_numeric(text, errors="coerce"))
    assert "<script>window.hacked" not in path.read_text()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_names_in_pictures_and_tables(named, tmp_path, monkeypatch, capsys):
    cells, fit, column = named
    generated = vx.gen_exprs(fit, 60, seed=0)
    vx.plot_aug(generated, "PCA", real=cells, label_key=column).savefig(tmp_path / "a.png")
    cells.write_h5ad(tmp_path / "real.h5ad")
    vx.write(generated.adata, tmp_path / "made.h5ad")
    out = tmp_path / "table.csv"
    argv = ["evaluate", tmp_path / "made.h5ad", "--real", tmp_path / "real.h5ad", "--label-key", column]
    monkeypatch.setattr(sys, "argv", ["vaexprs", *map(str, argv), "--out", str(out)])
    with pytest.raises(SystemExit) as ended:
        main()
    assert not ended.value.code, capsys.readouterr().err
    table = pd.read_csv(out, dtype={"label": str}, keep_default_na=False)
    assert "'" + EVIL[2] in set(table["label"])
    assert not table["label"].str.match("[=+@-]").any()
    names = {"a.png", "made.h5ad", "real.h5ad", "table.csv"}
    assert {each.name for each in tmp_path.iterdir()} == names


def test_code_in_the_report_repeats_the_run_and_nothing_else(named, mark):
    _, fit, _ = named
    evil = f"Adam\nopen({str(mark)!r}, 'w')\r#"
    arguments = {"optimizer": evil, f"x=open({str(mark)!r}, 'w'), y": 1, "epochs": [evil], "label_key": evil}
    hostile = replace(fit, recipe={"arguments": arguments})
    text = gathering.code(
        hostile,
        {"labels": json.dumps({evil: 3})},
        3,
        given=False,
        label_key=evil,
        donor_key=None,
        layer=None,
        seed=0,
    )
    calls = [node for node in ast.walk(ast.parse(text)) if isinstance(node, ast.Call)]
    assert {ast.unparse(call.func) for call in calls} == {
        *("vx.read", "vx.fit_vae", "vx.gen_exprs", "vx.write_report")
    }
    for odd in ({"labels": "{"}, {"library_size": "much"}, {"covariates": "[" * 10**5}, {"seed": "x"}):
        with pytest.raises(ValueError, match=r"uns\['vaexprs'\].*gen_exprs"):
            recipe_of(ad.AnnData(np.ones((2, 2)), uns={"vaexprs": odd}))


# the command line


@pytest.mark.filterwarnings("ignore")
def test_the_command_line_says_it_in_one_line(saved, tmp_path, mark, monkeypatch, capsys):
    def hostile(config):
        config["config"]["graph"] = layer("os", "system")

    with_config(saved, hostile)
    (tmp_path / "deep.rds").write_bytes(serialised(*[19, 1] * 10**4))
    (tmp_path / "lines.csv").write_bytes(b"a,b\n\x00,\xff\n")
    h5ad(tmp_path / "a.h5ad", lambda file: x_of(file, indices=(0, 1, 99)))
    for argv, file in (
        (["generate", saved, "-n", 5, "--out", tmp_path / "o.h5ad"], "model.keras"),
        (["fit", tmp_path / "deep.rds", "--out", tmp_path / "o"], "deep.rds"),
        (["fit", tmp_path / "lines.csv", "--out", tmp_path / "o"], "lines.csv"),
        (["fit", tmp_path / "a.h5ad", "--out", tmp_path / "o"], "a.h5ad"),
    ):
        monkeypatch.setattr(sys, "argv", ["vaexprs", *map(str, argv)])
        with pytest.raises(SystemExit) as ended:
            main()
        told = [line for line in capsys.readouterr().err.splitlines() if line]
        assert ended.value.code == 2
        assert [line.startswith("Error: ") for line in told] == [True], told
        assert file in told[0]
    assert not mark.exists()
    assert not list(tmp_path.glob("o*"))


def test_names_do_not_steer_the_terminal(tmp_path, monkeypatch, capsys):
    (tmp_path / "a.csv").write_text("cell,\x1b]0;evil\x07[bold]g\na,x\n")
    monkeypatch.setattr(
        sys, "argv", ["vaexprs", "fit", str(tmp_path / "a.csv"), "--out", str(tmp_path / "o")]
    )
    with pytest.raises(SystemExit):
        main()
    told = capsys.readouterr().err
    assert "\x1b]" not in told
    assert "\x07" not in told
    assert "[bold]g" in told
    assert plain("a\x1b[31m\u202eb[red]\nc") == r"a\x1b[31m\u202eb\[red]" + "\nc"


# what fuzzing starts from


@pytest.mark.skipif(not (ROOT / "fuzz").is_dir(), reason="fuzz/ is not in what is installed")
@pytest.mark.filterwarnings("ignore")
def test_the_harnesses_take_what_they_start_from():
    sys.path.insert(0, str(ROOT / "fuzz"))
    try:
        import fuzz
    finally:
        sys.path.pop(0)
    for form in fuzz.HARNESSES:
        files = sorted((ROOT / "fuzz" / "corpora" / form).iterdir())
        assert files
        for path in files:
            told = fuzz.once(form, path.read_bytes())
            # of what was found once it is enough that it ends well
            assert path.name.startswith("found-") or (told == "") == (form != "npz"), (path, told)
    assert sum(path.stat().st_size for path in (ROOT / "fuzz" / "corpora").rglob("*/*")) < 300_000
    assert os.environ["JAX_PLATFORMS"]
