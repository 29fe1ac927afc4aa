"""Weights of the released NAMI and of our networks, in both directions, by the released checkpoint's key names.

One table relates each released tensor to a slot of our stacked parameters; reading and writing both walk that table.
"""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from nami_jax.config import ModelConfig
from nami_jax.models.bridge import Bridge
from nami_jax.models.nami import Nami
from nami_jax.weights import Slot, Tensor, WeightsError, export_tensors, load_module, require_tensors


def model_config(released: Mapping[str, Any]) -> ModelConfig:
    """Reads our sizes from the released `transformer/config.json` (latents are packed into 2x2 patches outside it).

    Raises:
        WeightsError: the configuration describes a network that NAMI is not.
    """
    if released.get("guidance_embeds") or released["patch_size"] != 1 or released["in_channels"] % 4:
        raise WeightsError(
            "config.json: expected guidance_embeds false, patch_size 1 and in_channels a multiple of 4, found "
            f"{released.get('guidance_embeds')}, {released['patch_size']}, {released['in_channels']}. "
            "Use the transformer of a NAMI release."
        )
    return ModelConfig(
        channels=released["in_channels"] // 4,
        patch_size=2,
        num_heads=released["num_attention_heads"],
        rope_axes=tuple(released["axes_dims_rope"]),
        double_blocks=released["num_layers"],
        stage_single_blocks=tuple(released["stage_singleblock_index"]),
        mlp_ratio=4,
        text_dim=released["joint_attention_dim"],
        pooled_dim=released["pooled_projection_dim"],
    )


def nami_slots(cfg: ModelConfig) -> dict[str, Slot]:
    """Returns the slot of every tensor of a released transformer of these sizes, by its key."""
    slots = _linears(
        {
            "x_embedder": ("image_in",),
            "context_embedder": ("text_in",),
            "time_text_embed.timestep_embedder.linear_1": ("time_in", "linear_1"),
            "time_text_embed.timestep_embedder.linear_2": ("time_in", "linear_2"),
            "time_text_embed.text_embedder.linear_1": ("pooled_in", "linear_1"),
            "time_text_embed.text_embedder.linear_2": ("pooled_in", "linear_2"),
            "norm_out.linear": ("modulation", "linear"),
            "proj_out": ("image_out",),
        }
    )
    for i in range(cfg.double_blocks):
        slots |= _double_block_slots(f"transformer_blocks.{i}.", i)
    for i in range(cfg.stage_single_blocks[-1]):
        slots |= _single_block_slots(f"single_transformer_blocks.{i}.", i)
    return slots


def _double_block_slots(prefix: str, i: int) -> dict[str, Slot]:
    image, text = ("double_blocks", "image"), ("double_blocks", "text")
    names = {
        "norm1.linear": (*image, "modulation", "linear"),
        "norm1_context.linear": (*text, "modulation", "linear"),
        "attn.to_out.0": (*image, "proj"),
        "attn.to_add_out": (*text, "proj"),
        "ff.net.0.proj": (*image, "mlp_in"),
        "ff.net.2": (*image, "mlp_out"),
        "ff_context.net.0.proj": (*text, "mlp_in"),
        "ff_context.net.2": (*text, "mlp_out"),
    }
    slots = _linears({prefix + key: path for key, path in names.items()}, (i,))
    slots |= _qkv_slots(prefix + "attn.", ("to_q", "to_k", "to_v"), ("norm_q", "norm_k"), image, i)
    return slots | _qkv_slots(
        prefix + "attn.", ("add_q_proj", "add_k_proj", "add_v_proj"), ("norm_added_q", "norm_added_k"), text, i
    )


def _single_block_slots(prefix: str, i: int) -> dict[str, Slot]:
    names = {"norm.linear": ("modulation", "linear"), "proj_mlp": ("mlp_in",), "proj_out": ("proj",)}
    slots = _linears({prefix + key: ("single_blocks", *path) for key, path in names.items()}, (i,))
    return slots | _qkv_slots(prefix + "attn.", ("to_q", "to_k", "to_v"), ("norm_q", "norm_k"), ("single_blocks",), i)


def _linears(names: Mapping[str, tuple[str, ...]], index: tuple[int, ...] = ()) -> dict[str, Slot]:
    kernels = {f"{key}.weight": Slot((*path, "kernel"), index) for key, path in names.items()}
    return kernels | {f"{key}.bias": Slot((*path, "bias"), index) for key, path in names.items()}


def _qkv_slots(
    prefix: str, linears: tuple[str, ...], norms: tuple[str, ...], block: tuple[str, ...], i: int
) -> dict[str, Slot]:
    slots = {}
    for part, key in enumerate(linears):  # ours are one layer, kernel (blocks, D, 3, N, H)
        slots[f"{prefix}{key}.weight"] = Slot((*block, "qkv", "linear", "kernel"), (i, slice(None), part))
        slots[f"{prefix}{key}.bias"] = Slot((*block, "qkv", "linear", "bias"), (i, part))
    for key, ours in zip(norms, ("q_norm", "k_norm"), strict=True):
        slots[f"{prefix}{key}.weight"] = Slot((*block, "qkv", ours, "scale"), (i,))
    return slots


def load_nami(
    cfg: ModelConfig,
    tensors: Mapping[str, Tensor],
    *,
    param_dtype: jax.typing.DTypeLike = jnp.float32,
    shardings: Callable[[Any], Any] | None = None,
) -> Nami:
    """Builds the network with released weights.

    Args:
        cfg: its sizes.
        tensors: released key -> tensor; linear weights are (outputs, inputs).
        param_dtype: type of the parameters, whatever type they are stored in.
        shardings: abstract parameters -> shardings; None puts all on the first device.

    Raises:
        WeightsError: keys are missing, unexpected or misshapen; all are listed.
    """
    return load_module(
        lambda: Nami(cfg, rngs=nnx.Rngs(0)), lambda _: nami_slots(cfg), tensors,
        param_dtype=param_dtype, shardings=shardings,
    )  # fmt: skip


def export_nami(model: Nami) -> dict[str, np.ndarray]:
    """Returns the network's weights under the released keys, ready for a safetensors file; undoes `load_nami`."""
    return export_tensors(nnx.to_pure_dict(nnx.state(model)), nami_slots(model.cfg))


def load_bridge(tensors: Mapping[str, np.ndarray]) -> Bridge:
    """Builds the released bridge from `scale` (K-1,) and `shift.{i}` (1, C, H, W).

    Raises:
        WeightsError: the keys are not those of a bridge.
    """
    count = len(tensors.get("scale", ()))
    shapes = {f"shift.{i}": np.shape(tensors.get(f"shift.{i}", np.empty((1, 0, 0, 0)))) for i in range(count)}
    require_tensors({"scale": (count,), **shapes}, {key: value.shape for key, value in tensors.items()})
    shifts = [np.asarray(tensors[f"shift.{i}"][0]).transpose(1, 2, 0) for i in range(count)]
    bridge = Bridge([(s.shape[0], s.shape[1], s.shape[2]) for s in shifts])
    nnx.update(bridge, {"scales": np.asarray(tensors["scale"]), "shifts": dict(enumerate(shifts))})
    return bridge
