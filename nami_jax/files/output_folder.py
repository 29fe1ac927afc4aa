"""The one way to make a folder that something will be written to, or to look into one; what to say where it fails."""

import contextlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

from nami_jax.config import ConfigError, shown
from nami_jax.files.disk import is_full


def make_folder(folder: Path, *, field: str) -> None:
    """Makes a folder with its parents where it is not there, and tries that files can be made in it.

    Args:
        folder: to make.
        field: the flag or setting that names it, for messages.

    Raises:
        ConfigError: a file is in the way, or it cannot be made or written, or no folder can have such a name.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except (OSError, ValueError) as error:  # ValueError: NUL, or what no encoding can spell
        raise ConfigError(cannot_write(folder, error, field)) from error


def cannot_write(folder: Path, error: BaseException, field: str) -> str:
    """Says why a folder cannot be written, and what to do."""
    if not isinstance(error, OSError):
        reason, remedy = f"no folder can have this name ({error})", "Set another folder"
    elif is_full(error):
        reason, remedy = f"cannot be written: {error.strerror}", "Free space there"
    elif isinstance(error, FileExistsError | NotADirectoryError):
        reason, remedy = "a file is in the way", "Set another folder, or move that file"
    else:
        reason, remedy = f"cannot be written: {error.strerror}", "Set a folder that can be created and written"
    return f"{field} = {shown(str(folder))}: {reason}. {remedy}."


@contextlib.contextmanager
def output_folder(folder: Path, *, field: str) -> Iterator[None]:
    """Makes a folder as `make_folder` does, before the work inside; where that writes nothing, no folder is left.

    Raises:
        ConfigError: as `make_folder`.
    """
    made = [path for path in (folder, *folder.parents) if not os.path.lexists(path)] if "\0" not in str(folder) else []
    make_folder(folder, field=field)
    try:
        yield
    finally:
        for path in made:
            with contextlib.suppress(OSError):  # it holds something
                path.rmdir()


def require_readable(folder: Path, *, field: str, remedy: str) -> None:
    """Raises `ConfigError` if there is something by that name, or could not be, that is no folder or not readable."""
    try:
        os.scandir(folder).close()
    except FileNotFoundError:
        return
    except (OSError, ValueError) as error:
        reason = f"cannot be opened as a folder: {getattr(error, 'strerror', error)}"
        raise ConfigError(f"{field} = {shown(str(folder))}: {reason}. {remedy}.") from error
