"""A whole plan for the eight devices of this machine, and what it says where memory is short."""

import dataclasses
import re
from pathlib import Path

import pytest

from nami_jax.config import ConfigError
from nami_jax.monitoring.chips import find_chip
from nami_jax.monitoring.flops import training_flops
from nami_jax.planning.costs import make_rate
from nami_jax.planning.hardware import HOST, find_hardware
from nami_jax.planning.planner import make_plan
from nami_jax.planning.report import report
from tests.support.runs import card_config

MODEL = {"double_blocks": 0, "stage_single_blocks": (1, 2)}
TWO_PHASES = {"stage_batches": ((16, 8), (8, 16)), "phase_starts": (0.0, 0.5), "phase_learning_rates": (1e-3,) * 2}


def config(**sections):
    model = MODEL | sections.pop("model", {})
    return card_config(Path("data"), **{"train": TWO_PHASES, "sample": {"steps": (1, 2)}, **sections, "model": model})


CFG = config()


@pytest.fixture(scope="module")
def host():
    return find_hardware(HOST)


@pytest.fixture(scope="module")
def plan(host):
    return make_plan(CFG, host)


@pytest.fixture(scope="module")
def text(plan):
    return report(plan, None, 0.4)


def rows(text):
    """Returns the lines of a report as lists of their columns, by the first."""
    return {columns[0]: columns[1:] for line in text.splitlines() if len(columns := re.split(r"\s{2,}", line)) > 1}


def test_plan_compiles_the_costliest_step_and_every_stage(plan):
    assert plan.costliest == ((8, 8, 8, 3), (16, 16, 16, 3))
    assert list(plan.steps.values())[1:] == [None]
    assert len(plan.stages) == 2
    assert plan.preview_images == 8  # 4 training captions and 2 held-out ones, for 8 devices
    assert plan.fits
    assert plan.unit == (8, 16)
    assert plan.largest.units > 1


def test_stages_count_the_training_state_beside_them(plan):
    state = ("parameters", "EMA", "moments", "other state")
    step = plan.steps[plan.costliest]
    for stage in plan.stages:
        assert stage.parts["network"] == step.parts["EMA"]
        assert stage.total >= sum(step.parts[part] for part in state) + stage.parts["temporaries"]


def test_report_of_the_host_has_every_section_and_no_cost(plan, text):
    assert text.startswith("host: 8 devices (cpu), arranged as data 8 x fsdp 1 x tensor 1 x sequence 1")
    assert "8x8x8x3 + 16x16x16x3, the costliest in FLOPs of 2 shapes" in text
    found = rows(text)
    for part in ("parameters", "EMA", "moments", "batch", "temporaries", "code", "sum", "limit", "free", "all-reduce"):
        assert part in found
    assert float(found["sum"][0]) == pytest.approx(plan.steps[plan.costliest].total / 2**30, rel=1e-3)
    for program in ("step of training", "stage 1 of pictures", "stage 2 of pictures"):
        kernel, calls, weights = found[program]
        assert (kernel, calls) == ("XLA's own", "-")
        assert weights.startswith("f32[")  # so short a sequence is attended at once
    assert "Time and cost: the peak rate of 'cpu' is not in the table of chips." in text
    assert text.count("training step  ") == 2
    for k, side in ((1, 8), (2, 16)):
        assert f"pictures, stage {k}  8x{side}x{side}x3" in text
    assert text.endswith("It fits.")


def test_xla_counts_a_little_more_than_the_matrix_products(text):
    ratio = re.search(r"XLA's count, ([\d.]+) times the sum", text)
    assert ratio is not None
    assert 1.0 < float(ratio[1]) < 1.3  # the network is narrow: what is done element by element weighs


def test_cost_is_flops_by_rate_and_price(plan, host):
    rate = make_rate(dataclasses.replace(host, chip=find_chip("TPU v5e")), 0.4, 2.0)
    text = report(plan, rate, 0.4)
    assert "Assuming an MFU of 0.4, and 2.00 USD per chip and hour (16.00 for all)" in text
    steps, images, _, seconds, *_ = rows(text)["phase 1"]
    assert (steps, images) == ("6", "24")
    flops = sum(training_flops(CFG, (16, 8)))
    assert float(seconds) == pytest.approx(flops / (8 * 197e12 * 0.4), rel=1e-3)


def test_a_run_that_does_not_fit_says_by_how_much_and_what_to_change(host):
    misfit = make_plan(CFG, dataclasses.replace(host, memory_limit=10_000))
    assert not misfit.fits
    text = report(misfit, None, 0.4)
    assert rows(text)["sum"][0].startswith("at least ")
    assert "Largest batch: not even (8, 16) images fit" in text
    start = text.index("It does not fit: a training step on 8x8x8x3 + 16x16x16x3 needs at least 0.")
    assert " GiB of each device's 9.313e-06, 0." in text[start:]
    assert "\n- mesh.fsdp = 8 instead of 1: " in text[start:]
    assert "It does not fit: drawing 8 pictures beside the training state needs at least " in text[start:]


@pytest.mark.parametrize(
    ("sections", "message"),
    [
        ({"mesh": {"fsdp": 3}}, r"mesh\.fsdp = 3: must divide the 8 devices"),
        ({"train": {"stage_batches": ((8, 4),)}}, r"train\.stage_batches = \(8, 4\): each stage's images must"),
        ({"mesh": {"tensor": 4}}, r"mesh\.tensor = 4: must divide the 2 heads"),
    ],
)
def test_what_devices_cannot_share_is_refused_before_compiling(sections, message, host):
    with pytest.raises(ConfigError, match=message):
        make_plan(config(**sections), host)
