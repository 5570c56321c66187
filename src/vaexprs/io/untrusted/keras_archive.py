"""Validate a saved network against an allow-list of classes and the stored number of weights.

The safe mode of Keras rejects lambdas, but has allowed modules imported by name (CVE-2025-1550), functions
that fetch files (CVE-2025-8747), layers that read any file as their vocabulary (CVE-2025-12058), weights in
another file (CVE-2026-1669) and weights of any declared size (CVE-2026-0897). The configuration is therefore
checked before Keras reads it: only names in the lists below, and names that the calling process has
registered or passed as `custom_objects`, are looked up.
"""

from __future__ import annotations

import io
import json
import math
import zipfile
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import h5py
import keras

from vaexprs.interface.errors import FileFormatError
from vaexprs.interface.validation import listed
from vaexprs.io.untrusted.hdf5 import check_hdf5

CONFIG, WEIGHTS = "config.json", "model.weights.h5"
MEMBERS = (CONFIG, "metadata.json", WEIGHTS)
MAX_CONFIG_BYTES = 16 * 2**20
MAX_DEPTH = 100  # maximum nesting depth of the configuration
MAX_WIDTH = 2**20  # number of activations per cell that every layer may have
MAX_WIDTH_PER_INPUT = 100  # maximum number of activations per input (gene or condition) above that
TRACED_CELLS = 2  # number of cells for which the sizes of intermediate values are traced
# Layers that depend on their input and weights only. Layers that read files, load code or call another
# framework (Lambda, StringLookup, TextVectorization, TFSMLayer, TorchModuleWrapper, JaxLayer, ...) and layers
# for images and sound are excluded.
LAYERS = """
    Activation ActivityRegularization Add AdditiveAttention AlphaDropout Attention Average
    AveragePooling1D AveragePooling2D BatchNormalization Bidirectional Concatenate Conv1D
    Conv1DTranspose Conv2D Conv2DTranspose Cropping1D Cropping2D Dense DepthwiseConv1D
    DepthwiseConv2D Dot Dropout ELU EinsumDense Embedding Flatten GRU GRUCell GaussianDropout
    GaussianNoise GlobalAveragePooling1D GlobalAveragePooling2D GlobalMaxPooling1D
    GlobalMaxPooling2D GroupNormalization GroupQueryAttention Identity InputLayer LSTM LSTMCell
    LayerNormalization LeakyReLU Masking MaxPooling1D MaxPooling2D Maximum Minimum
    MultiHeadAttention Multiply Normalization PReLU Permute RMSNormalization RNN ReLU RepeatVector
    Rescaling Reshape SeparableConv1D SeparableConv2D SimpleRNN SimpleRNNCell Softmax
    SpatialDropout1D SpatialDropout2D SpectralNormalization StackedRNNCells Subtract TimeDistributed
    UnitNormalization UpSampling1D UpSampling2D ZeroPadding1D ZeroPadding2D
"""
ALLOWED = {
    module: tuple(names.split())
    for module, names in {
        "keras": "DTypePolicy Functional Sequential",
        "keras.src.models.functional": "Functional",
        "keras.src.models.sequential": "Sequential",
        "keras.dtype_policies": "DTypePolicy",
        "keras.layers": LAYERS,
        "keras.initializers": """
            Constant GlorotNormal GlorotUniform HeNormal HeUniform Identity LecunNormal LecunUniform Ones
            Orthogonal OrthogonalInitializer RandomNormal RandomUniform TruncatedNormal VarianceScaling Zeros
        """,
        "keras.regularizers": "L1 L1L2 L2 OrthogonalRegularizer",
        "keras.constraints": "MaxNorm MinMaxNorm NonNeg UnitNorm",
    }.items()
}
FUNCTIONS = """
    celu elu exponential gelu glu hard_shrink hard_sigmoid hard_silu hard_swish hard_tanh leaky_relu
    linear log_sigmoid log_softmax mish relu relu6 selu sigmoid silu soft_shrink softmax softplus
    softsign sparse_plus sparse_sigmoid sparsemax squareplus swish tanh tanh_shrink threshold
"""
FUNCTION_MODULES = (None, "builtins", "keras.activations")
OWN = "vaexprs>"  # prefix of the classes that vaexprs registers
ROOT = "vaexprs>VAE"
ARRAYS = ("__numpy__", "__tensor__")
NUMBERS = ("bool", "int8", "int16", "int32", "int64", "uint8", "float16", "bfloat16", "float32", "float64")
PLAIN = ("__keras_tensor__", "__ellipsis__", "__slice__")


