"""Folders that appear complete or not at all."""

import contextlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from nami_jax.config import ConfigError, require
from nami_jax.files.disk import lock
from nami_jax.files.output_folder import cannot_write, make_folder
from nami_jax.weights import WeightsError


@contextlib.contextmanager
def new_folder(target: Path, size: int) -> Iterator[Path]:
    """Yields a hidden folder beside `target` to write into, and renames it to `target` at the end.

    What is killed or fails on the way leaves nothing by that name. The hidden folder has one name for each target:
    what a killed process left there, tens of gigabytes, is deleted by the next.

    Args:
        target: must not exist, or be an empty folder.
        size: bytes that will be written.

    Raises:
        ConfigError: there is something at `target`, or another process is writing it.
        WeightsError: the disk is full, or cannot be written.
    """
    target = target.absolute()
    partial = target.with_name(f".{target.name}.partial")
    require_new(target)
    make_folder(target.parent, field="to")
    try:
        with _locked(target):
            require_new(target)
            shutil.rmtree(partial, ignore_errors=True)
            try:
                partial.mkdir()
                free = shutil.disk_usage(partial).free
                if free < size:
                    raise WeightsError(
                        f"{target}: {size / 1e9:.1f} GB to write, {free / 1e9:.1f} GB free. Free some space there."
                    )
                yield partial
                partial.rename(target)
            finally:
                shutil.rmtree(partial, ignore_errors=True)
    except OSError as error:
        raise WeightsError(f"{target}: {error}. Nothing was kept. Free some space, or use another folder.") from error


@contextlib.contextmanager
def _locked(target: Path) -> Iterator[None]:
    """Holds a lock, a hidden file beside `target`, which the system releases if the process is killed.

    Raises:
        ConfigError: another process holds it.
    """
    path = target.with_name(f".{target.name}.lock")
    with path.open("w") as file:
        try:
            lock(file)
            # Whoever held it before has deleted the file: then this lock is on a file that nobody else will find.
            held = os.path.samestat(os.fstat(file.fileno()), path.stat())
        except (BlockingIOError, FileNotFoundError):
            held = False
        if not held:
            raise ConfigError(f"to = {str(target)!r}: another process is writing it. Wait for it, or use a new folder.")
        try:
            yield
        finally:
            path.unlink(missing_ok=True)


def require_new(target: Path) -> None:
    """Raises `ConfigError` if there is something at `target`."""
    try:
        empty = not any(target.iterdir())
    except FileNotFoundError:
        empty = True
    except NotADirectoryError:
        empty = not os.path.lexists(target)  # below a file, which making it will name
    except (OSError, ValueError) as error:
        raise ConfigError(cannot_write(target, error, "to")) from error
    require(
        empty,
        field="to",
        value=str(target),
        rule="exists and is not empty",
        remedy="Use a new folder, or delete this one first",
    )
