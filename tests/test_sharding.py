import jax
import pytest
from jax.sharding import PartitionSpec as P

from nami_jax.config import ConfigError
from nami_jax.sharding import make_mesh, path_name, require_divisible, state_shardings
from nami_jax.train_step import init_state
from tests.sizes import MODEL, make_config


def test_mesh_spreads_all_devices_over_data_and_fsdp():
    assert dict(make_mesh(fsdp=2).shape) == {"data": 4, "fsdp": 2}


def test_fsdp_that_does_not_divide_the_devices_is_refused():
    with pytest.raises(ConfigError, match=r"train\.fsdp = 3: must divide the 8 devices"):
        make_mesh(fsdp=3)


def test_parameters_moments_and_ema_are_sharded_alike():
    state = init_state(make_config(train={"fsdp": 4}), make_mesh(fsdp=4))
    leaves = {path_name(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(state)}
    kernels = {name: leaf for name, leaf in leaves.items() if name.endswith("kernel")}
    assert {name.split("/")[0] for name in kernels} == {"params", "ema", "opt"}
    assert any("mu/" in name for name in kernels)
    assert any("nu/" in name for name in kernels)
    for name, leaf in kernels.items():
        assert leaf.addressable_shards[0].data.size == leaf.size // 4, f"{name} is not sharded"


def test_small_parameters_are_on_every_device():
    shardings = state_shardings(
        {"params": {"image_out": {"bias": jax.ShapeDtypeStruct((12,), "float32")}}}, make_mesh(8)
    )
    assert shardings["params"]["image_out"]["bias"].spec == P()


def test_width_that_cannot_be_split_is_refused_by_parameter():
    shape = jax.ShapeDtypeStruct((3, MODEL.width + 1, 8), "float32")
    with pytest.raises(ConfigError, match=r"single_blocks/proj/kernel \(3, 33, 8\) cannot be split"):
        state_shardings({"params": {"single_blocks": {"proj": {"kernel": shape}}}}, make_mesh(8))


def test_batch_that_cannot_be_split_over_devices_is_refused():
    with pytest.raises(ConfigError, match=r"\(32, 16, 4\): each stage's images must split evenly over 8 devices"):
        require_divisible("train.stage_batches", ((32, 16, 8), (32, 16, 4)), make_mesh())
