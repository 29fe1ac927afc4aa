import dataclasses
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from configs import presets
from nami_jax.models.attention import splash_attention
from nami_jax.models.layout import Layout
from nami_jax.models.nami import Nami, abstract_model
from tests.support.sizes import MODEL


def inputs(stage: int, batch: int = 2):
    keys = jax.random.split(jax.random.key(stage), 4)
    side = 16 // 2 ** (3 - stage)
    return (
        jax.random.normal(keys[0], (batch, side, side, 3)),
        jax.random.uniform(keys[1], (batch,)),
        jax.random.normal(keys[2], (batch, 5, MODEL.text_dim)),
        jax.random.normal(keys[3], (batch, MODEL.pooled_dim)),
    )


def awake(cfg=MODEL, seed: int = 0) -> Nami:
    """A network without its zero initialisation, under which every output would be 0."""
    graphdef, shapes = abstract_model(cfg)
    leaves, tree = jax.tree.flatten(shapes)
    keys = jax.random.split(jax.random.key(seed), len(leaves))
    values = [0.2 * jax.random.normal(key, leaf.shape) for key, leaf in zip(keys, leaves, strict=True)]
    return nnx.merge(graphdef, jax.tree.unflatten(tree, values))


@partial(jax.jit, static_argnames="stage")
def velocity_of(model: Nami, *given: jax.Array, stage: int) -> jax.Array:
    """Calls the network as one program: its operations one by one are hundreds."""
    return model(*given, stage=stage)


def parameter_count(cfg) -> int:
    return sum(leaf.size for leaf in jax.tree.leaves(abstract_model(cfg)[1]))


@pytest.mark.parametrize(("stage", "billions"), [(1, 1.30), (2, 1.74), (3, 2.118)])
def test_nami_2b_has_the_published_number_of_active_parameters(stage, billions):
    cfg = dataclasses.replace(presets.NAMI_2B, stage_single_blocks=presets.NAMI_2B.stage_single_blocks[:stage])
    assert parameter_count(cfg) / 1e9 == pytest.approx(billions, abs=0.005 if stage < 3 else 0.0005)


def test_nami_0_6b_has_its_published_size():
    assert parameter_count(presets.NAMI_0_6B) / 1e9 == pytest.approx(0.64, abs=0.005)


@pytest.mark.parametrize("stage", [1, 2, 3])
def test_a_new_network_predicts_zero_at_every_stage(stage):
    model = Nami(MODEL, rngs=nnx.Rngs(0))
    velocity = velocity_of(model, *inputs(stage), stage=stage)
    assert velocity.dtype == jnp.float32
    np.testing.assert_array_equal(velocity, jnp.zeros_like(inputs(stage)[0]))


@pytest.mark.parametrize("stage", [1, 2])
def test_a_stage_is_the_network_with_its_single_blocks_cut(stage):
    model = awake()
    cut = dataclasses.replace(MODEL, stage_single_blocks=(MODEL.stage_single_blocks[stage - 1],))
    graphdef, _ = abstract_model(cut)
    params = nnx.to_pure_dict(nnx.state(model))
    params["single_blocks"] = jax.tree.map(lambda p: p[: cut.stage_single_blocks[0]], params["single_blocks"])
    expected = velocity_of(nnx.merge(graphdef, params), *inputs(stage), stage=1)
    np.testing.assert_allclose(velocity_of(model, *inputs(stage), stage=stage), expected, rtol=1e-6)


def test_later_blocks_change_only_later_stages():
    model = awake()
    before = [velocity_of(model, *inputs(k), stage=k) for k in (1, 2, 3)]
    kernel = model.single_blocks.proj.kernel  # pyright: ignore
    kernel[...] = kernel[...].at[2].multiply(2.0)  # the third block, which stage 3 alone runs
    after = [velocity_of(model, *inputs(k), stage=k) for k in (1, 2, 3)]
    np.testing.assert_array_equal(before[0], after[0])
    np.testing.assert_array_equal(before[1], after[1])
    assert not np.allclose(before[2], after[2])


@pytest.mark.parametrize(
    "way",
    [
        {"scan_blocks": True},
        {"remat": "full"},
        {"remat": "keep_attention"},
        *({"scan_blocks": True, "remat": remat} for remat in ("full", "keep_attention", "keep_matmuls")),
    ],
)
def test_scan_and_remat_change_neither_values_nor_gradients(way):
    plain, other = awake(), awake(dataclasses.replace(MODEL, **way))

    def loss(model):
        return jnp.mean(jnp.square(model(*inputs(3), stage=3)))

    for expected, found in zip(
        jax.tree.leaves(jax.jit(jax.value_and_grad(loss))(plain)),
        jax.tree.leaves(jax.jit(jax.value_and_grad(loss))(other)),
        strict=True,
    ):
        # Scanned and unrolled sums round differently; 1e-5 of the largest gradient is a few units in the last place.
        np.testing.assert_allclose(found, expected, atol=1e-5 * max(float(jnp.abs(expected).max()), 1e-6))


