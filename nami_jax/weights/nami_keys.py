"""Weights of the released NAMI and of our networks, in both directions, by the released checkpoint's key names.

One table relates each released tensor to a slot of our stacked parameters; reading and writing both walk that table.
"""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from nami_jax.config import ModelConfig, shown
from nami_jax.models.bridge import AnyBridge, Bridge, ConvBridge
from nami_jax.models.nami import Nami
from nami_jax.weights import Slot, Tensor, TensorShapes, WeightsError, export_tensors, load_module, require_tensors
from nami_jax.weights.slots import ParamPath, slots_by_name

# What a released transformer/config.json says of every NAMI. Latents are packed into 2x2 patches outside the network.
FIXED = {"patch_size": 1, "guidance_embeds": False}
PATCH_SIZE, MLP_RATIO, ROPE_THETA = 2, 4, 10000.0  # of every released network, and written nowhere
LISTS = ("axes_dims_rope", "stage_singleblock_index")
SIZES = (
    "in_channels",
    "num_layers",
    "attention_head_dim",
    "num_attention_heads",
    "joint_attention_dim",
    "pooled_projection_dim",
    *LISTS,
)


def model_config(released: Mapping[str, Any]) -> ModelConfig:
    """Reads our sizes from the released `transformer/config.json`.

    Raises:
        WeightsError: a size is missing, or the configuration is not that of a NAMI network.
        ConfigError: a size is invalid.
    """
    fields: dict[str, Any] = FIXED | {"num_single_layers": None, "out_channels": None} | dict(released)
    bad = [name for name in SIZES if not _is_size(fields.get(name), name in LISTS)]
    if bad:
        raise WeightsError(f"config.json: {', '.join(bad)} missing or invalid. Use the transformer of a NAMI release.")
    stages = tuple(fields["stage_singleblock_index"])
    rules = [(name, (value,)) for name, value in FIXED.items()]
    rules += [
        ("attention_head_dim", (sum(fields["axes_dims_rope"]),)),
        ("num_single_layers", (None, *stages[-1:])),
        ("out_channels", (None, fields["in_channels"])),
        ("in_channels", (fields["in_channels"] // PATCH_SIZE**2 * PATCH_SIZE**2,)),
    ]
    wrong = [
        f"{name} = {shown(fields[name])}, expected {allowed[-1]!r}"
        for name, allowed in rules
        if fields[name] not in allowed
    ]
    if wrong:
        raise WeightsError(f"config.json: {'; '.join(wrong)}. Use the transformer of a NAMI release.")
    return ModelConfig(
        channels=fields["in_channels"] // PATCH_SIZE**2,
        patch_size=PATCH_SIZE,
        num_heads=fields["num_attention_heads"],
        rope_axes=tuple(fields["axes_dims_rope"]),
        double_blocks=fields["num_layers"],
        stage_single_blocks=stages,
        mlp_ratio=MLP_RATIO,
        text_dim=fields["joint_attention_dim"],
        pooled_dim=fields["pooled_projection_dim"],
        rope_theta=ROPE_THETA,
    )


def _is_size(value: Any, is_list: bool) -> bool:
    numbers = value if is_list and isinstance(value, list | tuple) else [] if is_list else [value]
    return bool(numbers) and all(type(number) is int for number in numbers)


def released_transformer_config(cfg: ModelConfig) -> dict[str, Any]:
    """Returns the released `transformer/config.json` of a network; undoes `model_config`.

    How it computes (type, scanning, rematerialisation, low-rank pairs) is not part of a release.

    Raises:
        WeightsError: the release's code cannot run such a network.
    """
    fixed = {"patch_size": PATCH_SIZE, "mlp_ratio": MLP_RATIO, "rope_theta": ROPE_THETA}
    wrong = [
        f"model.{name} = {getattr(cfg, name)!r}, not {value!r}"
        for name, value in fixed.items()
        if getattr(cfg, name) != value
    ]
    if wrong:
        raise WeightsError(f"{'; '.join(wrong)}: a release cannot express this. Train with the released values.")
    return {
        "_class_name": "FluxTransformer2DModel",
        **FIXED,
        "in_channels": cfg.channels * PATCH_SIZE**2,
        "num_layers": cfg.double_blocks,
        "num_single_layers": cfg.stage_single_blocks[-1],
        "attention_head_dim": cfg.head_dim,
        "num_attention_heads": cfg.num_heads,
        "joint_attention_dim": cfg.text_dim,
        "pooled_projection_dim": cfg.pooled_dim,
        "axes_dims_rope": list(cfg.rope_axes),
        "stage_singleblock_index": list(cfg.stage_single_blocks),
    }


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
        param_dtype: type of the parameters, whatever type they are stored in; norms are float32, as they are computed.
        shardings: abstract parameters -> shardings; None puts all on the first device.

    Raises:
        WeightsError: keys are missing, unexpected or of the wrong shape; all are listed.
    """
    return load_module(
        lambda: Nami(cfg, rngs=nnx.Rngs(0)),
        lambda _: nami_slots(cfg),
        tensors,
        param_dtype=param_dtype,
        shardings=shardings,
        in_float32=is_norm,
    )


def is_norm(path: ParamPath) -> bool:
    """Says whether a parameter is one of a norm, which is computed in float32."""
    return any("norm" in str(part) for part in path)


def export_nami(model: Nami) -> dict[str, np.ndarray]:
    """Returns the network's weights under the released keys, ready for a safetensors file; undoes `load_nami`."""
    return export_tensors(nnx.to_pure_dict(nnx.state(model)), nami_slots(model.cfg))


def bridge_shapes(found: TensorShapes, cfg: ModelConfig | None = None) -> dict[str, tuple[int, ...]]:
    """Returns the shapes of a released bridge's tensors: `scale` (K-1,) and `shift.{i}` (1, C, H, W).

    Each shift has twice the height and width of the one before it.

    Args:
        found: shapes of the tensors found; the last shift determines the size.
        cfg: sizes of the network; None takes the number of transitions and the channels from `found`.
    """
    count = (*found.get("scale", ()), 0)[0] if cfg is None else cfg.num_stages - 1
    shifts = {i: found.get(f"shift.{i}", ()) for i in range(count)}
    last = max((i for i, shape in shifts.items() if len(shape) == 4), default=None)
    _, channels, height, width = (1, 0, 0, 0) if last is None else shifts[last]
    sizes = [(height * 2**i // 2 ** (last or 0), width * 2**i // 2 ** (last or 0)) for i in range(count)]
    channels = channels if cfg is None else cfg.channels
    return {"scale": (count,)} | {f"shift.{i}": (1, channels, *size) for i, size in enumerate(sizes)}


def load_bridge(tensors: Mapping[str, Tensor]) -> Bridge:
    """Builds the released bridge from `scale` (K-1,) and `shift.{i}` (1, C, H, W), in float32.

    Raises:
        WeightsError: the keys are not those of a bridge, or a shape does not fit the others.
    """
    found = {key: tuple(tensor.shape) for key, tensor in tensors.items()}
    expected = bridge_shapes(found)
    require_tensors(expected, found)
    shifts = [tensors[f"shift.{i}"][...][0].transpose(1, 2, 0) for i in range(len(expected) - 1)]
    bridge = Bridge([(s.shape[0], s.shape[1], s.shape[2]) for s in shifts])
    values = {"scales": tensors["scale"][...], "shifts": dict(enumerate(shifts))}
    nnx.update(bridge, jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), values))
    return bridge


def read_bridge(kind: str, model: ModelConfig, tensors: Mapping[str, Tensor]) -> AnyBridge:
    """Builds a bridge of a kind for a network, in float32; undoes `export_bridge`.

    Raises:
        WeightsError: the keys are not those of such a bridge, or a shape does not fit.
    """
    if kind == "full":
        return load_bridge(tensors)
    return load_module(
        lambda: ConvBridge(model.channels, model.num_stages - 1, rngs=nnx.Rngs(0)), slots_by_name, tensors
    )


def export_bridge(bridge: AnyBridge) -> dict[str, np.ndarray]:
    """Returns a bridge under the released keys, one of convolutions under its own names, in PyTorch's layout."""
    if isinstance(bridge, ConvBridge):
        params = nnx.to_pure_dict(nnx.state(bridge))
        return export_tensors(params, slots_by_name(params))
    shifts = [np.asarray(shift[...]).transpose(2, 0, 1)[None] for shift in bridge.shifts]
    return {"scale": np.asarray(bridge.scales[...])} | {f"shift.{i}": shift for i, shift in enumerate(shifts)}
