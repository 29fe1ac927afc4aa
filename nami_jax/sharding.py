"""Where every array lives: the device mesh, one table of rules for the training state, and the batch.

The state's paths end in the parameter's path for parameters, EMA and both moments alike, so one table shards them all.
"""

import re
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from nami_jax.config import ConfigError, require

BATCH = PartitionSpec(("data", "fsdp"))

# First match wins. Stacked blocks have the layer axis first; it is never sharded, since scan walks along it.
RULES = (
    (r"blocks/.*qkv/linear/kernel$", PartitionSpec(None, "fsdp", None, None, None)),
    (r"blocks/.*kernel$", PartitionSpec(None, "fsdp", None)),
    (r"(image|text|time|pooled)_in/.*kernel$", PartitionSpec(None, "fsdp")),
    (r"(modulation/linear|image_out)/kernel$", PartitionSpec("fsdp", None)),
    (r".*", PartitionSpec()),  # biases, norm scales, counters, keys: small, on every device
)


def make_mesh(fsdp: int = 1, devices: Sequence[Any] | None = None) -> Mesh:
    """Arranges devices (default: all) as (data, fsdp).

    Raises:
        ConfigError: `fsdp` does not divide the number of devices.
    """
    devices = jax.devices() if devices is None else list(devices)
    count = len(devices)
    require(count % fsdp == 0, "train.fsdp", fsdp, f"must divide the {count} devices", f"Set {np.gcd(fsdp, count)}")
    return jax.make_mesh((count // fsdp, fsdp), ("data", "fsdp"), axis_types=(AxisType.Auto,) * 2, devices=devices)


def path_name(path: tuple[Any, ...]) -> str:
    """Joins a pytree path: "params/double_blocks/image/qkv/linear/kernel"."""
    return "/".join(str(getattr(part, "key", getattr(part, "name", getattr(part, "idx", part)))) for part in path)


def state_shardings(abstract_state: Any, mesh: Mesh) -> Any:
    """Returns the sharding of every array of a training state, by `RULES`.

    Args:
        abstract_state: pytree of arrays or ShapeDtypeStructs, as `jax.eval_shape` of the initialiser gives it.
        mesh: axes (data, fsdp).

    Raises:
        ConfigError: a sharded axis is not divisible by the devices it is spread over.
    """

    def rule(path, leaf):
        name = path_name(path)
        spec = next(spec for pattern, spec in RULES if re.search(pattern, name))
        sharding = NamedSharding(mesh, spec)
        try:
            sharding.shard_shape(leaf.shape)
        except ValueError as error:
            raise ConfigError(
                f"train.fsdp = {mesh.shape['fsdp']}: {name} {leaf.shape} cannot be split by {spec}. "
                "Set a train.fsdp that divides the model's width."
            ) from error
        return sharding

    return jax.tree_util.tree_map_with_path(rule, abstract_state)


def shard_batch(batch: Any, mesh: Mesh) -> Any:
    """Places this process's part of a batch (pytree of NumPy arrays, batch axis first) on its devices."""
    sharding = NamedSharding(mesh, BATCH)
    return jax.tree.map(lambda x: jax.make_array_from_process_local_data(sharding, x), batch)


def require_divisible(field: str, stage_batches: Sequence[Sequence[int]], mesh: Mesh) -> None:
    """Checks that every stage's batch, set by `field`, splits evenly over the devices.

    Raises:
        ConfigError: one does not.
    """
    for batches in stage_batches:
        require(all(b % mesh.size == 0 for b in batches), field, tuple(batches),
                f"each stage's images must split evenly over {mesh.size} devices",
                f"Set {tuple(-(-b // mesh.size) * mesh.size for b in batches)}")  # fmt: skip
