"""Files on a local disk or, through Beam, on any file system that it supports (`gs://`, `s3://`, `hdfs://`, ...).

A file written here appears under its name only once it is complete.
"""

import contextlib
import glob
import os
import posixpath
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

from nami_jax.config import ConfigError, shown
from nami_jax.files.disk import is_full, lock, move_into_place, written_whole
from nami_jax.files.output_folder import make_folder
from nami_jax.preparation.errors import PreparationError

UNFINISHED = "unfinished"  # folder of local files that are still being written


def is_remote(path: str) -> bool:
    """Returns whether a path is for Beam to open."""
    return "://" in path


def beam_file_systems() -> Any:
    """Returns Beam's access to all file systems that it supports; imported late, since only remote paths need it."""
    from apache_beam.io.filesystems import FileSystems

    return FileSystems


def open_binary(path: str) -> BinaryIO:
    """Opens a file for reading, with `seek`. Raises `OSError` if it cannot be opened."""
    if not is_remote(path):
        return open(path, "rb")
    from apache_beam.io.filesystem import CompressionTypes

    return beam_file_systems().open(path, compression_type=CompressionTypes.UNCOMPRESSED)


@contextlib.contextmanager
def reading(path: str) -> Iterator[BinaryIO]:
    """Opens a file for reading; any failure, even a later one, raises `PreparationError`, since it may be temporary."""
    try:
        with open_binary(path) as file:
            yield file
    except OSError as error:
        raise cannot_read(path, error) from error


def read(path: str) -> bytes:
    """Returns the content of a file."""
    with open_binary(path) as file:
        return file.read()


def exists(path: str) -> bool:
    """Returns whether there is such a file."""
    return beam_file_systems().exists(path) if is_remote(path) else os.path.exists(path)


def match(pattern: str) -> list[str]:
    """Returns the files that a pattern with `*`, `?` and `[...]` matches."""
    if not is_remote(pattern):
        return [path for path in glob.glob(pattern) if os.path.isfile(path)]
    (found,) = beam_file_systems().match([pattern])
    return [file.path for file in found.metadata_list]


def require_file_system(field: str, path: str) -> None:
    """Raises `ConfigError` if a path is on a file system for which Beam has no driver installed."""
    if is_remote(path):
        try:
            beam_file_systems().get_filesystem(path)
        except ValueError as error:
            raise ConfigError(
                f"{field} = {shown(path)}: nothing installed opens {path.partition('://')[0]}://. Install it, e.g. "
                "`pip install 'apache-beam[gcp]'` for gs:// or 'apache-beam[aws]' for s3://, or copy the files here."
            ) from error


def files_below(folder: str) -> list[str]:
    """Returns the names of the files in a folder and its folders, sorted; hidden ones are left out, links not followed.

    Raises:
        PreparationError: a folder cannot be read.
    """
    if is_remote(folder):
        start = f"{folder.rstrip('/')}/"
        return sorted(path.removeprefix(start) for path in match(join(folder, "**")))
    names = []
    try:
        for inside, folders, found in os.walk(folder, onerror=_raise):
            folders[:] = [name for name in folders if not name.startswith(".")]
            names += [os.path.relpath(os.path.join(inside, n), folder) for n in found if not n.startswith(".")]
    except OSError as error:
        raise cannot_read(folder, error) from error
    return sorted(names)


def _raise(error: OSError) -> None:
    raise error


def listing(folder: str) -> set[str]:
    """Returns the names of the files in a folder, hidden ones left out; none if there is no such folder."""
    if is_remote(folder):
        return {path.rpartition("/")[2] for path in match(join(folder, "*"))}
    if not os.path.isdir(folder):
        return set()
    with os.scandir(folder) as entries:
        return {entry.name for entry in entries if _is_file(entry) and not entry.name.startswith(".")}


def _is_file(entry: "os.DirEntry[str]") -> bool:
    try:
        return entry.is_file()
    except OSError:  # links in a circle
        return False


def is_file(path: str) -> bool:
    """Returns whether there is such a file; a pipe is none."""
    return exists(path) if is_remote(path) else os.path.isfile(path)


def write(path: str, content: bytes) -> None:
    """Writes a file completely or not at all, replacing one of that name.

    Raises:
        PreparationError: the disk is full, or the place cannot be written to.
    """
    with _explained(path):
        if is_remote(path):
            with beam_file_systems().create(path) as file:  # appears when it is closed
                file.write(content)
            return
        os.makedirs(os.path.dirname(path) or ".", exist_ok=True)
        with written_whole(Path(path)) as unfinished:
            unfinished.write_bytes(content)


def publish(local: Path, path: str) -> None:
    """Moves a finished local file to its place, where it appears complete, replacing one of that name.

    Raises:
        PreparationError: the disk is full, or the place cannot be written to.
    """
    with _explained(path):
        if is_remote(path):
            with open(local, "rb") as source, beam_file_systems().create(path) as file:
                shutil.copyfileobj(source, file)
            local.unlink()
            return
        os.makedirs(os.path.dirname(path), exist_ok=True)
        move_into_place(local, Path(path))


@contextlib.contextmanager
def _explained(path: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise cannot_write(path, error) from error


def cannot_write(path: str, error: Exception) -> PreparationError:
    """Returns the error to raise when a file could not be written."""
    remedy = "Free some space" if is_full(error) else "Fix this"
    return PreparationError(f"{path} cannot be written: {error}. {remedy} and rerun the same command: it continues.")


def cannot_read(path: str, error: OSError) -> PreparationError:
    """Returns the error to raise when a file could not be read."""
    return PreparationError(f"{path} cannot be read: {error}. Rerun the same command: it continues.")


@contextlib.contextmanager
def scratch(out: str) -> Iterator[Path]:
    """Creates a local folder for files being written, and removes it; on the disk of `out` if that is local."""
    parent = None
    if not is_remote(out):
        parent = os.path.join(out, UNFINISHED)
        os.makedirs(parent, exist_ok=True)
    folder = Path(tempfile.mkdtemp(dir=parent))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def local_copy(path: str) -> Iterator[Path]:
    """Yields a local copy of a file, for code that can open no other; a local file is yielded as it is."""
    if not is_remote(path):
        yield Path(path)
        return
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder, posixpath.basename(path))
        copy.write_bytes(read(path))
        yield copy


@contextlib.contextmanager
def only_run(out: str) -> Iterator[None]:
    """Keeps other preparations out of a local folder, and removes what a killed one left half-written.

    A remote folder cannot be locked. Two preparations there write files of different names, and a unit's manifest names
    those of one of them, so neither harms the other.

    Args:
        out: the folder; created if needed.

    Raises:
        ConfigError: the folder cannot be created or written.
        PreparationError: another one is running there.
    """
    if is_remote(out):
        yield
        return
    make_folder(Path(out), field="out")
    with open(os.path.join(out, ".lock"), "w") as file:
        try:
            lock(file)
        except BlockingIOError as error:
            raise PreparationError(f"{out}: another preparation is running there. Wait for it, or stop it.") from error
        shutil.rmtree(os.path.join(out, UNFINISHED), ignore_errors=True)
        for stale in [*Path(out).glob("*.tmp"), *Path(out).glob("*/*.tmp")]:
            stale.unlink()
        yield
        shutil.rmtree(os.path.join(out, UNFINISHED), ignore_errors=True)


def join(folder: str, *names: str) -> str:
    """Returns a path below a folder, local or remote."""
    return posixpath.join(folder, *names)
