"""Where activations are placed: images over (data, fsdp), heads and channels over `tensor`, tokens over `sequence`."""

import dataclasses
import functools
import math
from collections.abc import Sequence

import jax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from nami_jax.config import Config, require
from nami_jax.models.attention import kernel_for
from nami_jax.models.layout import Layout
from nami_jax.parallel.kept_programs import BoundedJit
from nami_jax.parallel.sharding import BATCH_AXES, batch_parts


@dataclasses.dataclass(frozen=True)
class MeshLayout(Layout):
    """The layout of a mesh as `sharding.make_mesh` arranges it.

    Each device has its images' queries for its own tokens and heads, and the keys and values of all tokens, which are
    gathered along `sequence`. Attention is the platform's fastest.
    """

    mesh: Mesh

    @property
    def platform(self) -> str:
        """Its devices', which need not be present."""
        return self.mesh.devices.flat[0].platform

    @property
    def alone(self) -> bool:
        """Whether one device has all parameters."""
        return self.mesh.size == 1

    @property
    def adds_products(self) -> bool:
        """Also where `tensor` splits the two arrays differently: side by side they would have to be exchanged."""
        return self.mesh.shape["tensor"] > 1 or super().adds_products

    @property
    def batch_parts(self) -> int:  # pyright: ignore[reportIncompatibleVariableOverride]
        """The devices that have images of their own."""
        return batch_parts(self.mesh)

    def latents(self, x: jax.Array) -> jax.Array:
        """Splits (B, ...) by images."""
        return self._place(x, BATCH_AXES)

    def tokens(self, x: jax.Array) -> jax.Array:
        """Splits (B, L, D) by images and tokens."""
        return self._place(x, BATCH_AXES, "sequence")

    def channels(self, x: jax.Array) -> jax.Array:
        """Splits (B, L, F) by images, tokens and channels."""
        return self._place(x, BATCH_AXES, "sequence", "tensor")

    def attention(self, q: jax.Array, k: jax.Array, v: jax.Array) -> jax.Array:
        """Attends each device's queries to the keys of all tokens."""
        q = self._place(q, BATCH_AXES, "sequence", "tensor")
        k, v = (self._place(x, BATCH_AXES, None, "tensor") for x in (k, v))
        kernel = kernel_for(self.mesh.devices.flat[0], q.shape[-1], q.dtype)
        if self.alone:
            return kernel(q, k, v)
        queries, keys = PartitionSpec(BATCH_AXES, "sequence", "tensor"), PartitionSpec(BATCH_AXES, None, "tensor")
        # XLA cannot split a kernel of its own accord; check_vma: the kernel does not say what varies along which axis.
        attend = jax.shard_map(
            kernel, mesh=self.mesh, in_specs=(queries, keys, keys), out_specs=queries, check_vma=False
        )
        return attend(q, k, v)

    def require_tokens(self, image_lengths: Sequence[int], text_length: int) -> None:
        """Raises `ConfigError` unless every stage's image tokens, alone and with the text's, can be shared evenly."""
        sequence = self.mesh.shape["sequence"]
        counts = [n for length in image_lengths for n in (length, length + text_length)]
        require(
            all(n % sequence == 0 for n in counts),
            field="mesh.sequence",
            value=sequence,
            rule=f"must divide the stages' {tuple(image_lengths)} image tokens, also with {text_length} text tokens",
            remedy=f"Set {functools.reduce(math.gcd, counts, sequence)}",
        )

    def replicate(self, x: jax.Array) -> jax.Array:
        """Copies an array to every device, where each process can read it."""
        return x if self.alone else _copy_to(NamedSharding(self.mesh, PartitionSpec()), x)

    def _place(self, x: jax.Array, *axes: str | tuple[str, ...] | None) -> jax.Array:
        if self.alone:
            return x
        return jax.lax.with_sharding_constraint(x, NamedSharding(self.mesh, PartitionSpec(*axes)))


@BoundedJit
def _copy_to(sharding: NamedSharding, x: jax.Array) -> jax.Array:
    return jax.lax.with_sharding_constraint(x, sharding)


def require_layout(cfg: Config, mesh: Mesh) -> None:
    """Checks that a run's heads and tokens can be shared as `mesh` says.

    Raises:
        ConfigError: they cannot.
    """
    heads, tensor = cfg.model.num_heads, mesh.shape["tensor"]
    require(
        heads % tensor == 0,
        field="mesh.tensor",
        value=tensor,
        rule=f"must divide the {heads} heads",
        remedy=f"Set {math.gcd(heads, tensor)}",
    )
    for height, width in cfg.data.bucket_sizes:
        sides = height // cfg.autoencoder.downscale, width // cfg.autoencoder.downscale
        MeshLayout(mesh).require_tokens(cfg.model.image_tokens(*sides), cfg.text.max_length)
