"""Open text files: decompression by content, encodings, line endings."""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from vaexprs.interface.errors import FileFormatError, reason
from vaexprs.io.untrusted.archives import open_decompressed

# byte order marks of the encodings in which Excel and Windows programs write text, the longest first
ENCODINGS = {
    b"\xff\xfe\x00\x00": "utf-32",
    b"\x00\x00\xfe\xff": "utf-32",
    b"\xff\xfe": "utf-16",
    b"\xfe\xff": "utf-16",
}


@contextmanager
def opened(path: Path, skip: int = 0) -> Iterator[IO[str]]:
    """Open a text file after its first `skip` lines, decompressed whatever its suffix says.

    Text mode normalises line endings; with mixed ones pandas may not terminate.

    Raises
    ------
    FileFormatError
        If the text is encoded in neither UTF-8 nor, with a byte order mark, UTF-16 or UTF-32.
    """
    with open_decompressed(path) as start:
        mark = start.read(4)
    encoding = next((name for bom, name in ENCODINGS.items() if mark.startswith(bom)), "utf-8-sig")
    try:
        with open_decompressed(path) as content, io.TextIOWrapper(content, encoding) as file:
            for _ in range(skip):
                file.readline()
            yield file
    except UnicodeError as error:
        raise FileFormatError(
            f"{str(path)!r} must be text in UTF-8: {reason(error)}. Save it in Excel as 'CSV UTF-8', or "
            "convert it: iconv -f latin1 -t utf-8."
        ) from error
