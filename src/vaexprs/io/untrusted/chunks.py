"""Chunks of HDF5, looked at before it unpacks them."""

from __future__ import annotations

import math
import zlib
from typing import Any

import numpy as np

LARGEST_FILE = 256 * 2**20  # bytes up to which chunks are unpacked to see how long they are: some seconds

DEFLATE, SHUFFLE, FLETCHER32 = 1, 2, 3  # filters that come with HDF5

# others of its own write and read beyond what they should in damaged files (CVE-2025-2308, CVE-2025-44905)
REFUSED = {4: "szip", 5: "n-bit", 6: "scale-offset"}

CHECKSUM = 4  # bytes of Fletcher's


def misread(part: Any) -> str | None:
    """Return why HDF5 would read of a dataset what is not in it, or None.

    HDF5 (2.0 as well) takes for granted that an unpacked chunk is as long as it should be, and reads beyond
    it where it is not. Where a chunk is missing and no value stands for that, it leaves in memory what was
    there, and takes it for the addresses of texts.

    Parameters
    ----------
    part
        A dataset of h5py. Chunks in files of more than 256 MiB are not unpacked, nor those that are packed
        with something else than gzip.
    """
    import h5py

    settings = part.id.get_create_plist()
    filters = [settings.get_filter(i)[0] for i in range(settings.get_nfilters())]
    refused = [REFUSED[code] for code in filters if code in REFUSED]
    if refused:
        return f"is packed with {refused[0]}"
    unpacks = bool(filters) and part.file.id.get_filesize() <= LARGEST_FILE
    unfilled = settings.fill_value_defined() == h5py.h5d.FILL_VALUE_UNDEFINED
    if not part.size or not (unpacks or unfilled):
        return None
    chunks: list[Any] = []
    if part.chunks is not None:
        part.id.chunk_iter(chunks.append)
        chunks = [each for each in chunks if _is_inside(each.chunk_offset, part)]  # no other is ever read
    if unfilled and _lacks_values(part, chunks):
        return "lacks values, and does not say what stands for them"
    if not chunks or not unpacks:
        return None
    length = math.prod(part.chunks) * _bytes_of_value(part)
    for each in chunks:
        mask, content = part.id.read_direct_chunk(each.chunk_offset)
        found = _unpacked_length(content, mask, filters, length)
        if found < length:
            return f"has a chunk of {found:,} bytes that should be of {length:,}"
    return None


def _lacks_values(part: Any, chunks: list[Any]) -> bool:
    if part.chunks is None:
        return bool(part.id.get_storage_size() == 0)
    of = math.prod(-(-n // size) for n, size in zip(part.shape, part.chunks, strict=True))
    return len({each.chunk_offset for each in chunks}) < of


def _is_inside(place: tuple[int, ...], part: Any) -> bool:
    """Whether a chunk of a dataset begins where one should."""
    sides = zip(place, part.shape, part.chunks, strict=True)
    return all(at < n and at % size == 0 for at, n, size in sides)


def _bytes_of_value(part: Any) -> int:
    """Return the bytes that a value takes in the file.

    A text of any length is its length, and the address and the number of what has its letters; in memory it
    is an address of 8 bytes.
    """
    address = part.file.id.get_create_plist().get_sizes()[0]
    size: int = part.id.get_type().get_size()
    return size + address * _texts_in(part.dtype)


def _texts_in(kind: np.dtype) -> int:
    """Return the number of texts of any length in a value."""
    import h5py

    if kind.names is not None:
        return sum(_texts_in(kind[name]) for name in kind.names)
    if kind.subdtype is not None:
        return math.prod(kind.shape) * _texts_in(kind.subdtype[0])
    return int(kind.kind == "O" and h5py.check_string_dtype(kind) is not None)


def _unpacked_length(content: bytes, mask: int, filters: list[int], length: int) -> int:
    """Return how long a chunk is when it is unpacked, at most `length`; that where it cannot be told."""
    for i, code in reversed(list(enumerate(filters))):
        if mask >> i & 1:  # this chunk was not packed so
            continue
        if code == FLETCHER32:
            content = content[:-CHECKSUM]
        elif code == DEFLATE:
            try:
                content = zlib.decompressobj().decompress(content, length)
            except zlib.error:  # HDF5 says so too
                return length
        elif code != SHUFFLE:
            return length
    return min(len(content), length)
