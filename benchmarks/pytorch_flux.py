"""Our network and diffusers' FluxTransformer2DModel side by side: the same sizes, weights and inputs.

`benchmarks.vs_pytorch` times them in turns. `pytorch` is a part of `benchmarks.accelerator`: a forward pass of the last
stage at full size, where two networks in one memory would be too many. There the outputs of two networks of the same
weights are compared first, with one block of each kind at the full width.
"""

import dataclasses
import functools
import gc
import time
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import numpy as np

from benchmarks.accelerator_parts import Row, Sizes, layouts, random_network
from benchmarks.timing import queued
from nami_jax.config import ModelConfig
from nami_jax.models.layout import Layout
from nami_jax.models.nami import BlockParams, Nami
from nami_jax.monitoring.flops import forward_flops
from nami_jax.parallel.compiler import compiler_options
from nami_jax.weights.nami_keys import load_nami, released_transformer_config

FIELDS = (
    "patch_size", "in_channels", "num_layers", "num_single_layers", "attention_head_dim", "num_attention_heads",
    "joint_attention_dim", "pooled_projection_dim", "guidance_embeds", "axes_dims_rope",
)  # fmt: skip


def flux(torch: Any, cfg: ModelConfig) -> Any:
    """Builds FLUX's transformer of the last stage's sizes with random weights."""
    import diffusers  # pyright: ignore[reportMissingImports]

    torch.manual_seed(0)
    released = released_transformer_config(cfg)
    with torch.device("cuda" if torch.cuda.is_available() else "cpu"):
        model = diffusers.FluxTransformer2DModel(**{name: released[name] for name in FIELDS})
    with torch.no_grad():
        for parameter in model.parameters():  # so that every part matters
            parameter.add_(0.02 * torch.randn_like(parameter))
    return model.to(getattr(torch, cfg.dtype)).eval().requires_grad_(False)


def inputs(cfg: ModelConfig, side: int, text_tokens: int, batch: int) -> dict[str, np.ndarray]:
    """Draws latents, times and text of one forward pass."""
    rng = np.random.default_rng(0)
    shapes = {
        "latents": (batch, side, side, cfg.channels), "text": (batch, text_tokens, cfg.text_dim),
        "pooled": (batch, cfg.pooled_dim),
    }  # fmt: skip
    drawn = {name: rng.standard_normal(shape, np.float32) for name, shape in shapes.items()}
    return drawn | {"t": np.full(batch, 0.5, np.float32)}


