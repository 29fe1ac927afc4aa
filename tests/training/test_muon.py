import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import optax.contrib
import pytest
from flax.traverse_util import flatten_dict

from nami_jax.config import ConfigError
from nami_jax.models.nami import abstract_model
from nami_jax.parallel.sharding import path_name
from nami_jax.training.muon import RMS, as_matrices, muon_flops, scale_by_muon_or_adam
from nami_jax.training.state import make_optimizer
from tests.support.sizes import MODEL, TRAIN, make_config

MUON = dataclasses.replace(TRAIN, optimizer="muon")
D, N, H = MODEL.width, MODEL.num_heads, MODEL.head_dim
SHAPES = abstract_model(MODEL)[1]
HIDDEN = MODEL.mlp_ratio * D


def draw(seed: int) -> Any:
    """Returns numbers in the shapes of the network's parameters."""
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda x: jnp.asarray(rng.normal(size=x.shape), jnp.float32), SHAPES)


def direction(cfg=MUON, steps: int = 1, draw: Any = draw) -> tuple[dict[str, Any], Any]:
    """Returns the updates after some steps, by the parameters' names, and the optimizer's state."""
    transform = scale_by_muon_or_adam(cfg)
    state, updates, update = transform.init(draw(0)), {}, jax.jit(transform.update)
    for step in range(steps):
        updates, state = update(draw(step), state)
    return flat(updates), state


def flat(tree: Any) -> dict[str, Any]:
    return flatten_dict(tree, sep="/")


def in_matrices(parameters):
    """Cuts the blocks' kernels by hand: (name, layer, number) -> (inputs, outputs)."""
    found = {}
    for name, kernel in parameters.items():
        if "blocks" not in name or not name.endswith("kernel"):
            continue
        for layer, one in enumerate(kernel):
            if "qkv" in name:
                parts = [one[:, i].reshape(D, N * H) for i in range(3)]
            elif "modulation" in name:
                parts = [one[:, start : start + D] for start in range(0, one.shape[1], D)]
            else:
                parts = [one]
            found |= {(name, layer, i): part for i, part in enumerate(parts)}
    return found


def test_a_kernel_is_cut_into_the_matrices_that_it_consists_of():
    shapes = {
        path_name(path): as_matrices(path, jnp.zeros(leaf.shape)).shape
        for path, leaf in jax.tree_util.tree_leaves_with_path({name: SHAPES[name] for name in SHAPES if "b" in name})
        if path_name(path).split("/")[0].endswith("blocks") and path_name(path).endswith("kernel")
    }
    streams = {f"double_blocks/{stream}/{part}/kernel": shape for stream in ("image", "text") for part, shape in {
        "modulation/linear": (1, D, 6, D), "qkv/linear": (1, D, 3, D), "proj": (1, D, 1, D),
        "mlp_in": (1, D, 1, HIDDEN), "mlp_out": (1, HIDDEN, 1, D),
    }.items()}  # fmt: skip
    singles = {f"single_blocks/{part}/kernel": shape for part, shape in {
        "modulation/linear": (3, D, 3, D), "qkv/linear": (3, D, 3, D), "proj": (3, D + HIDDEN, 1, D),
        "mlp_in": (3, D, 1, HIDDEN),
    }.items()}  # fmt: skip
    assert shapes == streams | singles


def test_each_matrix_moves_as_optax_moves_it_alone():
    found = in_matrices(direction(steps=3)[0])
    names = [str(key) for key in found]
    alone = optax.contrib.muon(1.0, beta=MUON.muon_momentum, consistent_rms=RMS)
    update = jax.jit(alone.update)
    state: Any = None
    updates: Any = {}
    for step in range(3):
        grads: Any = dict(zip(names, in_matrices(flat(draw(step))).values(), strict=True))
        state = alone.init(grads) if state is None else state
        updates, state = update(grads, state, grads)
    assert len(found) == 2 * (6 + 3 + 3) + 3 * (3 + 3 + 2)
    for name, update in zip(names, found.values(), strict=True):
        np.testing.assert_allclose(update, -updates[name], rtol=2e-3, atol=2e-4, err_msg=name)  # it descends


def test_singular_values_are_near_1_before_a_matrix_is_brought_to_its_length():
    for name, update in in_matrices(direction()[0]).items():
        values = np.linalg.svd(update / (RMS * max(update.shape) ** 0.5), compute_uv=False)
        # Five steps of the quintic leave them within 0.68 and 1.13, but for the few that were nearly 0.
        assert np.median(values) == pytest.approx(0.9, abs=0.25), name
        assert values.max() < 1.25, name
        # So the entries have Adam's size whatever the matrix's shape.
        assert float(jnp.sqrt(jnp.mean(update**2))) == pytest.approx(RMS, rel=0.25), name


