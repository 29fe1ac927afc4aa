"""Reads back what a run wrote as TensorBoard events."""

import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tensorboardX.proto.event_pb2 import Event  # pyright: ignore[reportAttributeAccessIssue]


def read_values(folder: Path) -> dict[str, dict[int, Any]]:
    """Returns all values of the files in `folder`: name -> step -> number, or the PNG's bytes of a picture."""
    found: dict[str, dict[int, Any]] = {}
    for file in sorted(folder.iterdir()):
        for event in _events(file.read_bytes()):
            for value in event.summary.value:
                is_picture = value.HasField("image")
                found.setdefault(value.tag, {})[event.step] = (
                    value.image.encoded_image_string if is_picture else value.simple_value
                )
    return found


def _events(data: bytes) -> Iterator[Event]:
    at = 0
    while at < len(data):
        (length,) = struct.unpack_from("<Q", data, at)  # then 4 bytes of checksum, the event, 4 of checksum
        yield Event.FromString(data[at + 12 : at + 12 + length])
        at += 16 + length
