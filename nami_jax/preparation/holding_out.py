"""Draws the records that are held out of training: after the work, so that another number encodes nothing anew."""

import hashlib
import heapq
from collections.abc import Sequence

from nami_jax.config import require
from nami_jax.data.prepared_format import TRAIN, Shard
from nami_jax.preparation.manifests import Manifest
from nami_jax.preparation.options import FIELD


def count_held_out(held_out: float | None, usable: int) -> int:
    """Returns how many of `usable` records to hold out: of a share at least one, and never all.

    Raises:
        ConfigError: that many would leave nothing to train on.
    """
    if held_out is None:
        return 0
    if not isinstance(held_out, int):
        return min(max(1, round(held_out * usable)), usable - 1)
    require(
        held_out < usable,
        field=FIELD,
        value=held_out,
        rule=f"only {usable} images can be used, and at least one is needed to train on",
        remedy=f"Set at most {usable - 1}, a share such as 0.01, or none",
    )
    return held_out


def draw_held_out(manifests: Sequence[Manifest], held_out: float | None) -> list[Shard]:
    """Returns the files of all units, with the records that are held out.

    They are drawn by their ids alone, so that they are the same in every run. A larger number holds out the same ones
    and more.

    Args:
        manifests: of all units.
        held_out: how many of the training records: a number (an int), a share (a float), or None.

    Raises:
        ConfigError: that many would leave nothing to train on.
    """
    shards = [shard for manifest in manifests for shard in manifest.shards]
    names = [ids for manifest in manifests for ids in manifest.ids]
    usable = sum(shard.records for shard in shards if shard.split == TRAIN)
    draws = (
        (hashlib.sha256(name.encode()).digest(), number, position)
        for number, (shard, ids) in enumerate(zip(shards, names, strict=True))
        if shard.split == TRAIN
        for position, name in enumerate(ids)
    )
    drawn: dict[int, list[int]] = {}
    for _, number, position in heapq.nsmallest(count_held_out(held_out, usable), draws):
        drawn.setdefault(number, []).append(position)
    return [shard._replace(held_out=tuple(sorted(drawn.get(number, ())))) for number, shard in enumerate(shards)]
