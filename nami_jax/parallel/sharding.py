"""Where every array lives: the device mesh, one table of rules for the training state, and the batch.

The state's paths end in the parameter's path for parameters, EMA and all moments alike, so one table shards them all.
"""

import math
import re
from collections.abc import Sequence
from typing import Any

import jax
from jax.experimental import mesh_utils
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from nami_jax.config import MeshConfig, require
from nami_jax.parallel.host_shard import HostShard

AXES = ("data", "fsdp", "tensor", "sequence")
BATCH_AXES = ("data", "fsdp")  # each of their devices has images of its own; along the others images are shared
BATCH = PartitionSpec(BATCH_AXES)

# First match wins. Stacked blocks have the layer axis first; it is never sharded, since scan walks along it. Along
# `tensor`, maps into heads and MLP are split by what they give, maps back to the width by what they take.
RULES = (
    (r"blocks/.*qkv/linear/kernel$", PartitionSpec(None, "fsdp", None, "tensor", None)),
    (r"blocks/.*(mlp_in|modulation/linear)/kernel$", PartitionSpec(None, "fsdp", "tensor")),
    (r"blocks/.*(proj|mlp_out)/kernel$", PartitionSpec(None, "tensor", "fsdp")),
    (r"(image|text|time|pooled)_in/.*kernel$", PartitionSpec(None, "fsdp")),
    (r"(modulation/linear|image_out)/kernel$", PartitionSpec("fsdp", None)),
    (r".*", PartitionSpec()),  # biases, norm scales, counters, keys: small, on every device
)


def make_mesh(mesh: MeshConfig | None = None, devices: Sequence[Any] | None = None) -> Mesh:
    """Arranges devices (default: all) as (data, fsdp, tensor, sequence); `data` takes what the others leave.

    Raises:
        ConfigError: the axes that `mesh` sets do not divide the number of devices.
    """
    mesh = mesh or MeshConfig()
    devices = jax.devices() if devices is None else list(devices)
    left = len(devices)
    for axis in AXES[1:]:
        size = getattr(mesh, axis)
        require(
            left % size == 0,
            field=f"mesh.{axis}",
            value=size,
            rule=f"must divide the {left} devices" + (" that the axes before it leave" if left < len(devices) else ""),
            remedy=f"Set {math.gcd(left, size)}",
        )
        left //= size
    sizes = (left, mesh.fsdp, mesh.tensor, mesh.sequence)
    # Neighbours on a TPU's torus stay neighbours along an axis, which need not be one side of the torus.
    arranged = mesh_utils.create_device_mesh(sizes, devices, allow_split_physical_axes=True)
    return Mesh(arranged, AXES, axis_types=(AxisType.Auto,) * len(AXES))


def path_name(path: tuple[Any, ...]) -> str:
    """Joins a pytree path: "params/double_blocks/image/qkv/linear/kernel"."""
    return "/".join(str(getattr(part, "key", getattr(part, "name", getattr(part, "idx", part)))) for part in path)


def state_shardings(abstract_state: Any, mesh: Mesh) -> Any:
    """Returns the sharding of every array of a training state, by `RULES`.

    Args:
        abstract_state: pytree of arrays or ShapeDtypeStructs, as `jax.eval_shape` of the initialiser gives it.
        mesh: as `make_mesh` arranges it.

    Raises:
        ConfigError: a sharded axis is not divisible by the devices it is spread over.
    """

    def rule(path, leaf):
        name = path_name(path)
        spec = next(spec for pattern, spec in RULES if re.search(pattern, name))
        for size, axis in zip(leaf.shape, spec, strict=False):
            require(
                axis is None or size % mesh.shape[axis] == 0,
                field=f"mesh.{axis}",
                value=axis and mesh.shape[axis],
                rule=f"{name} {leaf.shape} cannot be split by {spec}",
                remedy=f"Set a divisor of {size}, e.g. {math.gcd(size, mesh.shape.get(axis, 1))}",
            )
        return NamedSharding(mesh, spec)

    return jax.tree_util.tree_map_with_path(rule, abstract_state)


def batch_parts(mesh: Mesh) -> int:
    """Returns into how many parts a batch is cut: the devices that have images of their own."""
    return math.prod(mesh.shape[axis] for axis in BATCH_AXES)


def host_shard(mesh: Mesh) -> HostShard:
    """Returns this process's share. Processes that only share the network's work along one image have the same."""
    count = batch_parts(mesh)
    sharding = NamedSharding(mesh, BATCH)
    slices = sharding.addressable_devices_indices_map((count,)).values()
    return HostShard(tuple(sorted({index[0].start or 0 for index in slices if index})), count)


def shard_batch(batch: Any, mesh: Mesh) -> Any:
    """Places this process's share of a batch (pytree of NumPy arrays, batch axis first) on its devices."""
    sharding, shard = NamedSharding(mesh, BATCH), host_shard(mesh)

    def place(x):
        each = len(x) // len(shard.parts)

        def part(index):
            first = shard.parts.index((index[0].start or 0) // each) * each
            return x[first : first + each]

        return jax.make_array_from_callback((each * shard.count, *x.shape[1:]), sharding, part)

    return jax.tree.map(place, batch)


def require_divisible(field: str, stage_batches: Sequence[Sequence[int]], mesh: Mesh) -> None:
    """Checks that every stage's batch, set by `field`, splits evenly over the devices that have images of their own.

    Raises:
        ConfigError: one does not.
    """
    count = batch_parts(mesh)
    for batches in stage_batches:
        require(
            all(b % count == 0 for b in batches),
            field=field,
            value=tuple(batches),
            rule=f"each stage's images must split evenly over {count} devices",
            remedy=f"Set {tuple(-(-b // count) * count for b in batches)}",
        )
