import dataclasses
import re

import jax
import numpy as np
import pytest

from benchmarks import inference, step_parts, train_step
from benchmarks.timing import interleave
from configs import presets, styles, styles_single_flow
from nami_jax.config import Config, ConfigError, SampleConfig
from nami_jax.flow.schedule import Grid
from nami_jax.flow.solver import SOLVERS, euler
from nami_jax.flow.transition import Renoise
from nami_jax.models.nami import abstract_model
from nami_jax.monitoring.flops import sampling_flops, training_flops
from nami_jax.parallel.sharding import make_mesh
from nami_jax.planning.tables import table
from nami_jax.planning.xla_flops import sampling_xla_flops, struct, training_xla_flops, xla_flops
from nami_jax.sampling.sampler import Request, make_sampler
from nami_jax.sampling.stage_programs import Networks
from tests.support.sizes import CONFIG, MODEL, make_config

TWO_STAGES = dataclasses.replace(MODEL, stage_single_blocks=(1, 1))
SAMPLE = SampleConfig(steps=(1, 2))
WORKLOAD = inference.Workload(side=16, text_tokens=5, batch=2)


def test_flops_of_nami_2b_are_the_papers():
    """783 TFLOP by a single flow, 316 by three stages, of which the last has 82 %: arXiv 2503.09242."""
    contenders = inference.make_contenders(presets.NAMI_2B, SampleConfig(steps=(10, 10, 10)))
    progressive, single = (sampling_flops(c.model, c.sample, side=128, text_tokens=256) for c in contenders)
    assert sum(single) / 1e12 == pytest.approx(783, rel=0.01)
    assert sum(progressive) / 1e12 == pytest.approx(316, rel=0.01)
    assert progressive[2] / sum(progressive) == pytest.approx(0.82, abs=0.01)


@pytest.mark.parametrize("solver", SOLVERS)
def test_flops_agree_with_xla(solver):
    sample = SampleConfig(steps=(3, 2, 1), solver=solver)
    counts = inference.NARROW, sample, 64, 64, 2
    ours, xla = np.array(sampling_flops(*counts)), np.array(sampling_xla_flops(*counts))
    # XLA also counts what is done element by element: norms, softmax, GELU, RoPE, modulation.
    assert (ours < xla).all()
    np.testing.assert_allclose(ours, xla, rtol=0.08)


def test_xla_counts_a_scanned_step_once():
    """Why `sampling_xla_flops` multiplies by the steps, and takes the blocks unrolled."""

    def count(steps):
        taus = np.linspace(1, 0, steps + 1, dtype=np.float32)
        return xla_flops(lambda x: euler(lambda x, t: x @ x, x, Grid(taus, taus)), struct(64, 64))

    assert count(2) == pytest.approx(count(20), rel=0.01)


