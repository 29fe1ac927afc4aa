import jax
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

from nami_jax.config import ConfigError, MeshConfig
from nami_jax.parallel.host_shard import HostShard
from nami_jax.parallel.sharding import (
    host_shard,
    make_mesh,
    path_name,
    require_divisible,
    shard_batch,
    state_shardings,
)
from nami_jax.training.step import init_state
from tests.support.sizes import MODEL, make_config


def test_mesh_gives_data_the_devices_that_other_axes_leave():
    assert dict(make_mesh().shape) == {"data": 8, "fsdp": 1, "tensor": 1, "sequence": 1}
    sizes = MeshConfig(fsdp=2, sequence=2)
    assert dict(make_mesh(sizes).shape) == {"data": 2, "fsdp": 2, "tensor": 1, "sequence": 2}


def test_axes_that_do_not_divide_the_devices_are_refused():
    with pytest.raises(ConfigError, match=r"mesh\.fsdp = 3: must divide the 8 devices\. Set 1"):
        make_mesh(MeshConfig(fsdp=3))
    with pytest.raises(ConfigError, match=r"mesh\.tensor = 4: must divide the 2 devices that the axes before it leave"):
        make_mesh(MeshConfig(fsdp=4, tensor=4))


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_parameters_moments_and_ema_are_sharded_alike(optimizer):
    cfg = make_config(mesh={"fsdp": 4}, train={"optimizer": optimizer})
    state = init_state(cfg, make_mesh(MeshConfig(fsdp=4)))
    leaves = {path_name(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(state)}
    kernels = {name: leaf for name, leaf in leaves.items() if name.endswith("kernel")}
    assert {name.split("/")[0] for name in kernels} == {"params", "ema", "opt"}
    moments = ("mu", "nu") if optimizer == "adamw" else ("mu",)
    for part in ("double_blocks/image/modulation/linear", "single_blocks/qkv/linear"):
        of = {name for name in kernels if name.startswith("opt") and name.endswith(f"{part}/kernel")}
        assert {name.removesuffix(f"/{part}/kernel").split("/")[-1] for name in of} == set(moments)
    assert any("nu/" in name for name in kernels)
    for name, leaf in kernels.items():
        assert leaf.addressable_shards[0].data.size == leaf.size // 4, f"{name} is not sharded"


def test_small_parameters_are_on_every_device():
    shardings = state_shardings(
        {"params": {"image_out": {"bias": jax.ShapeDtypeStruct((12,), "float32")}}}, make_mesh(MeshConfig(fsdp=8))
    )
    assert shardings["params"]["image_out"]["bias"].spec == P()


def test_width_that_cannot_be_split_is_refused_by_parameter():
    shape = jax.ShapeDtypeStruct((3, 8, MODEL.width + 1), "float32")
    with pytest.raises(ConfigError, match=r"mesh\.fsdp = 8: .*single_blocks/proj/kernel \(3, 8, 33\) cannot be split"):
        state_shardings({"params": {"single_blocks": {"proj": {"kernel": shape}}}}, make_mesh(MeshConfig(fsdp=8)))


def test_a_process_holds_every_part_of_the_batch_on_its_devices():
    assert host_shard(make_mesh(MeshConfig(fsdp=2, tensor=2))) == HostShard((0, 1, 2, 3), 4)
    assert host_shard(make_mesh(MeshConfig(tensor=2, sequence=4))) == HostShard((0,), 1)


@pytest.mark.parametrize("sizes", [MeshConfig(), MeshConfig(fsdp=2, tensor=2), MeshConfig(sequence=8)])
def test_batch_lies_on_the_devices_row_by_row(sizes):
    rows = np.arange(32.0).reshape(16, 2)
    placed = shard_batch({"x": rows}, make_mesh(sizes))["x"]
    np.testing.assert_array_equal(placed, rows)
    assert len(placed.addressable_shards[0].data) == 16 // host_shard(make_mesh(sizes)).count


def test_batch_that_cannot_be_split_over_devices_is_refused():
    with pytest.raises(ConfigError, match=r"\(32, 16, 4\): each stage's images must split evenly over 8 devices"):
        require_divisible("train.stage_batches", ((32, 16, 8), (32, 16, 4)), make_mesh())
