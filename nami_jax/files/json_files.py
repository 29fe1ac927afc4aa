"""JSON of our own and of other people: one reader that checks a file's place, size, encoding, depth and form.

What the entries must be is declared where they are used, as `Settings`.
"""

import stat
from pathlib import Path
from typing import Any

from pydantic_core import from_json

from nami_jax.config import ConfigError

MOST_BYTES = 256 * 2**20  # far above the index of any network


def read_json(path: Path, remedy: str) -> dict[str, Any]:
    """Reads a file that holds one JSON object.

    Args:
        path: of the file.
        remedy: what to do if it is damaged, e.g. "Fetch it again".

    Raises:
        ConfigError: it is missing, no file, cannot be read, is not UTF-8, is no JSON (NaN and infinity are none), is
            nested deeper than about 200 levels, or holds something else than an object.
    """
    return parse_json(read_bytes(path, remedy), str(path), remedy)


def parse_json(content: bytes | str, name: str, remedy: str) -> dict[str, Any]:
    """Reads one JSON object from the content of a file called `name`; see `read_json`."""
    content = content.removeprefix(b"\xef\xbb\xbf") if isinstance(content, bytes) else content
    try:
        value = from_json(content, allow_inf_nan=False)
    except ValueError as error:  # not UTF-8 and nested too deep too
        raise ConfigError(f"{name} is damaged: it is not valid JSON in UTF-8: {error}. {remedy}.") from error
    if not isinstance(value, dict):
        kinds = {list: "a list", str: "a text", bool: "true or false", type(None): "null"}
        held = kinds.get(type(value), "a number")
        raise ConfigError(f"{name} is damaged: it holds {held} instead of an object. {remedy}.")
    return value


def read_bytes(path: Path, remedy: str) -> bytes:
    """Returns a file's content; raises `ConfigError` if it is missing, no file, cannot be read or is too large."""
    try:
        found = path.stat()
        if not stat.S_ISREG(found.st_mode):
            raise ConfigError(f"{path} is not a file. {remedy}.")
        if found.st_size > MOST_BYTES:
            raise ConfigError(f"{path} has {found.st_size / 1e9:.1f} GB, where 0.3 GB are the most. {remedy}.")
        return path.read_bytes()
    except (OSError, ValueError) as error:  # ValueError: a name that no file can have
        if isinstance(error, ConfigError):
            raise
        raise ConfigError(f"{path} cannot be read: {getattr(error, 'strerror', error)}. {remedy}.") from error
