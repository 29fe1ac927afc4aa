import dataclasses
from typing import Any

import jax
import numpy as np
from flax import nnx
from flax.traverse_util import flatten_dict

from nami_jax.models import lora
from nami_jax.models.nami import Nami, abstract_model
from nami_jax.weights.adapter_keys import adapter_of, adapter_tensors, add_adapter, read_adapter
from tests.support.sizes import MODEL

ADAPTED = dataclasses.replace(MODEL, lora_rank=2)


def awake():
    params = nnx.to_pure_dict(nnx.state(Nami(ADAPTED, rngs=nnx.Rngs(0))))
    keys = iter(jax.random.split(jax.random.key(1), 200))
    return jax.tree.map(lambda p: p + 0.1 * jax.random.normal(next(keys), p.shape), params)


def test_pairs_add_to_the_kernels_what_merging_them_does_also_when_read_back():
    params = awake()
    low_rank, others = lora.split(params)
    plain = {path: np.asarray(leaf) for path, leaf in flatten_dict(others).items()}
    adapter = adapter_of(low_rank, MODEL, plain)
    again = read_adapter(adapter_tensors(adapter), MODEL, abstract_model(MODEL)[1], "here")
    merged: dict[Any, Any] = flatten_dict(lora.merge(params))
    for each in (adapter, again):
        kernels = {path: leaf.copy() for path, leaf in plain.items()}
        add_adapter(kernels, MODEL, each, 1.0)
        for path, leaf in merged.items():
            np.testing.assert_allclose(kernels[path], leaf, rtol=1e-5, atol=1e-6, err_msg=str(path))
    changed = sum(not np.array_equal(merged[path], leaf) for path, leaf in plain.items())
    assert changed == sum(path[-1] == "lora_a" for path in flatten_dict(low_rank))


def test_keys_are_those_of_diffusers():
    low_rank, others = lora.split(awake())
    tensors = adapter_tensors(adapter_of(low_rank, MODEL, flatten_dict(others)))
    width = MODEL.width
    assert tensors["transformer.transformer_blocks.0.attn.to_q.lora_A.weight"].shape == (2, width)
    assert tensors["transformer.transformer_blocks.0.ff.net.0.proj.lora_B.weight"].shape == (2 * width, 2)
    assert tensors["transformer.single_transformer_blocks.2.proj_out.lora_A.weight"].shape == (2, 3 * width)
