"""Parse R's .rds files into a tree of R objects, and look into the tree.

R is not required and no code in a file is evaluated: functions, promises and byte code are parsed as data and
ignored. The package rdata parses the file.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anndata as ad
import numpy as np
import pandas as pd

from vaexprs.interface.errors import FileFormatError, require
from vaexprs.io.formats import READERS
from vaexprs.io.untrusted.archives import read_decompressed

STARTS = (b"X\n", b"A\n", b"B\n", b"A\r\n")  # of R's serialisation: XDR, text or native
SEQUENCES = ("compact_intseq", "compact_realseq")  # sequences that R stores as length, start and step
NO_VALUE = "\x01NULL\x01"  # symbol for NULL in a slot
MAX_NUMBERED = 2**22  # maximum number of rows or columns without names, because a file can declare any number


def type_of(node: Any) -> str:
    """Return the R type of a parsed object."""
    return str(node.info.type.name)


def resolve(node: Any) -> Any:
    """Return the target of a reference, or the node itself."""
    while type_of(node) == "REF":
        node = node.referenced_object
    return node


def symbol(node: Any) -> str:
    """Return the name of a symbol."""
    return str(resolve(node).value.value.decode("utf-8", "replace"))


def attributes_of(node: Any) -> dict[str, Any]:
    """Return attributes by name (slots for an S4 object), without those that are NULL."""
    found = {}
    pair = resolve(node).attributes
    while pair is not None and type_of(pair) == "LIST":
        value = resolve(pair.value[0])
        if not (type_of(value) == "SYM" and symbol(value) == NO_VALUE) and type_of(value) not in (
            "NIL",
            "NILVALUE",
        ):
            found[symbol(pair.tag)] = value
        pair = pair.value[1]
    return found


def class_of(node: Any) -> str:
    """Return the first class of an object, or an empty string for a plain vector."""
    return (strings(attributes_of(node).get("class")) or [""])[0]


def strings(node: Any) -> list[str] | None:
    """Return a character or integer vector as text, or None for NULL and other objects."""
    if node is None:
        return None
    if type_of(node) == "STR":
        return [text_of(each) for each in node.value]
    if type_of(node) == "INT":
        first = np.ma.getmaskarray(node.value)[:1]
        if len(node.value) == 2 and first.all():  # compact form of numbered row names
            return numbered(abs(int(node.value[1])))
        return [str(value) for value in node.value]
    return None


def text_of(node: Any) -> str:
    """Return a string of R, "NA" for a missing one."""
    if node.value is None:
        return "NA"
    latin1 = node.info.gp & 4
    return str(node.value.decode("latin-1" if latin1 else "utf-8", "replace"))


def elements_of(node: Any) -> list[tuple[str, Any]]:
    """Return the elements of a list with their names, which may repeat; unnamed ones are numbered."""
    values = [resolve(value) for value in node.value] if type_of(node) == "VEC" else []
    names = strings(attributes_of(node).get("names")) or [str(i + 1) for i in range(len(values))]
    return list(zip(names, values, strict=True))


def named(node: Any) -> dict[str, Any]:
    """Return the elements of a list by name; names that repeat are numbered."""
    elements = elements_of(node)
    names = ad.utils.make_index_unique(pd.Index([name for name, _ in elements], dtype=object))
    return dict(zip(names, (value for _, value in elements), strict=True))


def numbered(n: int, kind: str = "") -> list[str]:
    """Return numbered names for unnamed rows or columns."""
    if n > MAX_NUMBERED:
        raise ValueError(f"{n:,} {kind or 'row'}s without names are more than {MAX_NUMBERED:,}. Add names.")
    return [f"{kind}{i + 1}" for i in range(n)]


def rdata() -> Any:
    """Import rdata, which parses and writes R's files; the ImportError names the pip command."""
    extra = READERS[".rds"].extra
    assert extra is not None
    return require(*extra)


def parsed(path: Path) -> Any:
    """Return the tree of R objects in a file."""
    package = rdata()
    content = read_decompressed(path)
    if not content.startswith(STARTS):
        raise FileFormatError(
            f"{str(path)!r} must be a file written by R's saveRDS(). Files of save() are not supported."
        )

    def bounded(name: str, expand: Callable[[Any], Any]) -> Callable[[Any], Any]:
        def expanded(state: Any) -> Any:
            if state.value[0] > len(content):  # any length can be declared, but no valid use is longer
                raise ValueError(f"a {name} of {state.value[0]:,.0f} values is too long for the file size.")
            return expand(state)

        return expanded

    from rdata.parser._parser import DEFAULT_ALTREP_MAP

    expanders = dict(DEFAULT_ALTREP_MAP)
    for name in SEQUENCES:
        expanders[name.encode()] = bounded(name, expanders[name.encode()])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            parsed = package.parser.parse_data(content, altrep_constructor_dict=expanders, extension=".rds")
        except (NotImplementedError, ValueError) as error:
            if "RObjectType" not in str(error):  # not an unsupported type of R object
                raise
            raise FileFormatError(
                f"{str(path)!r} contains an R object that rdata does not support ({error}). In R, remove "
                "everything except matrices and data frames, for example metadata(x) <- list(), and save "
                "it again."
            ) from error
    return parsed.object
