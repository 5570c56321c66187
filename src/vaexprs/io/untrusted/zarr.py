"""Check that a Zarr store holds what it declares and uses known codecs only."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from vaexprs.interface.errors import FileFormatError
from vaexprs.interface.validation import listed
from vaexprs.io.untrusted.anndata import check_row_ends
from vaexprs.io.untrusted.hdf5 import ALWAYS_UNPACKED, MAX_UNPACKED

# codecs that produce only numbers and text; "pickle" would run code
CODECS = """
    adler32 astype bitround blosc bytes bz2 crc32 crc32c delta fixedscaleoffset fletcher32 gzip lz4
    lzma packbits quantize sharding_indexed shuffle transpose vlen-bytes vlen-utf8 zlib zstd
"""


def check_zarr(group: Any, path: Path) -> None:
    """Check that the arrays of a Zarr store match their declared sizes and use allowed codecs.

    Arrays name their codecs, and one of version 2 is Python's pickle, which runs code.

    Raises
    ------
    FileFormatError
        If an array uses another codec, or a declared size exceeds the stored data.
    """
    for name, part in _in_zarr(group, path):
        unknown = sorted(set(_codecs(part.metadata.to_dict())) - set(CODECS.split()))
        if unknown:
            raise FileFormatError(
                f"{str(path)!r} compresses {name!r} with {listed(unknown)}, which is not an allowed codec. "
                "Write it again with zarr's default codecs."
            )
        size = int(part.size) * part.dtype.itemsize
        if size > ALWAYS_UNPACKED and size > MAX_UNPACKED * _bytes_in(path / name):
            raise FileFormatError(
                f"{str(path)!r} declares {size:,} bytes for {name!r}, shape {part.shape}, but stores "
                f"{_bytes_in(path / name):,}."
            )


def _in_zarr(group: Any, path: Path) -> Iterator[tuple[str, Any]]:
    """Yield name and array for each array of a Zarr store, which must be a tree."""
    import zarr

    waiting = [group]
    while waiting:
        parent = waiting.pop()
        folder = path / parent.path
        for each in folder.iterdir() if folder.is_dir() else ():  # not if in consolidated metadata only
            # zarr reads a backslash as a slash, so a group named '\\' would contain itself
            if "\\" in each.name or (each.is_symlink() and each.is_dir()):
                raise FileFormatError(
                    f"{str(path)!r} contains {each.name!r}, which links to another folder. Write it again."
                )
        for key, part in parent.members(max_depth=0):
            if isinstance(part, zarr.Array):
                yield f"{parent.path}/{key}".lstrip("/"), part
            else:
                check_row_ends(part, path)
                waiting.append(part)


def _bytes_in(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())


def _codecs(metadata: Any) -> Iterator[str]:
    """Yield the names of all codecs in the metadata of an array, including nested ones."""
    for key in ("filters", "compressor", "codecs", "index_codecs"):
        given = metadata.get(key) or ()
        for codec in given if isinstance(given, (list, tuple)) else (given,):
            name = codec.get("id", codec.get("name", codec)) if isinstance(codec, dict) else codec
            yield str(name).removeprefix("numcodecs.")
            if isinstance(codec, dict) and isinstance(codec.get("configuration"), dict):
                yield from _codecs(codec["configuration"])
