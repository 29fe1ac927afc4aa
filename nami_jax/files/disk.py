"""Writing where writing fails: locks, files that are whole or not there, full disks, narrow standard output."""

import contextlib
import errno
import fcntl
import io
import itertools
import os
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

FULL = (errno.ENOSPC, errno.EDQUOT)
NO_LOCKS = (errno.ENOTSUP, errno.ENOSYS, errno.ENOLCK)


def is_full(error: BaseException) -> bool:
    """Says whether an error means that the disk, or the user's share of it, is full.

    Libraries in other languages raise errors of their own kinds, which have the system's text and not its number.
    """
    return getattr(error, "errno", None) in FULL or any(os.strerror(number) in str(error) for number in FULL)


def explain(error: OSError) -> str:
    """Returns one line on an error that no code nearer to it has explained."""
    remedy = "Free space there" if is_full(error) else "Use files and folders that can be read and written"
    return f"{error.filename or 'the system'}: {error.strerror or error}. {remedy}."


def print_anything() -> None:
    """Lets standard output replace the letters that its encoding lacks, where printing them would end the program."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")


def lock(file: IO[Any]) -> None:
    """Locks an open file for itself alone, or fails at once.

    The kernel frees the lock when the file is closed or its process ends, however it ends.

    Raises:
        BlockingIOError: it is locked already, by this process or another.
        OSError: its file system has no locks.
    """
    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


def lock_if_possible(file: IO[Any]) -> bool:
    """Locks as `lock` does, and returns whether the file system has locks; raises `BlockingIOError` if it is locked."""
    try:
        lock(file)
    except OSError as error:
        if error.errno in NO_LOCKS:
            return False
        raise
    return True


@contextlib.contextmanager
def written_whole(path: Path) -> Iterator[Path]:
    """Gives a path to write to, and at the end moves what is there to `path`, replacing a file of that name.

    So `path` holds all of it or what it held before, whatever fails on the way, and of several processes that write it
    at once the last one wins. What a killed process leaves beside it is called `*.tmp`.
    """
    unfinished = path.with_name(f"{path.name}.{uuid.uuid4().hex}.tmp")
    try:
        yield unfinished
        move_into_place(unfinished, path)
    finally:
        unfinished.unlink(missing_ok=True)


def written_new(path: Path, content: bytes) -> bool:
    """Writes a file unless there is something of that name, and returns whether it did; a failure leaves none."""
    try:
        file = path.open("xb")
    except FileExistsError:
        return False
    try:
        with file:
            file.write(content)
    except OSError:
        path.unlink()
        raise
    return True


def numbered(path: Path) -> Iterator[Path]:
    """Yields a path and then, without end, that path with a number before its suffix: a.png, a-2.png, a-3.png, ..."""
    yield path
    for i in itertools.count(2):
        yield path.with_name(f"{path.stem}-{i}{path.suffix}")


def move_into_place(finished: Path, path: Path) -> None:
    """Moves a file that is written to its end to `path`, on the same disk, replacing a file of that name."""
    with finished.open("rb") as file:
        os.fsync(file.fileno())  # else a power cut could leave the name without its content
    os.replace(finished, path)
