"""The network and the sampler against golden vectors of the released NAMI: relative errors, one by one."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from safetensors.numpy import load_file

from nami_jax.config import ConfigError, SampleConfig
from nami_jax.flow.schedule import Grid
from nami_jax.flow.solver import euler
from nami_jax.flow.transition import make_transition
from nami_jax.models.nami import Nami
from nami_jax.sampling.sampler import Guidance, Networks, guided_velocity, make_sampler, run_stage
from nami_jax.weights.nami_keys import load_bridge, load_nami, model_config

FILES = ("config.json", "transformer.safetensors", "bridge_flow.safetensors", "vectors.safetensors")


def relative_error(found: Any, expected: np.ndarray) -> float:
    """Returns |found - expected| / |expected| (Euclidean norms)."""
    return float(np.linalg.norm(np.asarray(found) - expected) / np.linalg.norm(expected))


def compare(folder: Path) -> Iterator[tuple[str, float]]:
    """Yields (vector's name, relative error) for every golden output in `folder`.

    Raises:
        ConfigError: a file is missing.
        WeightsError: the weights do not fit the configuration.
    """
    missing = [name for name in FILES if not (folder / name).is_file()]
    if missing:
        raise ConfigError(
            f"{folder}: {', '.join(missing)} not found. Use a folder laid out like tests/golden/nami_tiny."
        )
    config = json.loads((folder / "config.json").read_text())
    vectors = {k: _nhwc(v) for k, v in load_file(folder / "vectors.safetensors").items()}
    model = load_nami(model_config(config["transformer"]), load_file(folder / "transformer.safetensors"))
    # Accelerators multiply float32 in fewer bits unless told otherwise; this compares the mathematics, not that.
    with jax.default_matmul_precision("highest"):
        yield from _compare_forward(model, vectors)
        yield from _compare_sampling(model, folder, config, vectors)


def _compare_forward(model: Nami, vectors: dict[str, np.ndarray]) -> Iterator[tuple[str, float]]:
    forward = jax.jit(lambda model, *inputs, stage: model(*inputs, stage=stage), static_argnames="stage")
    for stage in range(1, model.cfg.num_stages + 1):
        name = f"forward.stage{stage}"
        inputs = (vectors[f"{name}.latents"], vectors[f"{name}.timestep"])
        velocity = forward(model, *inputs, vectors["forward.text_embeds"], vectors["forward.pooled"], stage=stage)
        yield f"{name}.velocity", relative_error(velocity, vectors[f"{name}.velocity"])


def _compare_sampling(
    model: Nami, folder: Path, config: dict, vectors: dict[str, np.ndarray]
) -> Iterator[tuple[str, float]]:
    """Follows the released run step by step, and once more with the sampler's own jitted stages."""
    networks = Networks(model, make_transition(load_bridge(load_file(folder / "bridge_flow.safetensors"))))
    scale = jnp.float32(config["guidance_scale"])
    sample = SampleConfig(tuple(config["steps"]), float(scale), grid="released")
    embeds, pooled = (
        np.concatenate([vectors[f"sample.{n}"], vectors[f"sample.negative_{n}"]]) for n in ("text_embeds", "pooled")
    )
    guidance, initial = Guidance((embeds, pooled), scale), jnp.asarray(vectors["sample.initial_latents"])
    stepped, whole = initial, initial
    for program, grid in make_sampler(model.cfg).programs(sample):
        stage = program.stage
        if program.before is not None:
            stepped = networks.transition(stepped, None, program.before)
        velocity = jax.jit(guided_velocity(model, guidance, stage))
        for i in range(len(grid.taus) - 1):
            name = f"sample.stage{stage.number}.step{i}"
            yield f"{name}.velocity", relative_error(velocity(stepped, grid.times[i]), vectors[f"{name}.velocity"])
            stepped = euler(velocity, stepped, Grid(grid.taus[i : i + 2], grid.times[i : i + 2]))
            yield f"{name}.latents", relative_error(stepped, vectors[f"{name}.latents"])
        whole = run_stage(program, networks, whole, None, guidance, grid)
    yield "sample.final_latents", relative_error(whole, vectors["sample.final_latents"])


def _nhwc(vector: np.ndarray) -> np.ndarray:
    """Golden latents are NCHW; all else keeps its layout."""
    return vector.transpose(0, 2, 3, 1) if vector.ndim == 4 else vector