def pack(latents: np.ndarray) -> np.ndarray:
    """Turns (B, H, W, C) into tokens (B, H/2 W/2, 4C), as FLUX's pipeline does."""
    b, h, w, c = latents.shape
    tokens = latents.transpose(0, 3, 1, 2).reshape(b, c, h // 2, 2, w // 2, 2)
    return tokens.transpose(0, 2, 4, 1, 3, 5).reshape(b, h * w // 4, 4 * c)


def flux_arguments(torch: Any, given: dict[str, np.ndarray], dtype: str) -> dict[str, Any]:
    """Returns the arguments of FLUX's forward pass, on its device."""
    _, height, width, _ = given["latents"].shape
    rows, columns = np.divmod(np.arange(height * width // 4), width // 2)
    positions = np.stack([np.zeros_like(rows), rows, columns], axis=-1).astype(np.float32)
    floats = {
        "hidden_states": pack(given["latents"]), "encoder_hidden_states": given["text"],
        "pooled_projections": given["pooled"], "timestep": given["t"],
    }  # fmt: skip
    place = {"device": "cuda" if torch.cuda.is_available() else "cpu"}
    arguments = {name: torch.from_numpy(x).to(dtype=getattr(torch, dtype), **place) for name, x in floats.items()}
    ids = {"img_ids": positions, "txt_ids": np.zeros((given["text"].shape[1], 3), np.float32)}
    return arguments | {name: torch.from_numpy(x).to(**place) for name, x in ids.items()}


def our_arguments(given: Mapping[str, np.ndarray]) -> tuple[jax.Array, ...]:
    """Returns the arguments of our forward pass, on its device."""
    return tuple(map(jax.device_put, (given[name] for name in ("latents", "t", "text", "pooled"))))


def take_apart(model: Nami) -> BlockParams:
    """Takes the blocks of the last stage apart, as the sampler does before its steps."""
    return jax.jit(lambda network: network.take_apart(network.cfg.num_stages))(model)


def forward(model: Nami, params: BlockParams, *args: Any, layout: Layout) -> jax.Array:
    """Runs the last stage."""
    return model(*args, stage=model.cfg.num_stages, layout=layout, params=params)


def compiled_forward(layout: Layout) -> Any:
    """Returns the jitted `forward`, with the compiler's options that the sampler has."""
    options = compiler_options(jax.devices()[0])
    return jax.jit(functools.partial(forward, layout=layout), compiler_options=options)


def difference(torch: Any, sizes: Sizes, layout: Layout) -> float:
    """Returns |ours - theirs| / |theirs| of networks of the same weights, a block of each kind deep."""
    cfg = dataclasses.replace(sizes.model, double_blocks=1, stage_single_blocks=(1,))
    theirs, given = flux(torch, cfg), inputs(cfg, sizes.side, sizes.text_tokens, batch=1)
    with torch.inference_mode():
        expected = theirs(**flux_arguments(torch, given, cfg.dtype)).sample.float().cpu().numpy()
    weights = {key: tensor.float().cpu().numpy() for key, tensor in theirs.state_dict().items()}
    ours = load_nami(cfg, weights, param_dtype=cfg.dtype)
    found = compiled_forward(layout)(ours, take_apart(ours), *our_arguments(given))
    return float(np.linalg.norm(pack(np.asarray(found)) - expected) / np.linalg.norm(expected))


def torch_seconds(torch: Any, model: Any, arguments: dict[str, Any], sizes: Sizes) -> float:
    """Returns the median seconds of a forward pass, timed as `queued` does."""
    finish = torch.cuda.synchronize if torch.cuda.is_available() else (lambda: None)
    taken = []
    with torch.inference_mode():
        for repeats in [1] + [sizes.repeats] * sizes.rounds:
            finish()
            begun = time.perf_counter()
            for _ in range(repeats):
                model(**arguments)
            finish()
            taken.append((time.perf_counter() - begun) / repeats)
    return float(np.median(taken[1:]))


def pytorch(sizes: Sizes) -> Iterator[Row]:
    """Measures ours with either attention, and PyTorch's, on the batches of guided sampling at the last stage."""
    import torch  # pyright: ignore[reportMissingImports]

    cfg = dataclasses.replace(sizes.model, stage_single_blocks=sizes.model.stage_single_blocks[-1:])
    error = difference(torch, sizes, layouts()["kernel"])
    yield {"what": "ours against PyTorch, one block of each kind", "error": error}
    tokens = cfg.image_tokens(sizes.side, sizes.side)[-1]
    flops = forward_flops(cfg, 1, tokens, sizes.text_tokens)

    def row(what: str, batch: int, seconds: float, first: float) -> Row:
        rate = batch * flops / seconds / 1e12
        return {"what": what, "rows": batch, "ms": seconds * 1e3, "TFLOP/s": rate, "first call s": first}

    batches = [2 * images for images in sizes.images]
    ours = random_network(cfg)
    params = take_apart(ours)
    for way, layout in layouts().items():
        for batch in batches if way == "kernel" else batches[:1]:
            run = compiled_forward(layout)
            arguments = our_arguments(inputs(cfg, sizes.side, sizes.text_tokens, batch))
            begun = time.perf_counter()
            jax.block_until_ready(run(ours, params, *arguments))
            first = time.perf_counter() - begun
            seconds = queued(run, ours, params, *arguments, rounds=sizes.rounds, repeats=sizes.repeats)
            yield row(f"ours, {way} attention", batch, seconds, first)
    del ours, params
    gc.collect()
    model = flux(torch, cfg)
    for how, run in (("eager", model), ("compiled", torch.compile(model, dynamic=False))):
        for batch in batches if how == "eager" else batches[:1]:
            arguments = flux_arguments(torch, inputs(cfg, sizes.side, sizes.text_tokens, batch), cfg.dtype)
            begun = time.perf_counter()
            with torch.inference_mode():
                run(**arguments).sample.float().sum().item()
            first = time.perf_counter() - begun
            yield row(f"PyTorch, {how}", batch, torch_seconds(torch, run, arguments, sizes), first)