def test_training_flops_count_every_image_three_times():
    forward = sampling_flops(MODEL, SampleConfig(steps=(1, 1, 1)), CONFIG.data.side, CONFIG.text.max_length)
    assert training_flops(CONFIG, (8, 4, 2)) == tuple(3 * b * f // 2 for b, f in zip((8, 4, 2), forward, strict=True))


@pytest.mark.parametrize("lora_rank", [None, 4])
def test_training_flops_agree_with_xla(lora_rank):
    model = dataclasses.replace(inference.NARROW, channels=3, remat="none", lora_rank=lora_rank)
    cfg = dataclasses.replace(make_config(data={"side": 64}, train={"init_from": "anything"}), model=model)
    ours = sum(training_flops(cfg, (2, 2, 2)))
    xla = training_xla_flops(cfg, ((2, 16, 16, 3), (2, 32, 32, 3), (2, 64, 64, 3)))
    assert ours < xla
    assert ours == pytest.approx(xla, rel=0.05)


def test_single_flow_config_has_the_parameters_and_flops_of_styles():
    nested, single = (Config.from_dict(file.get_config().to_dict()) for file in (styles, styles_single_flow))
    assert single.model.num_stages == 1
    assert abstract_model(single.model)[1] == abstract_model(nested.model)[1]
    assert sum(single.sample.steps) == sum(nested.sample.steps)
    of_nested = [sum(training_flops(nested, batch)) for batch in nested.train.stage_batches]
    assert sum(training_flops(single, single.train.stage_batches[0])) == pytest.approx(np.mean(of_nested), rel=0.02)
    follows = {name: getattr(nested.train, name) for name in ("stage_batches", "phase_starts", "phase_learning_rates")}
    assert nested.train == dataclasses.replace(single.train, **follows)
    assert (single.data, single.text, single.flow) == (nested.data, nested.text, nested.flow)


def test_programs_take_turns_after_a_round_of_warm_up():
    calls = []

    def program(name):
        return lambda: [float(len(calls)), calls.append(name) or 0.0]

    seconds = interleave({"a": program("a"), "b": program("b")}, rounds=2, desc="test")
    assert calls == ["a", "b"] * 3
    assert seconds["a"].tolist() == [[2.0, 0.0], [4.0, 0.0]]


def test_benchmark_samples_what_the_sampler_samples():
    rng = np.random.default_rng(0)
    model = inference.make_network(inference.random_params(TWO_STAGES, rng), TWO_STAGES)
    text = inference.random_text(TWO_STAGES, WORKLOAD, rng)
    latents, seconds = inference.sample_by_stage(model, text, SAMPLE, WORKLOAD)
    prompts, negatives = zip(*(np.split(np.asarray(states), 2) for states in text), strict=True)
    request = Request(16, 16, seed=0, numbers=range(2))
    expected = make_sampler(TWO_STAGES)(Networks(model, Renoise()), prompts, negatives, SAMPLE, request)
    np.testing.assert_array_equal(latents, expected)
    assert len(seconds) == 2


def test_inference_benchmark_reports_every_stage_and_ends_with_the_ratio():
    contenders = inference.make_contenders(TWO_STAGES, SAMPLE)
    report = inference.report(contenders, WORKLOAD, inference.measure(contenders, WORKLOAD, rounds=1))
    for row in ("progressive, stage 1", "progressive, stage 2", "progressive, end to end", "single flow, end to end"):
        assert f"\n{row} " in report
    assert re.fullmatch(r"ratio \d+\.\d{3}", report.splitlines()[-1])


@pytest.mark.parametrize(("side", "steps", "field"), [(18, (1, 2), "height"), (16, (1, 2, 3), "steps")])
def test_inference_benchmark_refuses_a_geometry_before_compiling(side, steps, field):
    contenders = inference.make_contenders(TWO_STAGES, SampleConfig(steps))
    with pytest.raises(ConfigError, match=rf"^{field} = "):
        inference.measure(contenders, dataclasses.replace(WORKLOAD, side=side), rounds=1)


def test_train_step_benchmark_measures_a_step_its_compilation_and_the_matmul_rate():
    one_block = {"double_blocks": 0, "stage_single_blocks": (1,)}
    cfg = make_config(model=one_block, sample={"steps": (2,)}, train={"stage_batches": ((2,),)})
    mesh = make_mesh(devices=jax.devices()[:1])
    measured, rate = train_step.measure({"scanned": cfg}, (2,), mesh, rounds=1, steps=2, matmul_side=64)
    assert 0 < measured["scanned"].step < measured["scanned"].compilation
    assert rate > 0


def test_train_step_report_gives_rates_by_stage_and_names_the_fastest():
    measured = {"unrolled": train_step.Measured(2.0, 9.0), "scanned": train_step.Measured(1.0, 3.0)}
    lines = train_step.report(measured, (8, 4), flops=10**12, peak=2e12).splitlines()
    assert lines[2].split() == ["unrolled", "9.0", "2000.0", "4.0", "2.0", "6.0", "500.0", "25.0%"]
    assert lines[-1] == "fastest: scanned; unrolled takes 2.00 times its step, 3.00 times its compilation"


def test_variants_scan_and_rematerialise_as_asked():
    variants = train_step.variants(CONFIG, remat=True)
    assert {name: (variant.model.scan_blocks, variant.model.remat) for name, variant in variants.items()} == {
        "unrolled": (False, "none"),
        "scanned": (True, "none"),
        "unrolled, remat full": (False, "full"),
        "scanned, remat full": (True, "full"),
        "unrolled, remat keep_attention": (False, "keep_attention"),
        "scanned, remat keep_attention": (True, "keep_attention"),
        "unrolled, remat keep_matmuls": (False, "keep_matmuls"),
        "scanned, remat keep_matmuls": (True, "keep_matmuls"),
    }
    assert list(train_step.variants(CONFIG, remat=False)) == ["unrolled", "scanned"]


def test_table_aligns_numbers():
    assert table(("", "s"), [("a", "1.5"), ("bb", "22.5")]).splitlines() == [
        "       s",
        "--------",
        "a    1.5",
        "bb  22.5",
    ]


def test_step_parts_benchmark_times_the_step_its_stages_and_what_follows_them():
    one_block = {"double_blocks": 0, "stage_single_blocks": (1, 1)}
    cfg = make_config(model=one_block, sample={"steps": (2, 2)}, train={"stage_batches": ((2, 2),)})
    mesh = make_mesh(devices=jax.devices()[:1])
    seconds = step_parts.measure(cfg, (2, 2), mesh, rounds=1, steps=2)
    assert min(seconds.values()) > 0
    report = step_parts.report(seconds | {step_parts.JOINT: 1.0}, stages=2).splitlines()
    names = [row.strip().split("  ")[0] for row in report[2:-2]]
    assert names == [
        "joint step", "stage 1 alone", "stage 2 alone", "norms alone", "clipping and AdamW alone", "EMA alone",
        "after the gradients",
    ]  # fmt: skip
    total = sum(seconds[name] for name in ("stage 1 alone", "stage 2 alone", step_parts.AFTER))
    assert report[-1].startswith(f"joint step: {1 / total:.3f} of the sum")
