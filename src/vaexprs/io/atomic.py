"""Write files and folders as a whole or not at all."""

from __future__ import annotations

import errno
import os
import re
import shutil
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from vaexprs.interface.validation import check_path

NO_LOCKS = (errno.ENOLCK, errno.EOPNOTSUPP)
NOT_WRITABLE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EACCES, errno.EPERM, errno.EROFS)


def check_output(path: str | os.PathLike[str], *, overwrite: bool) -> Path:
    """Return `path` if something may be written there.

    Raises
    ------
    FileExistsError
        If something is there and `overwrite` is false.
    FileNotFoundError
        If the folder it should be in is not there.
    """
    path = check_path(path)
    if path.exists() and not overwrite:
        raise FileExistsError(f"{str(path)!r} exists already; choose another name or say overwrite.")
    if not path.absolute().parent.is_dir():
        raise FileNotFoundError(f"The folder {str(path.absolute().parent)!r} does not exist.")
    return path


@contextmanager
def written_whole(path: str | os.PathLike[str], *, overwrite: bool) -> Iterator[Path]:
    """Give a name beside `path` to write a file or folder to; put it in place of `path` at the end.

    If the body raises, nothing is left behind and what stood at `path` still stands. What a killed process
    left behind is cleared away by the next that writes to `path`.

    Raises
    ------
    FileExistsError, FileNotFoundError
        As `check_output`, before the body and after it.
    BlockingIOError
        If another process is writing to `path`.
    """
    path = Path(path)
    with claimed(path):
        check_output(path, overwrite=overwrite)
        beside, retired = _names_beside(path)
        try:
            with _clear_write_errors(path):
                yield beside
            check_output(path, overwrite=overwrite)  # not everybody who writes asks whether he may
            if path.is_dir() or (path.exists() and beside.is_dir()):
                # a folder cannot be replaced in one step; if this process is killed before the second rename,
                # the next writer puts the old folder back (`_clear_away`)
                path.rename(retired)
            try:
                beside.replace(path)
            except BaseException:
                if retired.exists():
                    retired.rename(path)
                raise
        finally:
            _remove(beside)
            if path.exists():
                _remove(retired)


def _names_beside(path: Path) -> tuple[Path, Path]:
    """Return names for what is not yet at `path`, and for what was there; `_clear_away` knows them."""
    tag = uuid.uuid4().hex[:8]
    names = (f".{path.stem}.vaexprs-{tag}{old}{path.suffix}" for old in ("", "-old"))
    beside, retired = map(path.with_name, names)
    return beside, retired


def _clear_away(path: Path) -> None:
    """Remove what killed processes left beside `path`; put back what one had only set aside."""
    name = re.compile(rf"\.{re.escape(path.stem)}\.vaexprs-[0-9a-f]{{8}}(-old)?{re.escape(path.suffix)}")
    try:
        with os.scandir(path.absolute().parent) as entries:
            matches = [match for each in entries if (match := name.fullmatch(each.name))]
    except OSError:  # the folder is gone, or may not be listed
        return
    for match in matches:
        leftover, old = path.with_name(match[0]), match[1]
        with suppress(OSError):  # another user's
            if not old or path.exists():
                _remove(leftover)
            elif leftover.is_dir():
                leftover.rename(path)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


@contextmanager
def claimed(path: str | os.PathLike[str]) -> Iterator[None]:
    """Keep other processes from writing to `path` until the end.

    The claim is a lock on the file ``.name.lock`` next to it. The operating system releases it when the
    process ends, however that ends. A thread may claim a path again that it has claimed. File systems without
    locks keep nobody from writing: the last process to finish gets an error that something is there.

    Raises
    ------
    BlockingIOError
        If another process, or another thread, has claimed it.
    OSError
        If nothing can be written there.
    """
    path = Path(path)
    folder = path.absolute().parent
    if not folder.is_dir():  # `check_output` raises for it
        yield
        return
    lock = FileLock(folder / f".{path.name}.lock", timeout=0, is_singleton=True)
    try:
        with _clear_write_errors(path):
            lock.acquire()
    except Timeout as error:
        raise BlockingIOError(
            f"{str(path)!r} is being written by another process. Wait for it, or choose another name."
        ) from error
    except OSError as error:
        if error.errno not in NO_LOCKS:
            raise
    level = lock.lock_counter  # 0 without locks: temporary files may then belong to a running process
    try:
        if level == 1:
            _clear_away(path)
        yield
    finally:
        if level == 1:
            _clear_away(path)
        if level < 2:
            with suppress(OSError):  # Windows does not remove an open file
                os.unlink(lock.lock_file)
        lock.release()


@contextmanager
def set_aside(path: Path) -> Iterator[Callable[[], None]]:
    """Give what takes away the file at `path` until another is put there; if none is, it comes back."""
    _, retired = _names_beside(path)

    def take() -> None:
        if path.exists():
            path.rename(retired)

    try:
        yield take
    finally:
        if retired.exists():
            if path.exists():
                retired.unlink()
            else:
                retired.rename(path)


@contextmanager
def _clear_write_errors(path: Path) -> Iterator[None]:
    """Say in a sentence that there is no room or no permission."""
    try:
        yield
    except OSError as error:
        if error.errno not in NOT_WRITABLE:
            raise
        raise OSError(
            f"{str(path)!r} cannot be written: {os.strerror(error.errno).lower()}. Nothing is left of it; "
            "make room or choose another place."
        ) from error