def test_no_matrix_feels_the_size_of_another_one_s_gradient():
    def scaled(seed):
        grads = draw(seed)
        kernel = grads["single_blocks"]["qkv"]["linear"]["kernel"]
        grads["single_blocks"]["qkv"]["linear"]["kernel"] = kernel.at[1, :, 2].multiply(1e3)
        return grads

    plain, other = in_matrices(direction()[0]), in_matrices(direction(draw=scaled)[0])
    for name, update in plain.items():
        np.testing.assert_allclose(other[name], update, atol=2e-4, err_msg=str(name))


def test_all_but_the_blocks_kernels_move_by_adam():
    updates, state = direction(steps=2)
    adam = optax.scale_by_adam(b1=MUON.adam_b1, b2=MUON.adam_b2)
    expected, moments = None, adam.init(draw(0))
    for step in range(2):
        expected, moments = adam.update(draw(step), moments)
    wanted = flat(expected)
    others = {name for name in wanted if not ("blocks/" in name and name.endswith("kernel"))}
    assert {name.split("/")[0] for name in others if name.endswith("kernel")} == {
        "image_in", "text_in", "time_in", "pooled_in", "modulation", "image_out",
    }  # fmt: skip
    for name in others:
        np.testing.assert_allclose(updates[name], wanted[name], rtol=1e-6, err_msg=name)
    # One moment of the matrices, two of the rest, in the parameters' own shapes.
    sizes = {name: x.shape for name, x in flat(SHAPES).items()}
    held: dict[str, list[str]] = {}
    for path, leaf in jax.tree_util.tree_leaves_with_path(state):
        moment, _, name = path_name(path).split("inner_state/")[1].partition("/")
        if name:
            assert leaf.shape == sizes[name]
            held.setdefault(name, []).append(moment)
    assert held == {name: (["mu", "nu"] if name in others else ["mu"]) for name in sizes}


def test_momentum_and_first_moment_alone_are_kept_in_bfloat16():
    short = dataclasses.replace(MUON, first_moment_dtype="bfloat16")
    (found, state), (full, _) = direction(short), direction()
    for path, leaf in jax.tree_util.tree_leaves_with_path(state):
        name = path_name(path)
        if "/mu/" in name or "/nu/" in name:
            assert leaf.dtype == ("bfloat16" if "/mu/" in name else "float32"), name
    for name, update in found.items():
        np.testing.assert_allclose(update, full[name], atol=0.02, err_msg=name)


def test_a_gradient_of_0_moves_nothing():
    updates, _ = direction(draw=lambda _: jax.tree.map(jnp.zeros_like, draw(0)))
    for name, update in updates.items():
        np.testing.assert_array_equal(update, 0, err_msg=name)


def test_weight_decay_and_clipping_are_those_of_adamw():
    params = draw(3)
    zeros = jax.tree.map(jnp.zeros_like, params)
    decaying = make_optimizer(dataclasses.replace(MUON, weight_decay=0.1)).transform
    updates: Any = jax.jit(decaying.update)(zeros, decaying.init(params), params)[0]
    qkv = updates["single_blocks"]["qkv"]["linear"]
    np.testing.assert_allclose(qkv["kernel"], 0.1 * params["single_blocks"]["qkv"]["linear"]["kernel"], rtol=1e-6)
    np.testing.assert_array_equal(qkv["bias"], 0)
    clipping = make_optimizer(dataclasses.replace(MUON, grad_clip=1.0)).transform
    state: Any = jax.jit(clipping.update)(params, clipping.init(params), params)[1]
    moments = state[1].inner_states["muon"].inner_state.mu["single_blocks"]["qkv"]["linear"]["kernel"]
    clipped = params["single_blocks"]["qkv"]["linear"]["kernel"] / optax.tree.norm(params)
    np.testing.assert_allclose(moments, (1 - MUON.muon_momentum) * clipped, rtol=1e-4)


def test_low_rank_pairs_are_not_trained_by_muon():
    with pytest.raises(ConfigError, match=r"train\.optimizer = 'muon': Muon trains the blocks' kernels, which LoRA"):
        make_config(model={"lora_rank": 2}, train={"optimizer": "muon", "init_from": "weights"})


def test_flops_are_those_of_five_iterations_on_each_matrix():
    def shapes(*shape: int) -> Any:
        return {
            "kernel": jax.ShapeDtypeStruct(shape, jnp.float32),
            "bias": jax.ShapeDtypeStruct(shape[-1:], jnp.float32),
        }

    blocks = {"double_blocks": {"qkv": shapes(2, D, 3, N, H)}, "single_blocks": {"proj": shapes(1, D + HIDDEN, D)}}
    square, long = 6 * D**3, 4 * D**2 * (D + HIDDEN) + 2 * D**3
    assert muon_flops(blocks | {"final": shapes(D, 12)}) == 5 * (2 * 3 * square + long)
