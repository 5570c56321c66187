"""Where HDF5 keeps texts of any length: its global heaps, looked at before it does."""

from __future__ import annotations

import io
import mmap
import struct
from pathlib import Path

HEAP = b"GCOL\x01\0\0\0"  # what a heap begins with; its size follows

SIZE = struct.Struct("<Q")

OBJECT = struct.Struct("<H6xQ")  # index, 0 for room that is free; references; size

LARGEST_FILE = 2**30  # bytes up to which a file is looked through, which takes a second


def endless_heap(source: Path | io.BytesIO) -> int | None:
    """Return where a heap begins that HDF5 would read without end, or None.

    A heap has a header of 16 bytes and objects, each with a header of 16 bytes, its own bytes and a filling
    to a multiple of 8; what is free counts its header in its size (HDF5 File Format Specification 3.0,
    III.E). HDF5 (2.0 as well) goes from one to the next, and stays at one that takes no room; Ctrl-C does not
    reach it there.

    Parameters
    ----------
    source
        The file, or its content. Files of more than a GiB are not looked through.
    """
    if isinstance(source, io.BytesIO):
        return _first_endless(source.getvalue())
    if not 0 < source.stat().st_size <= LARGEST_FILE:
        return None
    with source.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        return _first_endless(content)


def _first_endless(content: bytes | mmap.mmap) -> int | None:
    place = content.find(HEAP)
    while place >= 0:
        if _is_endless(content, place):
            return place
        place = content.find(HEAP, place + 1)
    return None


def _is_endless(content: bytes | mmap.mmap, place: int) -> bool:
    start = place + len(HEAP) + SIZE.size
    if start > len(content):
        return False
    end = min(len(content), place + SIZE.unpack_from(content, place + len(HEAP))[0])
    while start + OBJECT.size <= end:
        index, size = OBJECT.unpack_from(content, start)
        # as HDF5 counts, in 64 bits
        room = (OBJECT.size + (size + 7 & ~7)) % 2**64 if index else size
        if room == 0:
            return True
        start += room
    return False
