"""What a saved network may be made of: listed names, in no more memory than its file holds.

Keras' own safe mode refuses lambdas, but has let other things pass: modules that are imported by name
(CVE-2025-1550), functions that fetch files (CVE-2025-8747), layers that read any file as their vocabulary
(CVE-2025-12058), weights that lie in another file (CVE-2026-1669) or claim any size (CVE-2026-0897). So what
is built is looked at before Keras sees it: only what is on the list below, and what the caller's own process
has registered or hands over, is ever looked up.
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
LARGEST_CONFIG = 16 * 2**20  # bytes
DEEPEST = 100  # levels of a configuration in each other
WIDEST = 2**20  # values of a cell between two layers, ...
WIDEST_OF_INPUT = 100  # ... or so many for each of its genes and conditions
# Layers that compute from their input and their weights alone. Those that read files, load code or call
# another framework (Lambda, StringLookup, TextVectorization, TFSMLayer, TorchModuleWrapper, JaxLayer, ...)
# are left out, and so is what is only for images and sound.
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
OWN = "vaexprs>"  # how what the house registers begins
ROOT = "vaexprs>VAE"
ARRAYS = ("__numpy__", "__tensor__")
NUMBERS = ("bool", "int8", "int16", "int32", "int64", "uint8", "float16", "bfloat16", "float32", "float64")
PLAIN = ("__keras_tensor__", "__ellipsis__", "__slice__")


def check_saved(path: Path, custom_objects: Mapping[str, Any]) -> None:
    """Check that what a ``.keras`` file describes may be built, and that its weights are in it.

    Parameters
    ----------
    path
        The file.
    custom_objects
        Classes and functions by name that the caller allows.

    Raises
    ------
    ValueError
        If something in it is neither listed nor known to the caller's process, or it claims to be larger
        than it is.
    """
    with zipfile.ZipFile(path) as archive:
        names = sorted(archive.namelist())
        if names != sorted(MEMBERS):
            raise FileFormatError(
                f"{str(path)!r} must hold {listed(MEMBERS)}, got {listed(names) or 'nothing'}."
            )
        packed = [name for name in names if archive.getinfo(name).compress_type != zipfile.ZIP_STORED]
        if packed or archive.getinfo(CONFIG).file_size > LARGEST_CONFIG:
            raise FileFormatError(
                f"{str(path)!r} is not as Keras writes it: {listed(packed) or CONFIG!r} is packed or huge."
            )
        config = json.loads(archive.read(CONFIG))
        weights = io.BytesIO(archive.read(WEIGHTS))
    root = config.get("registered_name") if isinstance(config, dict) else None
    if root != ROOT or config.get("class_name") != "VAE":
        raise FileFormatError(f"{str(path)!r} is not a vaexprs model, it holds a {_class_of(config)}.")
    known = _check_names(config, custom_objects, path)
    with h5py.File(weights, "r") as file:
        n_saved = check_hdf5(file, path, packed=False)
    _check_size(config, known, n_saved, path)


def _check_names(config: Any, custom_objects: Mapping[str, Any], path: Path) -> dict[str, Any]:
    """Check each name in a configuration, and return what is not Keras' own."""
    known: dict[str, Any] = {}
    for part in _parts(config, path):
        if part.get("compile_config"):
            raise FileFormatError(f"{str(path)!r} holds an optimizer or a loss, which a saved fit does not.")
        if "class_name" not in part or _is_listed(part, custom_objects):
            continue
        name, module = part["class_name"], part.get("module")
        called = part.get("config") if name == "function" else _registered_name(part)
        # what the caller's process has was imported by its own code, never because of this file
        found = (
            keras.saving.get_registered_object(called, custom_objects) if isinstance(called, str) else None
        )
        if found is None:
            shown = str(called or name).rpartition(">")[2]
            raise FileFormatError(
                f"{str(path)!r} asks for {f'{module}.{shown}'!r}, which is not among the layers that are "
                "loaded from a file. If it is your own, or you trust it, give its class: "
                f"load_vae(path, custom_objects={{{shown!r}: {shown if shown.isidentifier() else '...'}}})."
            )
        known[str(called)] = found
    return known


def _registered_name(part: Mapping[str, Any]) -> Any:
    """Return the name that is looked for among what is registered: of an own one of Keras its class."""
    own = str(part.get("module")).partition(".")[0] == "keras"
    return part.get("registered_name") or (part["class_name"] if own else None)


def _is_listed(part: Mapping[str, Any], custom_objects: Mapping[str, Any]) -> bool:
    """Whether a part of a configuration is plain, or one of Keras' own that are listed here."""
    name, module, inner = (part.get(key) for key in ("class_name", "module", "config"))
    if name in PLAIN:
        return True
    if name in ARRAYS:
        return isinstance(inner, dict) and inner.get("dtype") in NUMBERS
    if name == "function":
        name = inner
        listed = tuple(FUNCTIONS.split()) if module in FUNCTION_MODULES else ()
    else:
        listed = ALLOWED.get(module, ()) if isinstance(module, str) else ()
        if part.get("registered_name") not in (None, name):
            return False
    return isinstance(name, str) and name in listed and name not in custom_objects


def _class_of(config: Any) -> str:
    return str(config.get("class_name")) if isinstance(config, dict) else type(config).__name__


def _parts(config: Any, path: Path) -> Iterator[dict[str, Any]]:
    """Yield all dicts of a configuration."""
    waiting = [(config, 0)]
    while waiting:
        part, depth = waiting.pop()
        if depth > DEEPEST:
            raise FileFormatError(
                f"{str(path)!r} has a configuration of more than {DEEPEST} levels in each other."
            )
        if isinstance(part, dict):
            yield part
        if isinstance(part, (dict, list)):
            inside = part.values() if isinstance(part, dict) else part
            waiting += [(each, depth + 1) for each in inside if isinstance(each, (dict, list))]


def _check_size(config: Any, known: Mapping[str, Any], n_saved: int, path: Path) -> None:
    """Check that a network has no more weights than were saved, before room is made for any."""
    try:
        # Keras keeps what it put off by thread: what is built here must never be filled
        with ThreadPoolExecutor(1) as aside:
            n, width, widest = aside.submit(_sizes, config, known).result()
    except Exception:
        if all(name.startswith(OWN) for name in known):
            raise
        return  # a layer of the caller's own may need its weights at once
    if n > n_saved:
        raise FileFormatError(f"{str(path)!r} describes a network of {n:,} weights, but holds {n_saved:,}.")
    if widest > max(WIDEST, WIDEST_OF_INPUT * width):
        raise FileFormatError(
            f"{str(path)!r} describes a network with {widest:,} values of a cell between two layers."
        )


def _sizes(config: Any, known: Mapping[str, Any]) -> tuple[int, int, int]:
    """Return the number of weights of a network, the size of its input, and that of its widest layer."""
    with keras.StatelessScope(initialize_variables=False):
        model = keras.saving.deserialize_keras_object(config, custom_objects=dict(known), safe_mode=True)
        n = sum(math.prod(weight.shape) for weight in model.weights)
        width = sum(_width(tensor) for tensor in model.inputs)
        widest = max(map(_width, _between(model)))
    return n, width, widest


def _between(model: keras.Model) -> Iterator[Any]:
    """Yield what the layers of a model give to each other."""
    for layer in model.layers:
        yield from keras.tree.flatten(getattr(layer, "output", ()))
        if isinstance(layer, keras.Model):
            yield from _between(layer)


def _width(tensor: Any) -> int:
    return math.prod(size or 1 for size in tensor.shape[1:])
