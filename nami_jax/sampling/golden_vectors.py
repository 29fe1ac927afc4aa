"""The network and the sampler against golden vectors of the released NAMI: relative errors, one by one."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from nami_jax.config import ConfigError, ModelConfig, SampleConfig, Settings, require
from nami_jax.config.settings import Side, settings
from nami_jax.files.json_files import read_json
from nami_jax.flow.schedule import Grid
from nami_jax.flow.solver import euler
from nami_jax.flow.transition import make_transition
from nami_jax.models.nami import Nami
from nami_jax.sampling.sampler import make_sampler
from nami_jax.sampling.stage_programs import Networks, run_stage
from nami_jax.sampling.velocity import Guidance, stage_velocity
from nami_jax.weights import TensorShapes, open_tensors, require_tensors
from nami_jax.weights.nami_keys import bridge_shapes, load_bridge, load_nami, model_config

FILES = ("config.json", "transformer.safetensors", "bridge_flow.safetensors", "vectors.safetensors")

REMEDY = "Use a folder laid out like tests/golden/nami_tiny"


@settings(remedy=REMEDY)
class GoldenConfig(Settings):
    """What is read of a folder's config.json."""

    transformer: dict[str, Any]  # its config.json
    steps: tuple[int, ...]  # solver steps of the sampling run, by stage
    guidance_scale: float
    final_latent_size: Side  # height and width, latents


def relative_error(found: Any, expected: np.ndarray) -> float:
    """Returns |found - expected| / |expected| (Euclidean norms)."""
    return float(np.linalg.norm(np.asarray(found) - expected) / np.linalg.norm(expected))


def compare(folder: Path) -> Iterator[tuple[str, float]]:
    """Yields (vector's name, relative error) for every golden output in `folder`.

    Raises:
        ConfigError: a file is missing, or config.json is damaged or not one of a NAMI.
        WeightsError: the weights or the vectors are damaged, or do not fit the configuration.
    """
    missing = [name for name in FILES if not (folder / name).is_file()]
    if missing:
        raise ConfigError(f"{folder}: {', '.join(missing)} not found. {REMEDY}.")
    config = GoldenConfig.pick(read_json(folder / "config.json", REMEDY))
    cfg = model_config(config.transformer)
    sample = SampleConfig(config.steps, config.guidance_scale, grid="released")
    require(
        len(sample.steps) == cfg.num_stages,
        field="steps",
        value=sample.steps,
        rule=f"the network has {cfg.num_stages} stages",
        remedy=REMEDY,
    )
    unit = 2 ** (cfg.num_stages - 1)
    require(
        config.final_latent_size % unit == 0,
        field="final_latent_size",
        value=config.final_latent_size,
        rule=f"must be a multiple of {unit}",
        remedy=REMEDY,
    )
    stored, jumps = (open_tensors(folder / name) for name in ("vectors.safetensors", "bridge_flow.safetensors"))
    shapes = {name: tensor.shape for name, tensor in stored.items()}
    require_tensors(vector_shapes(cfg, sample, config.final_latent_size, shapes), shapes, unused=shapes)
    found = {name: tensor.shape for name, tensor in jumps.items()}
    require_tensors(bridge_shapes(found, cfg), found)
    vectors = {name: _nhwc(tensor[...]) for name, tensor in stored.items()}
    model = load_nami(cfg, open_tensors(folder / "transformer.safetensors"))
    networks = Networks(model, make_transition(load_bridge(jumps)))
    # Accelerators multiply float32 in fewer bits unless told otherwise; this compares the mathematics, not that.
    with jax.default_matmul_precision("highest"):
        yield from _compare_forward(model, vectors)
        yield from _compare_sampling(networks, sample, vectors)


def vector_shapes(cfg: ModelConfig, sample: SampleConfig, side: int, found: TensorShapes) -> TensorShapes:
    """Returns the shapes of all vectors, latents as (B, C, H, W).

    Args:
        cfg: the network.
        sample: the settings of the sampling run.
        side: of the final latents.
        found: gives the numbers of images and of tokens, which are free.
    """
    shapes: dict[str, tuple[int, ...]] = {}
    sides = [side // 2 ** (cfg.num_stages - stage) for stage in range(1, cfg.num_stages + 1)]
    for run, negatives in (("forward", [""]), ("sample", ["", "negative_"])):
        count, tokens, *_ = (*found.get(f"{run}.text_embeds", ()), 1, 1)
        latents = {stage: (count, cfg.channels, side, side) for stage, side in enumerate(sides, 1)}
        for which in negatives:
            shapes[f"{run}.{which}text_embeds"] = (count, tokens, cfg.text_dim)
            shapes[f"{run}.{which}pooled"] = (count, cfg.pooled_dim)
        if run == "sample":
            shapes |= {"sample.initial_latents": latents[1], "sample.final_latents": latents[cfg.num_stages]}
        for stage, steps in enumerate(sample.steps, 1):
            if run == "forward":
                shapes[f"forward.stage{stage}.timestep"] = (count,)
            prefixes = [f"{run}.stage{stage}"]
            prefixes = prefixes if run == "forward" else [f"{prefixes[0]}.step{i}" for i in range(steps)]
            shapes |= {f"{prefix}.{name}": latents[stage] for prefix in prefixes for name in ("latents", "velocity")}
    return shapes


def _compare_forward(model: Nami, vectors: dict[str, np.ndarray]) -> Iterator[tuple[str, float]]:
    forward = jax.jit(lambda model, *inputs, stage: model(*inputs, stage=stage), static_argnames="stage")
    for stage in range(1, model.cfg.num_stages + 1):
        name = f"forward.stage{stage}"
        inputs = (vectors[f"{name}.latents"], vectors[f"{name}.timestep"])
        velocity = forward(model, *inputs, vectors["forward.text_embeds"], vectors["forward.pooled"], stage=stage)
        yield f"{name}.velocity", relative_error(velocity, vectors[f"{name}.velocity"])


def _compare_sampling(
    networks: Networks, sample: SampleConfig, vectors: dict[str, np.ndarray]
) -> Iterator[tuple[str, float]]:
    """Follows the released run step by step, and once more with the sampler's own jitted stages."""
    model, scale = networks.model, jnp.float32(sample.guidance_scale)
    embeds, pooled = (
        np.concatenate([vectors[f"sample.{n}"], vectors[f"sample.negative_{n}"]]) for n in ("text_embeds", "pooled")
    )
    guidance, initial = Guidance((embeds, pooled), scale), jnp.asarray(vectors["sample.initial_latents"])
    stepped, whole = initial, initial
    for program, grid in make_sampler(model.cfg).programs(sample):
        stage = program.stage
        if program.before is not None:
            stepped = networks.transition(stepped, None, program.before)
        velocity = jax.jit(stage_velocity(model, guidance, program, guided=True).__call__)
        for i in range(len(grid.taus) - 1):
            name = f"sample.stage{stage.number}.step{i}"
            yield f"{name}.velocity", relative_error(velocity(stepped, grid.times[i]), vectors[f"{name}.velocity"])
            stepped = euler(velocity, stepped, Grid(grid.taus[i : i + 2], grid.times[i : i + 2]))
            yield f"{name}.latents", relative_error(stepped, vectors[f"{name}.latents"])
        whole = run_stage(program, networks, whole, None, guidance, grid).x
    yield "sample.final_latents", relative_error(whole, vectors["sample.final_latents"])


def _nhwc(vector: np.ndarray) -> np.ndarray:
    """Golden latents are NCHW; all else keeps its layout."""
    return vector.transpose(0, 2, 3, 1) if vector.ndim == 4 else vector
