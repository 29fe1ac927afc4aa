"""The results of a preparation: counts, the list of rejects and a few lines for people, all from the manifests."""

import collections
import json
from collections.abc import Sequence
from typing import Any

from nami_jax.data.latents import SPLITS, Shard, manifest_name, manifest_shards, parse_manifest
from nami_jax.preparation import beam_files as files
from nami_jax.preparation.sources import Unit

REJECTS_FILE, SUMMARY_FILE = "rejects.jsonl", "summary.json"


def read_manifests(out: str, units: Sequence[Unit]) -> list[dict[str, Any]]:
    """Returns the parsed manifests of all units, in order; raises `ConfigError` if one is damaged."""
    paths = [files.join(out, manifest_name(unit.index)) for unit in units]
    return [parse_manifest(files.read(path), path) for path in paths]


def all_shards(manifests: Sequence[dict[str, Any]]) -> list[Shard]:
    """Returns the files that the manifests list, in order."""
    return [shard for manifest in manifests for shard in manifest_shards(manifest)]


def summarise(manifests: Sequence[dict[str, Any]], images: int, seconds: float) -> dict[str, Any]:
    """Counts what is in the manifests.

    Args:
        manifests: of all units.
        images: records that this run went through; others were done before.
        seconds: that it took, with loading and compilation.
    """
    shards = all_shards(manifests)
    reasons = collections.Counter(reject["reason"] for manifest in manifests for reject in manifest["rejects"])
    kept, rejected = sum(shard.records for shard in shards), sum(reasons.values())
    return {
        "kept": kept,
        "rejected": rejected,
        "rejected_share": rejected / max(kept + rejected, 1),
        "splits": {split: sum(s.records for s in shards if s.split == split) for split in SPLITS},
        "buckets": {f"{h}x{w}": sum(s.records for s in shards if s.bucket == (h, w)) for h, w in _buckets(shards)},
        "reasons": dict(reasons.most_common()),
        "bytes": sum(shard.bytes for shard in shards),
        "this_run": {"images": images, "seconds": round(seconds, 1), "images_per_second": images / max(seconds, 1e-9)},
    }


def _buckets(shards: Sequence[Shard]) -> list[tuple[int, int]]:
    return sorted({shard.bucket for shard in shards})


def write_summary(out: str, manifests: Sequence[dict[str, Any]], summary: dict[str, Any]) -> None:
    """Writes `rejects.jsonl` (id, reason, detail) and `summary.json`."""
    lines = [json.dumps(reject) + "\n" for manifest in manifests for reject in manifest["rejects"]]
    files.write(files.join(out, REJECTS_FILE), "".join(lines).encode())
    files.write(files.join(out, SUMMARY_FILE), (json.dumps(summary, indent=2) + "\n").encode())


def as_text(out: str, summary: dict[str, Any]) -> str:
    """Returns the summary in a few lines."""

    def listed(counts: dict[str, int]) -> str:
        return ", ".join(f"{name} {count}" for name, count in counts.items())

    lines = [f"{out}: {summary['kept']} images ({listed(summary['splits'])}), {summary['bytes'] / 1e6:.1f} MB"]
    lines.append(f"by height x width: {listed(summary['buckets'])}")
    if summary["rejected"]:
        share = f"{summary['rejected']} rejected ({100 * summary['rejected_share']:.2g} %)"
        lines.append(f"{share}: {listed(summary['reasons'])}; see {files.join(out, REJECTS_FILE)}")
    run = summary["this_run"]
    lines.append(f"this run: {run['images']} images in {run['seconds']} s, {run['images_per_second']:.1f} per second")
    empty = [split for split, count in summary["splits"].items() if not count]
    if empty:
        lines.append(
            f"No images in {' and '.join(empty)}: training needs both splits. "
            "Prepare more images, or hold out another share."
        )
    return "\n".join(lines)
