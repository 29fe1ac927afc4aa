"""Reads back what a run wrote for Weights & Biases in offline mode."""

import json
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import wandb
from wandb.proto.wandb_internal_pb2 import Record  # pyright: ignore[reportAttributeAccessIssue]

LOG_BLOCK, LOG_HEADER = 32768, 7  # bytes


class OfflineRun(NamedTuple):
    """What a folder `offline-run-…` holds for Weights & Biases."""

    folder: Path
    about: Any  # its RunRecord: run_id, project, display_name, config
    history: dict[str, dict[int, Any]]  # name -> step -> number, or the paths of pictures
    exit_code: int


def read_offline_runs(workdir: Path) -> list[OfflineRun]:
    """Reads what `workdir` holds for Weights & Biases, the oldest first, once its process has written all."""
    wandb.teardown()
    runs = []
    for file in sorted(workdir.glob("wandb/offline-run-*/run-*.wandb"), key=lambda file: file.stat().st_mtime_ns):
        records = list(_records(file.read_bytes()))
        (about,) = [record.run for record in records if record.HasField("run")]
        (end,) = [record.exit for record in records if record.HasField("exit")]
        history: dict[str, dict[int, Any]] = {}
        for record in records:
            items = {item.key or "/".join(item.nested_key): item.value_json for item in record.history.item}
            for name, value in items.items():
                history.setdefault(name, {})[json.loads(items["global_step"])] = json.loads(value)
        runs.append(OfflineRun(file.parent, about, history, end.exit_code))
    return runs


def _records(data: bytes) -> Iterator[Record]:
    """Yields the records of a .wandb file: LevelDB's log format behind a header of 7 bytes."""
    at, parts = 7, []
    while at < len(data):
        rest = LOG_BLOCK - at % LOG_BLOCK
        if rest < LOG_HEADER:  # no part of a record begins there
            at += rest
            continue
        _, length, kind = struct.unpack_from("<IHB", data, at)  # checksum, length, 1 whole 2 first 3 middle 4 last
        parts.append(data[at + LOG_HEADER : at + LOG_HEADER + length])
        at += LOG_HEADER + length
        if kind in (1, 4):
            yield Record.FromString(b"".join(parts))
            parts = []