def check_saved(path: Path, custom_objects: Mapping[str, Any]) -> None:
    """Check that a ``.keras`` file uses only allowed classes and contains all of its weights.

    Parameters
    ----------
    path
        ``.keras`` file.
    custom_objects
        Mapping of names to classes and functions that the caller allows.

    Raises
    ------
    FileFormatError
        If the file uses a name that is neither listed nor registered in the calling process, or declares
        more data than it stores.
    """
    with zipfile.ZipFile(path) as archive:
        names = sorted(archive.namelist())
        if names != sorted(MEMBERS):
            raise FileFormatError(
                f"{str(path)!r} must contain {listed(MEMBERS)}, got {listed(names) or 'nothing'}."
            )
        compressed = [name for name in names if archive.getinfo(name).compress_type != zipfile.ZIP_STORED]
        if compressed or archive.getinfo(CONFIG).file_size > MAX_CONFIG_BYTES:
            raise FileFormatError(
                f"{str(path)!r} is not a valid Keras archive: {listed(compressed) or repr(CONFIG)} must be "
                f"uncompressed and at most {MAX_CONFIG_BYTES // 2**20} MiB."
            )
        config = json.loads(archive.read(CONFIG))
        weights = io.BytesIO(archive.read(WEIGHTS))
    root = config.get("registered_name") if isinstance(config, dict) else None
    if root != ROOT or config.get("class_name") != "VAE":
        raise FileFormatError(f"{str(path)!r} is not a vaexprs model: it contains a {_class_of(config)}.")
    known = _check_names(config, custom_objects, path)
    with h5py.File(weights, "r") as file:
        n_saved = check_hdf5(file, path, compressed=False)
    _check_size(config, known, n_saved, path)


def _check_names(config: Any, custom_objects: Mapping[str, Any], path: Path) -> dict[str, Any]:
    """Check each name in a configuration and return the objects that are not part of Keras."""
    known: dict[str, Any] = {}
    for part in _parts(config, path):
        if part.get("compile_config"):
            raise FileFormatError(
                f"{str(path)!r} contains an optimizer or a loss, which a saved model must not."
            )
        if "class_name" not in part or _is_listed(part, custom_objects):
            continue
        name, module = part["class_name"], part.get("module")
        key = part.get("config") if name == "function" else _registered_name(part)
        # registered objects were imported by code of the calling process, never because of this file
        found = keras.saving.get_registered_object(key, custom_objects) if isinstance(key, str) else None
        if found is None:
            shown = str(key or name).rpartition(">")[2]
            raise FileFormatError(
                f"{str(path)!r} requires {f'{module}.{shown}'!r}, which is not an allowed layer or "
                "function. If you trust it, pass it: "
                f"load_vae(path, custom_objects={{{shown!r}: {shown if shown.isidentifier() else '...'}}})."
            )
        known[str(key)] = found
    return known


def _registered_name(part: Mapping[str, Any]) -> Any:
    """Return the name under which an object is looked up; for classes of Keras, the class name."""
    is_keras = str(part.get("module")).partition(".")[0] == "keras"
    return part.get("registered_name") or (part["class_name"] if is_keras else None)


def _is_listed(part: Mapping[str, Any], custom_objects: Mapping[str, Any]) -> bool:
    """Return whether a part of a configuration is plain data or a listed class or function of Keras."""
    name, module, inner = (part.get(key) for key in ("class_name", "module", "config"))
    if name in PLAIN:
        return True
    if name in ARRAYS:
        return isinstance(inner, dict) and inner.get("dtype") in NUMBERS
    if name == "function":
        name = inner
        allowed = tuple(FUNCTIONS.split()) if module in FUNCTION_MODULES else ()
    else:
        allowed = ALLOWED.get(module, ()) if isinstance(module, str) else ()
        if part.get("registered_name") not in (None, name):
            return False
    return isinstance(name, str) and name in allowed and name not in custom_objects


def _class_of(config: Any) -> str:
    return str(config.get("class_name")) if isinstance(config, dict) else type(config).__name__


