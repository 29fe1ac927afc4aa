"""The learned jump between stages: what BridgeFlow of the released NAMI is, and a form of it for any image size."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from nami_jax.config import Config, ModelConfig, require
from nami_jax.models.initialisation import parameter_rngs

HIDDEN = 32  # channels inside the size-free bridge's convolutions


class Bridge(nnx.Module):
    """The released form: s_k U(x) + B_k. Source: NAMI, CVPR 2026 version.

    The shifts have the latents' full size, so it fits one image size only.
    """

    def __init__(self, shapes: Sequence[tuple[int, int, int]]):
        """Builds the identity.

        Args:
            shapes: (H, W, C) of the latents of stage 2..K.
        """
        self.scales = nnx.Param(jnp.ones(len(shapes)))
        self.shifts = nnx.List([nnx.Param(jnp.zeros(shape)) for shape in shapes])

    def __call__(self, upsampled: jax.Array, *, stage: int) -> jax.Array:
        """Maps upsampled latents (B, H, W, C) of stage k-1 to the start of stage k, `stage` in 2..K."""
        return self.scales[stage - 2] * upsampled + self.shifts[stage - 2][None]

    def require_size(self, height: int, width: int) -> None:
        """Checks that the last stage's latents have the size that the shifts were made for.

        Raises:
            ConfigError: they do not.
        """
        if self.shifts:
            size = self.shifts[len(self.shifts) - 1].shape[:2]
            require(
                (height, width) == size,
                field="transition",
                value="bridge",
                rule=f"this bridge is for latents of {size[0]}x{size[1]} only, not {height}x{width}",
                remedy=f"Set a height and width that give {size[0]}x{size[1]}, or transition 'renoise', which takes "
                "any size (though the stages were trained with the bridge), or train a size-free bridge "
                "(bridge.kind = 'conv')",
            )


class ConvBridge(nnx.Module):
    """A form for any height and width: s_k U(x) plus what two small convolutions see around each point.

    The convolutions' biases are the shift of each channel; what they add is how the image's edges continue.
    """

    def __init__(self, channels: int, transitions: int, *, rngs: nnx.Rngs):
        self.scales = nnx.Param(jnp.ones(transitions))
        self.conv_in = nnx.List([nnx.Conv(channels, HIDDEN, (3, 3), rngs=rngs) for _ in range(transitions)])
        # Zero at the start: the bridge begins as the identity, like the released form.
        zeros = nnx.initializers.zeros_init()
        self.conv_out = nnx.List(
            [nnx.Conv(HIDDEN, channels, (3, 3), kernel_init=zeros, rngs=rngs) for _ in range(transitions)]
        )

    def __call__(self, upsampled: jax.Array, *, stage: int) -> jax.Array:
        """Maps upsampled latents (B, H, W, C) of stage k-1 to the start of stage k, `stage` in 2..K."""
        seen = self.conv_out[stage - 2](nnx.silu(self.conv_in[stage - 2](upsampled)))
        return self.scales[stage - 2] * upsampled + seen

    def require_size(self, height: int, width: int) -> None:
        """Accepts any size."""


AnyBridge = Bridge | ConvBridge


def make_bridge(kind: str, model: ModelConfig, height: int, width: int, rngs: nnx.Rngs) -> AnyBridge:
    """Builds an untrained bridge.

    Args:
        kind: "full" or "conv".
        model: the network between whose stages it stands.
        height: of the last stage's latents.
        width: of the last stage's latents.
        rngs: for the convolutions.
    """
    if kind == "conv":
        return ConvBridge(model.channels, model.num_stages - 1, rngs=rngs)
    factors = [2**k for k in range(model.num_stages - 2, -1, -1)]
    return Bridge([(height // f, width // f, model.channels) for f in factors])


def bridge_module(cfg: Config) -> AnyBridge | None:
    """Builds the untrained bridge of a run, if it has one, for latents of `data.side`."""
    if cfg.bridge.kind is None:
        return None
    side = cfg.data.side // cfg.autoencoder.downscale
    return make_bridge(cfg.bridge.kind, cfg.model, side, side, parameter_rngs(jax.random.key(cfg.train.seed)))


def new_bridge(cfg: Config) -> Any:
    """Returns an untrained bridge's parameters, {} for a run without one."""
    bridge = bridge_module(cfg)
    return {} if bridge is None else nnx.to_pure_dict(nnx.state(bridge))


def bridge_structure(cfg: Config) -> nnx.GraphDef | None:
    """Returns what `nnx.merge` needs beside a bridge's parameters; None for a run without a bridge."""
    if cfg.bridge.kind is None:
        return None
    return nnx.split(nnx.eval_shape(lambda: bridge_module(cfg)))[0]
