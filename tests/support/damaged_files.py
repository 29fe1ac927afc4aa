"""Damages one record of an ArrayRecord file, as a block of a disk that has gone bad does."""

import struct
from pathlib import Path

FIRST_CHUNK, HEADER = 64, 40  # bytes; Riegeli's format: a chunk's header has the size of its data at byte 8


def damage_record(path: Path, number: int) -> None:
    """Overwrites the data of record `number` of a small file of one record a group with zeros."""
    content, at = path.read_bytes(), FIRST_CHUNK

    def size() -> int:
        return struct.unpack_from("<Q", content, at + 8)[0]

    for _ in range(number):
        at += HEADER + size()
    data = at + HEADER
    path.write_bytes(content[:data] + bytes(size()) + content[data + size() :])