def test_scanned_program_does_not_grow_with_depth():
    def lines(singles):
        cfg = dataclasses.replace(MODEL, stage_single_blocks=(singles,), scan_blocks=True)
        graphdef, shapes = abstract_model(cfg)
        run = jax.jit(lambda params, *args: nnx.merge(graphdef, params)(*args, stage=1))
        return len(run.lower(shapes, *inputs(3)).as_text().splitlines())

    assert lines(12) == lines(2)


def test_tokens_know_where_they_stand():
    # Without positions, swapping two patches of the input would only swap them in the output.
    model = awake()
    latents, *rest = inputs(3)
    swapped = jnp.concatenate([latents[:, 8:], latents[:, :8]], axis=1)
    velocity = velocity_of(model, latents, *rest, stage=3)
    moved = velocity_of(model, swapped, *rest, stage=3)
    assert not np.allclose(jnp.concatenate([velocity[:, 8:], velocity[:, :8]], axis=1), moved, rtol=1e-2)


def test_height_and_width_are_not_confused():
    model = awake()
    latents, *rest = inputs(3)
    velocity = velocity_of(model, latents[:, :4], *rest, stage=3)
    assert velocity.shape == (2, 4, 16, 3)


def test_bfloat16_stays_near_float32():
    low = velocity_of(awake(dataclasses.replace(MODEL, dtype="bfloat16")), *inputs(3), stage=3)
    full = velocity_of(awake(), *inputs(3), stage=3)
    assert low.dtype == jnp.float32
    # bfloat16 keeps 8 bits: a few roundings of 2^-9 each.
    assert float(jnp.linalg.norm(low - full) / jnp.linalg.norm(full)) < 2e-2


class As(Layout):
    """One device that computes as another platform would, with the attention of this one."""

    def __init__(self, platform: str, alone: bool):
        self.chosen = platform, alone

    platform = property(lambda self: self.chosen[0])
    alone = property(lambda self: self.chosen[1])


@pytest.mark.parametrize("scan_blocks", [False, True])
@pytest.mark.parametrize("lora_rank", [None, 2])
@pytest.mark.parametrize("alone", [False, True])
@pytest.mark.parametrize("platform", ["cpu", "gpu", "tpu"])
def test_every_platform_computes_the_same(platform, alone, lora_rank, scan_blocks):
    def velocity(layout, apart):
        model = awake(dataclasses.replace(MODEL, scan_blocks=scan_blocks, lora_rank=lora_rank))
        return jax.jit(
            lambda model, *given: model(*given, stage=2, layout=layout, params=model.take_apart(2) if apart else None)
        )(model, *inputs(2))

    expected = velocity(As("tpu", alone=False), apart=False)
    assert jnp.std(expected) > 0.1
    for apart in (False, True):
        np.testing.assert_allclose(velocity(As(platform, alone), apart), expected, rtol=1e-4, atol=1e-5)


class KernelLayout(Layout):
    platform = "tpu"  # pyright: ignore[reportAssignmentType]

    def attention(self, q, k, v):
        return splash_attention(q, k, v, interpret=True)


@pytest.mark.parametrize(
    ("remat", "kernels", "products"),
    [("none", 0, 0), ("full", 1, 7), ("keep_attention", 0, 7), ("keep_matmuls", 0, 0)],
)
def test_the_backward_pass_runs_again_what_is_not_kept(remat, kernels, products):
    def counts(remat):
        cfg = dataclasses.replace(
            MODEL, rope_axes=(32, 48, 48), double_blocks=0, stage_single_blocks=(1,), remat=remat, scan_blocks=True
        )
        graphdef, shapes = abstract_model(cfg)

        def loss(params, *args):
            return nnx.merge(graphdef, params)(*args, stage=1, layout=KernelLayout()).sum()

        jaxpr = str(jax.make_jaxpr(jax.grad(loss))(shapes, *inputs(1)))
        return np.array([jaxpr.count("= pallas_call["), jaxpr.count("= dot_general[")])

    # Of a single block: the kernel, and the products that give queries, keys and values, turn two of them on TPUs, and
    # give MLP and result.
    assert (counts(remat) - counts("none")).tolist() == [kernels, products]
