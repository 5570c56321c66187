"""Atomic writes of files and folders."""

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

# errors of file systems without lock support
NO_LOCKS = (errno.ENOLCK, errno.EOPNOTSUPP)
# errors for a full disk or missing permission
NOT_WRITABLE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EACCES, errno.EPERM, errno.EROFS)


def check_output(path: str | os.PathLike[str], *, overwrite: bool) -> Path:
    """Return `path` if it can be written.

    Raises
    ------
    FileExistsError
        If `path` exists and `overwrite` is false.
    FileNotFoundError
        If the parent folder does not exist.
    """
    path = check_path(path)
    if path.exists() and not overwrite:
        raise FileExistsError(f"{str(path)!r} already exists. Choose another name or pass overwrite=True.")
    if not path.absolute().parent.is_dir():
        raise FileNotFoundError(f"The folder {str(path.absolute().parent)!r} does not exist.")
    return path


@contextmanager
def written_whole(path: str | os.PathLike[str], *, overwrite: bool) -> Iterator[Path]:
    """Yield a temporary path in the same folder and rename it to `path` at the end.

    If the body raises, the temporary file or folder is removed and `path` is unchanged. Leftovers of a killed
    process are removed by the next process that writes to `path`.

    Raises
    ------
    FileExistsError, FileNotFoundError
        As in `check_output`, which is called before and after the body.
    BlockingIOError
        If another process is writing to `path`.
    """
    path = Path(path)
    with claimed(path):
        check_output(path, overwrite=overwrite)
        temporary, retired = _temporary_names(path)
        try:
            with _clear_write_errors(path):
                yield temporary
            check_output(path, overwrite=overwrite)  # other programs do not take the lock
            if path.is_dir() or (path.exists() and temporary.is_dir()):
                # a folder cannot be replaced in one step; if this process is killed before the second rename,
                # the next writer restores the old folder (`_remove_leftovers`)
                path.rename(retired)
            try:
                temporary.replace(path)
            except BaseException:
                if retired.exists():
                    retired.rename(path)
                raise
        finally:
            _remove(temporary)
            if path.exists():
                _remove(retired)


def _temporary_names(path: Path) -> tuple[Path, Path]:
    """Return temporary paths for the new and old content of `path`, as `_remove_leftovers` expects."""
    tag = uuid.uuid4().hex[:8]
    names = (f".{path.stem}.vaexprs-{tag}{old}{path.suffix}" for old in ("", "-old"))
    temporary, retired = map(path.with_name, names)
    return temporary, retired


def _remove_leftovers(path: Path) -> None:
    """Remove temporary files of killed processes; restore an old folder that was not yet replaced."""
    name = re.compile(rf"\.{re.escape(path.stem)}\.vaexprs-[0-9a-f]{{8}}(-old)?{re.escape(path.suffix)}")
    try:
        with os.scandir(path.absolute().parent) as entries:
            matches = [match for each in entries if (match := name.fullmatch(each.name))]
    except OSError:  # the folder was removed or cannot be listed
        return
    for match in matches:
        leftover, old = path.with_name(match[0]), match[1]
        with suppress(OSError):  # it may belong to another user
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
    """Hold an exclusive lock for writing to `path`.

    The lock is on the file ``.name.lock`` in the same folder. The operating system releases it when the
    process ends, even if it is killed. The lock is reentrant within a thread. File systems without lock
    support do not exclude other writers: the last one to finish gets a FileExistsError.

    Raises
    ------
    BlockingIOError
        If another process or thread holds the lock.
    OSError
        If the folder cannot be written to.
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
            f"{str(path)!r} is being written by another process. Wait until it ends, or choose another name."
        ) from error
    except OSError as error:
        if error.errno not in NO_LOCKS:
            raise
    level = lock.lock_counter  # 0 without lock support: temporary files may then belong to a running process
    try:
        if level == 1:
            _remove_leftovers(path)
        yield
    finally:
        if level == 1:
            _remove_leftovers(path)
        if level < 2:
            with suppress(OSError):  # Windows cannot remove an open file
                os.unlink(lock.lock_file)
        lock.release()


@contextmanager
def set_aside(path: Path) -> Iterator[Callable[[], None]]:
    """Yield a callable that moves `path` aside; the file is restored unless it is replaced."""
    _, retired = _temporary_names(path)

    def move_aside() -> None:
        if path.exists():
            path.rename(retired)

    try:
        yield move_aside
    finally:
        if retired.exists():
            if path.exists():
                retired.unlink()
            else:
                retired.rename(path)


@contextmanager
def _clear_write_errors(path: Path) -> Iterator[None]:
    """Re-raise errors about a full disk or missing permission with a clear message."""
    try:
        yield
    except OSError as error:
        if error.errno not in NOT_WRITABLE:
            raise
        raise OSError(
            f"{str(path)!r} cannot be written: {os.strerror(error.errno).lower()}. No partial output was "
            "kept. Free disk space, check permissions, or choose another folder."
        ) from error
