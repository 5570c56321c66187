"""Write files and folders as a whole or not at all."""

from __future__ import annotations

import ctypes
import errno
import os
import re
import shutil
import threading
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from vaexprs.interface.validation import check_path

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
                # a folder cannot be replaced in one step: exchange the two, or set the old one aside first
                if _exchange(beside, path):
                    return
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


def _exchange(one: Path, other: Path) -> bool:
    """Exchange two names in one step, if the system can: a process that is killed leaves both whole."""
    try:
        rename = ctypes.CDLL(None, use_errno=True).renameat2
    except (AttributeError, OSError, TypeError):  # Linux alone has it
        return False
    here, exchange = -100, 2  # AT_FDCWD and RENAME_EXCHANGE of linux/fs.h
    return rename(here, os.fsencode(one), here, os.fsencode(other), exchange) == 0


_CLAIMS = threading.local()  # the paths that this thread has claimed


@contextmanager
def claimed(path: str | os.PathLike[str]) -> Iterator[None]:
    """Keep other processes from writing to `path` until the end.

    The claim is a lock of the system on the file ``.name.lock`` beside it, so it ends with its process,
    however that ends. On a network file system that has locks it holds for other machines too; where there
    are none nobody is kept from anything, and the last to finish is told that something is there.

    Raises
    ------
    BlockingIOError
        If another process, or another thread, has claimed it.
    OSError
        If nothing can be written there.
    """
    path = Path(path)
    key = path.absolute()
    held: set[Path] = _CLAIMS.__dict__.setdefault("held", set())
    if key in held or not key.parent.is_dir():  # `check_output` tells that there is no folder
        yield
        return
    lock = path.with_name(f".{path.name}.lock")
    with _clear_write_errors(path):
        file, locked = _locked(lock, path)
    held.add(key)
    try:
        if locked:  # else what lies there may be another's work
            _clear_away(path)
        yield
    finally:
        held.discard(key)
        if locked:
            _clear_away(path)
            lock.unlink(missing_ok=True)
        os.close(file)
        if not locked:  # Windows removes no open file
            lock.unlink(missing_ok=True)


def _locked(lock: Path, path: Path) -> tuple[int, bool]:
    """Open a file and lock it; return its descriptor, and whether the file system has locks."""
    try:
        import fcntl
    except ImportError:  # Windows, which does not let go of an open file either
        return os.open(lock, os.O_RDWR | os.O_CREAT, 0o666), False
    while True:
        file = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # whoever had it before may have removed it since it was opened
            if os.path.samestat(os.fstat(file), lock.stat()):
                return file, True
        except FileNotFoundError:
            pass
        except BlockingIOError as error:
            os.close(file)
            raise BlockingIOError(
                f"{str(path)!r} is being written by another process. Wait for it, or choose another name."
            ) from error
        except OSError:
            return file, False
        os.close(file)


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
