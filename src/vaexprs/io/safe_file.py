"""File object that keeps HDF5 from crashing on a full disk."""

from __future__ import annotations

import io
import os
from typing import Any

PAGE = 65_536  # bytes per page of writes kept in memory after an error


class SafeFile(io.FileIO):
    """New file that stores the first write error in `error` instead of raising it.

    HDF5 (2.0.0, h5py 3.16) crashes with a segmentation fault if a write fails while it deletes an object or
    closes the file. After a write error further writes go to memory so that HDF5 can close the file cleanly;
    the caller then removes it. Call `check` often to keep that memory small.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        super().__init__(os.fspath(path), "w+")
        self.error: OSError | None = None
        self._end = 0  # size of the file including writes kept in memory
        self._pages: dict[int, bytearray] = {}

    def check(self) -> None:
        """Raise the stored write error, if any."""
        if self.error is not None:
            raise self.error

    def write(self, data: Any) -> int:
        content, start = memoryview(data).cast("B"), self.tell()
        self._end = max(self._end, start + len(content))
        done = 0
        try:
            while self.error is None and done < len(content):
                done += super().write(content[done:])
        except OSError as error:
            self.error = error
        if self.error is not None:
            self._in_memory(start, content, write=True)
        return len(content)

    def readinto(self, buffer: Any) -> int:
        if self.error is None:
            return super().readinto(buffer)
        content = memoryview(buffer).cast("B")
        self._in_memory(self.tell(), content, write=False)
        return len(content)

    def truncate(self, size: int | None = None) -> int:
        self._end = self.tell() if size is None else size
        try:
            return super().truncate(size)
        except OSError as error:
            self.error = self.error or error
            return self._end

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        if whence == os.SEEK_END:
            return super().seek(self._end + offset)
        return super().seek(offset, whence)

    def _in_memory(self, start: int, content: memoryview, *, write: bool) -> None:
        """Copy bytes to the pages in memory, or from them."""
        done = 0
        while done < len(content):
            number, offset = divmod(start + done, PAGE)
            page = self._page(number)
            n = min(PAGE - offset, len(content) - done)
            if write:
                page[offset : offset + n] = content[done : done + n]
            else:
                content[done : done + n] = page[offset : offset + n]
            done += n
        super().seek(start + done)

    def _page(self, number: int) -> bytearray:
        if number not in self._pages:
            super().seek(number * PAGE)
            self._pages[number] = bytearray((super().read(PAGE) or b"").ljust(PAGE, b"\0"))
        return self._pages[number]
