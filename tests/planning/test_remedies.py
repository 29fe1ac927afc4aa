import jax
import pytest

from nami_jax.monitoring.chips import GIB, find_chip
from nami_jax.parallel.sharding import make_mesh
from nami_jax.planning.hardware import HOST, Hardware
from nami_jax.planning.memory import Measured, state_parts
from nami_jax.planning.programs import run_state
from nami_jax.planning.remedies import remedies
from tests.support.sizes import make_config

BATCH = (64, 64, 64)
PLAIN = make_config()
STATE = sum(state_parts(run_state(PLAIN, make_mesh())).values())


def hardware(limit, name="v5e:2x4"):
    return Hardware(name, tuple(jax.devices()), limit, None if name == HOST else find_chip("TPU v5e"))


def proposed(cfg, limit, total, largest=None, name="v5e:2x4"):
    measured = Measured({}, total, limit, 1.0, None)
    return list(remedies(cfg, hardware(limit, name), BATCH, measured, largest))


def fields(changes):
    return [change.split()[0] for change in changes]


def test_everything_that_applies_is_proposed_cheapest_first():
    changes = proposed(PLAIN, 1000, 2000, largest=(32, 32, 32))
    assert fields(changes) == ["mesh.fsdp", "model.remat", "model.scan_blocks", "train.stage_batches", "more"]
    assert changes[3].startswith("train.stage_batches = (32, 32, 32) instead of (64, 64, 64)")


def test_where_no_batch_fits_devices_are_to_share_images():
    changes = proposed(PLAIN, 1000, 2000)
    assert fields(changes)[3:] == ["mesh.sequence", "more"]
    assert "a stage's images need only be a multiple of 4" in changes[3]


@pytest.mark.parametrize(("excess", "fsdp"), [(0.4, 2), (0.6, 4), (0.8, 8), (2.0, 8)])
def test_fsdp_is_the_smallest_that_should_do_else_the_largest(excess, fsdp):
    total = 10 * STATE
    changes = proposed(PLAIN, round(total - excess * STATE), total)
    assert changes[0].startswith(f"mesh.fsdp = {fsdp} instead of 1: parameters, EMA and moments take ")


def test_what_is_done_already_or_does_not_apply_is_left_out():
    cfg = make_config(mesh={"fsdp": 8}, model={"remat": True, "scan_blocks": True})
    assert fields(proposed(cfg, 1000, 2000, largest=(32, 32, 32), name=HOST)) == ["train.stage_batches"]


@pytest.mark.parametrize(
    ("kind", "names"), [("TPU v5e", "v4, v5p, v6e"), ("NVIDIA A100-SXM4-80GB", "H200"), ("NVIDIA H200", "")]
)
def test_chips_of_the_same_maker_with_more_memory_are_named(kind, names):
    chips = Hardware("v5e:2x4", tuple(jax.devices()), 1000, find_chip(kind))
    *_, last = remedies(PLAIN, chips, BATCH, Measured({}, 2000, 1000, 1.0, None), None)
    assert last.partition(" with more memory: ")[2] == names


@pytest.mark.parametrize(("share", "proposes"), [(0.75, True), (0.9, False)])
def test_a_larger_share_of_a_card_comes_first(share, proposes):
    card = Hardware("h100:8", tuple(jax.devices()), round(share * 80 * GIB), find_chip("NVIDIA H200"), 80 * GIB)
    first, *_ = remedies(PLAIN, card, BATCH, Measured({}, 70 * GIB, card.memory_limit, 1.0, None), None)
    text = "XLA_CLIENT_MEM_FRACTION=0.9 in the environment of the run, and of this plan, instead of 0.75"
    assert first.startswith(f"{text}: jax may take 72.0 GiB") == proposes
