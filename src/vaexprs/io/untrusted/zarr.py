"""Check that a Zarr store holds what it declares and uses known codecs only."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from vaexprs.interface.errors import FileFormatError
from vaexprs.interface.validation import listed
from vaexprs.io.untrusted.anndata import check_row_ends
from vaexprs.io.untrusted.hdf5 import ALWAYS_UNPACKED, MAX_UNPACKED

# of Zarr's codecs those that make nothing but numbers and text; "pickle" is another one
CODECS = """
    adler32 astype bitround blosc bytes bz2 crc32 crc32c delta fixedscaleoffset fletcher32 gzip lz4
    lzma packbits quantize sharding_indexed shuffle transpose vlen-bytes vlen-utf8 zlib zstd
"""


def check_zarr(group: Any, path: Path) -> None:
    """Check that the arrays of a Zarr store hold what they claim to hold, and are unpacked by known codecs.

    Those of version 2 name their codecs, and one of them is Python's pickle, which runs code.

    Raises
    ------
    ValueError
        If they do not.
    """
    for name, part in _in_zarr(group, path):
        unknown = sorted(set(_codecs(part.metadata.to_dict())) - set(CODECS.split()))
        if unknown:
            raise FileFormatError(
                f"{str(path)!r} packs {name!r} with {listed(unknown)}, which is not among the codecs for "
                "numbers and text. Write it again with zarr's default codecs."
            )
        size = int(part.size) * part.dtype.itemsize
        if size > ALWAYS_UNPACKED and size > MAX_UNPACKED * _bytes_in(path / name):
            raise FileFormatError(
                f"{str(path)!r} claims {size:,} bytes of {name!r}, shape {part.shape}, but holds "
                f"{_bytes_in(path / name):,}."
            )


def _in_zarr(group: Any, path: Path) -> Iterator[tuple[str, Any]]:
    """Yield name and array of all in a Zarr store, which must be a tree."""
    import zarr

    waiting = [group]
    while waiting:
        within = waiting.pop()
        folder = path / within.path
        for each in folder.iterdir() if folder.is_dir() else ():  # it may be in consolidated metadata only
            # Zarr takes a backslash for a slash, and so a group named by one for the group that it is in
            if "\\" in each.name or (each.is_symlink() and each.is_dir()):
                raise FileFormatError(
                    f"{str(path)!r} holds {each.name!r}, which leads to another folder. Write it anew."
                )
        for key, part in within.members(max_depth=0):
            if isinstance(part, zarr.Array):
                yield f"{within.path}/{key}".lstrip("/"), part
            else:
                check_row_ends(part, path)
                waiting.append(part)


def _bytes_in(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())


def _codecs(about: Any) -> Iterator[str]:
    """Yield the names of the codecs in the metadata of an array, those within codecs too."""
    for key in ("filters", "compressor", "codecs", "index_codecs"):
        given = about.get(key) or ()
        for codec in given if isinstance(given, (list, tuple)) else (given,):
            name = codec.get("id", codec.get("name", codec)) if isinstance(codec, dict) else codec
            yield str(name).removeprefix("numcodecs.")
            if isinstance(codec, dict) and isinstance(codec.get("configuration"), dict):
                yield from _codecs(codec["configuration"])