def _parts(config: Any, path: Path) -> Iterator[dict[str, Any]]:
    """Yield all dicts of a configuration."""
    waiting = [(config, 0)]
    while waiting:
        part, depth = waiting.pop()
        if depth > MAX_DEPTH:
            raise FileFormatError(
                f"{str(path)!r} has a configuration of more than {MAX_DEPTH} nested levels."
            )
        if isinstance(part, dict):
            yield part
        if isinstance(part, (dict, list)):
            inside = part.values() if isinstance(part, dict) else part
            waiting += [(each, depth + 1) for each in inside if isinstance(each, (dict, list))]


def _check_size(config: Any, known: Mapping[str, Any], n_saved: int, path: Path) -> None:
    """Check that a network has no more weights than were saved, before any are allocated."""
    try:
        # Keras keeps deferred initializations per thread: this network's weights must never be allocated
        with ThreadPoolExecutor(1) as pool:
            n, width, widest, intermediate = pool.submit(_sizes, config, known).result()
    except Exception:
        if all(name.startswith(OWN) for name in known):
            raise
        return  # a custom layer may need its weights when it is built
    if n > n_saved:
        raise FileFormatError(
            f"{str(path)!r} describes a network with {n:,} weights, but stores {n_saved:,}."
        )
    limit = max(MAX_WIDTH, MAX_WIDTH_PER_INPUT * width)
    if widest > limit:
        raise FileFormatError(
            f"{str(path)!r} describes a layer with {widest:,} activations per cell (maximum {limit:,})."
        )
    limit = max(limit, n_saved)  # a product with the weights may be as large as they are
    if intermediate > limit:
        raise FileFormatError(
            f"{str(path)!r} describes a network that computes {intermediate:,} intermediate values at once "
            f"per cell (maximum {limit:,}), such as the attention between the steps of a long sequence."
        )


def _sizes(config: Any, known: Mapping[str, Any]) -> tuple[int, int, int, int]:
    """Return the sizes of a network.

    Returns
    -------
    tuple
        Number of weights; size of the input, of the output of the widest layer, and of the largest array
        inside a layer, each for one cell.
    """
    with keras.StatelessScope(initialize_variables=False):
        model = keras.saving.deserialize_keras_object(config, custom_objects=dict(known), safe_mode=True)
        n = sum(math.prod(weight.shape) for weight in model.weights)
        width = sum(_width(tensor) for tensor in model.inputs)
        widest = max(map(_width, _layer_outputs(model)))
        intermediate = 0
        if widest <= max(MAX_WIDTH, MAX_WIDTH_PER_INPUT * width):
            intermediate = _largest_intermediate(model)
    return n, width, widest, intermediate


def _largest_intermediate(model: keras.Model) -> int:
    """Return the size of the largest array, per cell, in the computation of a network.

    JAX traces the computation with the shapes of two cells, without allocating or computing any values.
    """
    if keras.backend.backend() != "jax":
        return 0
    import jax

    def shapes(variables: Any) -> list[Any]:
        return [jax.ShapeDtypeStruct(tuple(each.shape), each.dtype) for each in variables]

    inputs = [jax.ShapeDtypeStruct((TRACED_CELLS, *each.shape[1:]), each.dtype) for each in model.inputs]
    trainable, rest = shapes(model.trainable_variables), shapes(model.non_trainable_variables)

    def outputs(trainable: Any, rest: Any, inputs: Any) -> Any:
        return model.stateless_call(trainable, rest, inputs if len(inputs) > 1 else inputs[0])[0]

    traced = jax.make_jaxpr(outputs)(trainable, rest, inputs)
    return _largest_value(traced.jaxpr) // TRACED_CELLS


def _largest_value(jaxpr: Any) -> int:
    """Return the size of the largest array that a JAX expression computes, including nested ones."""
    largest, waiting = 0, [jaxpr]
    while waiting:
        for equation in waiting.pop().eqns:
            for value in equation.outvars:
                largest = max(largest, math.prod(getattr(value.aval, "shape", ())))
            for part in equation.params.values():
                for each in part if isinstance(part, (list, tuple)) else [part]:
                    inner = getattr(each, "jaxpr", each)  # of a closed expression
                    if hasattr(inner, "eqns"):
                        waiting.append(inner)
    return largest


def _layer_outputs(model: keras.Model) -> Iterator[Any]:
    """Yield the outputs of all layers of a model, including nested models."""
    for layer in model.layers:
        yield from keras.tree.flatten(getattr(layer, "output", ()))
        if isinstance(layer, keras.Model):
            yield from _layer_outputs(layer)


def _width(tensor: Any) -> int:
    return math.prod(size or 1 for size in tensor.shape[1:])
