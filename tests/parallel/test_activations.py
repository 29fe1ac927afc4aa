"""Every way of spreading the network over eight devices computes what one device does."""

import dataclasses

import jax
import numpy as np
import pytest
from flax import nnx

from nami_jax.config import ConfigError, MeshConfig, SampleConfig
from nami_jax.flow.transition import Renoise
from nami_jax.parallel.activations import MeshLayout, require_layout
from nami_jax.parallel.sharding import make_mesh, path_name, shard_batch, state_shardings
from nami_jax.sampling.sampler import Request, make_sampler
from nami_jax.sampling.stage_programs import Networks
from nami_jax.training.step import init_state, make_train_step, train_shardings
from tests.models.test_nami import awake
from tests.sampling.test_sampler import text
from tests.support.sizes import MODEL, make_config
from tests.training.test_step import TOKENS, batches, null_states

MESHES = {
    "data": MeshConfig(),
    "fsdp": MeshConfig(fsdp=8),
    "tensor": MeshConfig(tensor=4),
    "sequence": MeshConfig(sequence=4),
    "fsdp, tensor": MeshConfig(fsdp=4, tensor=2),
    "data, tensor, sequence": MeshConfig(tensor=2, sequence=2),
    "fsdp, tensor, sequence": MeshConfig(fsdp=2, tensor=2, sequence=2),
}
# Wide enough to be cut eight ways, and awake: at their zero initialisation most gradients would vanish.
TWO_STAGES = {"num_heads": 4, "rope_axes": (2, 2, 4), "stage_single_blocks": (1, 2)}


def run(sizes: MeshConfig, devices=None, **model):
    """Takes a step; returns its loss, the first moments after it, which are its gradient, and the state."""
    cfg = make_config(
        mesh=dataclasses.asdict(sizes),
        model=TWO_STAGES | model,
        train={"stage_batches": ((8, 8),), "grad_clip": 1e9},
        sample={"steps": (2, 2)},
    )
    mesh = make_mesh(sizes, devices)
    state, step = init_state(cfg, mesh), make_train_step(cfg, mesh)
    awakened = nnx.to_pure_dict(nnx.state(awake(cfg.model)))
    state = dataclasses.replace(state, params=jax.device_put(awakened, train_shardings(cfg, mesh).params))
    state, metrics = step(state, shard_batch(batches(0, model=cfg.model)[1:], mesh), null_states(cfg.model))
    jax.clear_caches()  # as after each file (conftest.py): these programs are the suite's largest
    return float(metrics["loss"]), jax.device_get(state.opt[1].mu), state


@pytest.fixture(scope="module")
def on_one_device():
    return {
        scan: run(MeshConfig(), jax.devices()[:1], scan_blocks=scan, remat="full" if scan else "none")
        for scan in (False, True)
    }


# Each axis alone, and all together; pairs of them take as long again.
PAIRS = ("fsdp, tensor", "data, tensor, sequence")
CASES = [pytest.param(name, False, marks=pytest.mark.slow if name in PAIRS else ()) for name in MESHES]


@pytest.mark.parametrize(("name", "scan"), [*CASES, ("fsdp, tensor, sequence", True)])
def test_losses_and_gradients_are_those_of_one_device(on_one_device, name, scan):
    loss, gradients, _ = run(MESHES[name], scan_blocks=scan, remat="full" if scan else "none")
    expected_loss, expected, _ = on_one_device[scan]
    np.testing.assert_allclose(loss, expected_loss, rtol=1e-5)
    for (path, found), wanted in zip(
        jax.tree_util.tree_leaves_with_path(gradients), jax.tree.leaves(expected), strict=True
    ):
        assert np.abs(wanted).max() > 0, f"{path_name(path)} has no gradient to compare"
        np.testing.assert_allclose(found, wanted, atol=1e-5 * np.abs(wanted).max(), err_msg=path_name(path))


def test_layers_are_split_over_tensor_in_parameters_moments_and_ema():
    _, _, state = run(MeshConfig(fsdp=2, tensor=4))
    kernels = {path_name(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(state)}
    kernels = {name: leaf for name, leaf in kernels.items() if "blocks" in name and name.endswith("kernel")}
    assert {name.split("/")[0] for name in kernels} == {"params", "ema", "opt"}
    for name, leaf in kernels.items():
        assert leaf.addressable_shards[0].data.size == leaf.size // 8, f"{name} is not split over all devices"


@pytest.mark.parametrize(
    ("sizes", "count"),
    [(MeshConfig(), 3), (MeshConfig(sequence=4), 1), (MeshConfig(fsdp=2, tensor=2, sequence=2), 2)],
    ids=["over prompts", "over the tokens of one image", "over all"],
)
def test_sampling_on_a_mesh_draws_what_one_device_draws(sizes, count):
    model, mesh = awake(), make_mesh(sizes, jax.devices()[: 4 if sizes.sequence == 4 else 8])
    sample = SampleConfig((2, 1, 1), 2.0)
    request, states = Request(16, 32, seed=0, numbers=range(count)), (text(count, tokens=4), text(1, tokens=4))
    expected = make_sampler(MODEL)(Networks(model, Renoise()), *states, sample, request)
    placed = Networks(jax.device_put(model, state_shardings(model, mesh)), Renoise())
    found = make_sampler(MODEL, layout=MeshLayout(mesh))(placed, *states, sample, request)
    assert found.shape == expected.shape
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)


def test_tokens_that_cannot_be_shared_are_refused_with_what_can():
    cfg = make_config(mesh={"sequence": 8}, text={"max_length": 8})
    with pytest.raises(ConfigError, match=r"mesh\.sequence = 8: must divide the stages' \(4, 16, 64\).*Set 4"):
        require_layout(cfg, make_mesh(cfg.mesh))


def test_heads_that_cannot_be_shared_are_refused():
    cfg = make_config(mesh={"tensor": 4})
    with pytest.raises(ConfigError, match=r"mesh\.tensor = 4: must divide the 2 heads\. Set 2"):
        require_layout(cfg, make_mesh(cfg.mesh))
    assert MODEL.num_heads == 2
    assert TOKENS % 4 == 0


def test_a_layout_says_what_suits_its_devices():
    def said(sizes, devices=None):
        layout = MeshLayout(make_mesh(sizes, devices))
        return layout.platform, layout.alone, layout.takes_apart, layout.adds_products

    assert said(MeshConfig(), jax.devices()[:1]) == ("cpu", True, True, False)
    assert said(MeshConfig(fsdp=8)) == ("cpu", False, False, False)
    # Attention's heads and the MLP's channels are on other devices: side by side they would be exchanged.
    assert said(MeshConfig(tensor=4)) == ("cpu", False, False, True)
