"""The results of a preparation: counts, the list of rejects and a few lines for people, all from the manifests."""

import collections
import json
from collections.abc import Sequence
from typing import Any

from nami_jax.data.prepared_format import HELD_OUT, TRAIN, Shard
from nami_jax.preparation import beam_files as files
from nami_jax.preparation.manifests import Manifest

REJECTS_FILE, SUMMARY_FILE = "rejects.jsonl", "summary.json"


def summarise(manifests: Sequence[Manifest], shards: Sequence[Shard], images: int, seconds: float) -> dict[str, Any]:
    """Counts what has been prepared.

    Args:
        manifests: of all units.
        shards: their files, with what is held out.
        images: records that this run went through; others were done before.
        seconds: that it took, with loading and compilation.
    """
    reasons = collections.Counter(reject.reason for manifest in manifests for reject in manifest.rejects)
    kept, rejected = sum(shard.records for shard in shards), sum(reasons.values())
    held_out = sum(len(shard.held_out_positions) for shard in shards)
    return {
        "kept": kept,
        "rejected": rejected,
        "rejected_share": rejected / max(kept + rejected, 1),
        "splits": {TRAIN: kept - held_out, HELD_OUT: held_out},
        "buckets": {f"{h}x{w}": sum(s.records for s in shards if s.bucket == (h, w)) for h, w in _buckets(shards)},
        "reasons": dict(reasons.most_common()),
        "bytes": sum(shard.bytes for shard in shards),
        "this_run": {"images": images, "seconds": round(seconds, 1), "images_per_second": images / max(seconds, 1e-9)},
    }


def _buckets(shards: Sequence[Shard]) -> list[tuple[int, int]]:
    return sorted({shard.bucket for shard in shards})


def write_summary(out: str, manifests: Sequence[Manifest], summary: dict[str, Any]) -> None:
    """Writes `rejects.jsonl` (id, reason, detail) and `summary.json`."""
    lines = [json.dumps(reject._asdict()) + "\n" for manifest in manifests for reject in manifest.rejects]
    files.write(files.join(out, REJECTS_FILE), "".join(lines).encode())
    files.write(files.join(out, SUMMARY_FILE), (json.dumps(summary, indent=2) + "\n").encode())


def as_text(out: str, summary: dict[str, Any]) -> str:
    """Returns the summary in a few lines."""
    lines = [f"{out}: {summary['kept']} images ({_listed(summary['splits'])}), {summary['bytes'] / 1e6:.1f} MB"]
    lines.append(f"by height x width: {_listed(summary['buckets'])}")
    if summary["rejected"]:
        lines.append(rejected_text(out, summary))
    run = summary["this_run"]
    lines.append(f"this run: {run['images']} images in {run['seconds']} s, {run['images_per_second']:.1f} per second")
    if not summary["splits"][HELD_OUT]:
        lines.append("No image is held out: training will not be validated. --held_out=10 holds out ten of them.")
    return "\n".join(lines)


def rejected_text(out: str, summary: dict[str, Any]) -> str:
    """Returns how many records were left out, and why."""
    share = f"{summary['rejected']} rejected ({100 * summary['rejected_share']:.0f} %)"
    return f"{share}: {_listed(summary['reasons'])}; see {files.join(out, REJECTS_FILE)}"


def _listed(counts: dict[str, int]) -> str:
    return ", ".join(f"{name} {count}" for name, count in counts.items())
