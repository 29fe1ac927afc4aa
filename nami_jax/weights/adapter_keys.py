"""Low-rank pairs (LoRA) under the keys that diffusers and PEFT give those of a FLUX transformer.

A tensor `transformer_blocks.0.attn.to_q.weight` (outputs, inputs) has `….to_q.lora_A.weight` (r, inputs) and
`….to_q.lora_B.weight` (outputs, r): what is added to it is their product B A, times alpha / r where the file has an
`….to_q.alpha`. Our queries, keys and values are one layer, whose pair has one A for the three.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from flax.traverse_util import flatten_dict

from nami_jax.config import ModelConfig
from nami_jax.weights.nami_keys import nami_slots
from nami_jax.weights.slots import ParamPath, Slot, expected_shapes
from nami_jax.weights.tensors import Tensor, WeightsError

PREFIX = "transformer."  # of every key in a file of diffusers
DOWN, UP, ALPHA = ".lora_A.weight", ".lora_B.weight", ".alpha"
MOST_TOLD = 5  # keys named in a message


class Pair(NamedTuple):
    """What is added to one released tensor: up @ down."""

    down: np.ndarray  # (r, inputs) float32
    up: np.ndarray  # (outputs, r) float32, times alpha / r


Adapter = Mapping[str, Pair]  # by the released key of the tensor, without ".weight"


def adapter_of(low_rank: Any, cfg: ModelConfig, kernels: Mapping[ParamPath, Any]) -> Adapter:
    """Returns the pairs of a run's low-rank parameters.

    Args:
        low_rank: nested dicts, as `lora.split` gives them.
        cfg: the network.
        kernels: parameters by path, of which the shapes count.
    """
    flat: dict[ParamPath, Any] = flatten_dict(low_rank)
    pairs = {}
    for key, slot in nami_slots(cfg).items():
        layer = slot.path[:-2] if slot.path[-2] == "linear" else slot.path[:-1]
        down, up = (flat.get((*layer, "lora", name)) for name in ("lora_a", "lora_b"))
        if slot.path[-1] != "kernel" or down is None or up is None:
            continue
        block, *part = slot.index
        down, up = (np.asarray(each[block], np.float32) for each in (down, up))  # (I, r), (r, ...)
        outputs = up.reshape(len(up), *kernels[slot.path].shape[2:])
        up = outputs[(slice(None), *part[1:])].reshape(len(up), -1)
        pairs[key.removesuffix(".weight")] = Pair(np.ascontiguousarray(down.T), np.ascontiguousarray(up.T))
    return pairs


def adapter_tensors(adapter: Adapter) -> dict[str, np.ndarray]:
    """Returns an adapter as diffusers' `load_lora_adapter` reads it; `read_adapter` undoes it."""
    pairs = [(f"{PREFIX}{key}", pair) for key, pair in adapter.items()]
    return {f"{key}{DOWN}": pair.down for key, pair in pairs} | {f"{key}{UP}": pair.up for key, pair in pairs}


def read_adapter(tensors: Mapping[str, Tensor], cfg: ModelConfig, abstract: Any, source: Any) -> Adapter:
    """Reads an adapter's file.

    Args:
        tensors: of the file.
        cfg: the network that it is for.
        abstract: that network's parameters, nested dicts, of which the shapes count.
        source: where it is from, for messages.

    Raises:
        WeightsError: a key is not of a low-rank pair of this network, half a pair is missing, or shapes do not fit.
    """
    found = {key.removeprefix(PREFIX): tensor for key, tensor in tensors.items()}
    shapes, pairs, problems = expected_shapes(nami_slots(cfg), abstract), {}, []
    names = {key.removesuffix(end) for key in found for end in (DOWN, UP, ALPHA) if key.endswith(end)}
    problems += [f"{key}: no part of a low-rank pair" for key in found if not key.endswith((DOWN, UP, ALPHA))]
    for name in sorted(names):
        down, up, alpha = (found.get(name + end) for end in (DOWN, UP, ALPHA))
        wanted = shapes.get(f"{name}.weight")
        if wanted is None or down is None or up is None:
            problems.append(f"{name}: {'no layer of this network' if wanted is None else 'half of a pair is missing'}")
        elif (*up.shape[:1], *down.shape[1:]) != tuple(wanted) or down.shape[0] != up.shape[1]:
            problems.append(f"{name}: {up.shape} times {down.shape}, the layer has {wanted}")
        else:
            factor = 1.0 if alpha is None else float(alpha[...].reshape(())) / down.shape[0]
            pairs[name] = Pair(np.asarray(down[...], np.float32), np.asarray(up[...], np.float32) * np.float32(factor))
    if problems or not pairs:
        listed = "\n  ".join([*problems[:MOST_TOLD], *(["..."] if problems[MOST_TOLD:] else [])]) or "no pairs"
        raise WeightsError(f"{source} is no adapter of this network; use one that was trained on it:\n  {listed}")
    if not all(np.isfinite(part).all() for pair in pairs.values() for part in pair):
        raise WeightsError(f"{source} has numbers that are not finite. Fetch it again, or use an earlier checkpoint.")
    return pairs


def adapted_slots(cfg: ModelConfig, adapter: Adapter) -> dict[str, Slot]:
    """Returns where each layer of an adapter has its kernel."""
    slots = nami_slots(cfg)
    return {key: slots[f"{key}.weight"] for key in adapter}


def add_adapter(kernels: Mapping[ParamPath, np.ndarray], cfg: ModelConfig, adapter: Adapter, scale: float) -> None:
    """Adds an adapter, times `scale`, to kernels in place: float32, by path, in our layout (inputs, outputs)."""
    for key, slot in adapted_slots(cfg, adapter).items():
        kernel, pair = kernels[slot.path][slot.index], adapter[key]
        kernel += np.float32(scale) * (pair.up @ pair.down).T.reshape(kernel.shape)
