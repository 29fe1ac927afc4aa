import json
import math

import numpy as np
import pytest

from benchmarks import results
from benchmarks.arms import ADOPTED, ARMS, NAMI, RATE, SINGLE_FLOW, STEPS, all_arms, configured, trials
from benchmarks.experiments import Bench, flops_until, mean_flops, phase_flops, run_config
from configs import styles, styles_single_flow
from nami_jax.config import Config, ConfigError
from tests.support.paths import ROOT
from tests.support.runs import card_config

BUDGET = 2e13


@pytest.mark.parametrize("name", all_arms())
def test_every_arm_trains_for_the_same_flops(name):
    cfg = run_config(all_arms()[name], 1, BUDGET, 4)
    spent = flops_until(cfg, cfg.train.steps)
    most = 4 * max(phase_flops(cfg))
    assert BUDGET - 2 * most <= spent <= BUDGET + most
    assert cfg.train.seed == 1
    assert cfg.train.steps == 4 * cfg.train.checkpoint_every


def test_flops_until_a_step_add_up_over_phases():
    cfg = run_config(ARMS[NAMI], 0, BUDGET, 1)
    first, second = phase_flops(cfg)
    middle = cfg.train.phase_bounds[1]
    assert flops_until(cfg, 1) == first
    assert flops_until(cfg, middle + 2) == middle * first + 2 * second
    assert flops_until(cfg, cfg.train.steps) == pytest.approx(mean_flops(cfg) * cfg.train.steps, rel=0.01)


def test_method_and_baseline_are_tuned_by_as_many_trials_of_the_same_kind():
    ours, theirs = trials(NAMI), trials(SINGLE_FLOW)
    assert [name.removeprefix(NAMI) for name in ours] == [name.removeprefix(SINGLE_FLOW) for name in theirs]
    rates = [configured(arm).train.phase_learning_rates[0] for arm in theirs.values()]
    assert max(rates) == 4 * min(rates)


def test_what_won_is_what_users_have():
    config = styles.get_config()
    config.sample.steps = (STEPS // 3,) * 3
    assert configured(ARMS[ADOPTED]).to_dict() == config.to_dict()


def test_the_baseline_is_the_config_that_users_have_but_for_the_images_that_take_the_flops_of_what_won():
    config = styles_single_flow.get_config()
    config.sample.steps = (STEPS,)
    arm = ARMS["contrastive_single_flow"]
    same_flops = configured(arm._replace(changes={**arm.changes, "train.stage_batches": ((25,),)}))
    assert same_flops.to_dict() == config.to_dict()


@pytest.mark.parametrize("path", sorted((ROOT / "docs" / "results" / "ablations").glob("*.json")), ids=lambda p: p.stem)
def test_an_arm_is_what_its_records_were_made_with(path):
    record = json.loads(path.read_text())
    cfg = json.loads(json.dumps(run_config(ARMS[record["arm"]], record["seed"], 1.2e13, 1).to_dict()))
    record["config"]["sample"]["guidance_scale"] = record["points"][-1]["guidance_scale"]  # by which it is shown
    for section in ("model", "flow", "bridge", "train", "sample"):
        now = {name: value for name, value in cfg[section].items() if name in record["config"][section]}
        assert now == record["config"][section], section


def test_the_arms_begin_as_they_were_compared():
    assert configured(ARMS[NAMI]).train.phase_learning_rates == (RATE, RATE)


def test_all_arms_sample_with_as_many_steps():
    assert {sum(Config.from_dict(configured(arm).to_dict()).sample.steps) for arm in all_arms().values()} == {STEPS}


def test_too_few_flops_are_refused():
    with pytest.raises(ConfigError, match=r"flops = '1e\+09': must allow at least a step"):
        run_config(ARMS[NAMI], 0, 1e9, 1)


def record(arm, seed, scores, flops=(1e12, 2e12, 4e12), higher=True, data="emoji"):
    known = {name: {"real": 0.9, "higher_is_better": higher} for name in results.SHOWN}
    points = [
        {
            "step": 10 * (i + 1),
            "flops": f,
            "scores": dict.fromkeys(results.SHOWN, s),
            "guidance_scale": 2.5,
            "known": known,
        }
        for i, (f, s) in enumerate(zip(flops, scores, strict=True))
    ]
    config = {"train": {"steps": 30, "phase_starts": [0.0, 0.5]}, "data": {"name": data}}
    return {"arm": arm, "about": "what it is", "seed": seed, "points": points, "config": config}


def test_flops_to_reach_a_level_lie_between_points():
    found = record(NAMI, 0, (0.1, 0.3, 0.5))
    assert results.flops_to_reach(found, "kid/efficientnet_lite0", 0.3, True) == pytest.approx(2e12)
    assert results.flops_to_reach(found, "kid/efficientnet_lite0", 0.4, True) == pytest.approx(math.sqrt(8) * 1e12)
    assert results.flops_to_reach(found, "kid/efficientnet_lite0", 0.6, True) == math.inf
    assert results.flops_to_reach(found, "kid/efficientnet_lite0", 0.0, True) == pytest.approx(1e12)
    falling = record(NAMI, 0, (5.0, 3.0, 3.0))
    assert results.flops_to_reach(falling, "squared_error", 4.0, False) == pytest.approx(math.sqrt(2) * 1e12)


def test_savings_compare_seed_by_seed_at_what_both_reach():
    records = {
        NAMI: [record(NAMI, 0, (0.1, 0.3, 0.5)), record(NAMI, 1, (0.1, 0.2, 0.3))],
        SINGLE_FLOW: [record(SINGLE_FLOW, 0, (0.1, 0.2, 0.3)), record(SINGLE_FLOW, 1, (0.1, 0.3, 0.4))],
    }
    assert results.savings(records, "concept") == pytest.approx([2.0, 0.5])
    backwards = {NAMI: records[NAMI][::-1], SINGLE_FLOW: records[SINGLE_FLOW]}
    assert results.savings(backwards, "concept") == pytest.approx([2.0, 0.5])
    with pytest.raises(ConfigError, match=r"\[0, 1\] and \[0\]': the method and the baseline need the same seeds"):
        results.savings(records | {SINGLE_FLOW: records[SINGLE_FLOW][:1]}, "concept")
    errors = {NAMI: [record(NAMI, 0, (4.0, 3.0, 2.0), higher=False)]}
    errors[SINGLE_FLOW] = [record(SINGLE_FLOW, 0, (5.0, 4.0, 3.0), higher=False)]
    assert results.savings(errors, "squared_error") == pytest.approx([2.0])


def test_of_several_scales_of_guidance_the_last_is_shown():
    found = record(NAMI, 0, (0.1, 0.3, 0.5))
    found["points"] = [point | {"guidance_scale": scale} for point in found["points"] for scale in (1.5, 2.5)]
    assert [point["guidance_scale"] for point in results.points(found)] == [2.5] * 3
    found["points"] = found["points"][-2:]
    assert [row[:3] for row in results.guidance_rows({NAMI: [found]})] == [(NAMI, "1.5", "1"), (NAMI, "2.5", "1")]


def test_a_record_that_was_made_otherwise_is_not_taken_for_this_run_s(tmp_path):
    cfg, bench = run_config(ARMS[NAMI], 0, 1.2e13, 2), Bench("held_out_pairs", 4, ())
    points = [{"guidance_scale": cfg.sample.guidance_scale}] * 2
    path = tmp_path / "nami_0.json"
    path.write_text(json.dumps({"split": "held_out_pairs", "config": cfg.to_dict(), "points": points}))
    bench.require_same(path, cfg)
    for other, its in ((bench, run_config(ARMS[NAMI], 0, 2.4e13, 2)), (Bench("held_out", 4, ()), cfg)):
        with pytest.raises(ConfigError, match=r"split, steps, points and guidance are .* Set another folder"):
            other.require_same(path, its)


def test_arms_are_compared_with_the_method_seed_by_seed_on_the_same_pictures():
    records = {NAMI: [record(NAMI, seed, (0, 0, seed / 10)) for seed in (0, 1, 2)]}
    records["adamw"] = [record("adamw", seed, (0, 0, 0.2 + seed / 10)) for seed in (1, 2)]
    records["latents"] = [record("latents", 1, (0, 0, 0.2), data="larger")]
    records["bridge"] = [record("bridge", 3, (0, 0, 0.2))]
    assert results.differences(records, "adamw", "concept") == pytest.approx([0.2, 0.2])
    assert [row[:2] for row in results.difference_rows(records)] == [("adamw", "2")]


def test_interval_of_three_seeds_is_student_s():
    found = results.mean([1.0, 2.0, 3.0])
    assert found.value == 2
    assert found.reach == pytest.approx(4.303 / math.sqrt(3), rel=1e-3)
    assert str(results.mean([2.0])) == "2"


def test_figures_and_tables_are_made_from_files(tmp_path, capsys):
    for folder in ("tuning", "ablations", "convergence"):
        (tmp_path / folder).mkdir()
        for seed in (0, 1):
            for arm, scores in {NAMI: (0.1, 0.3, 0.5), SINGLE_FLOW: (0.1, 0.2, 0.3 + seed / 10)}.items():
                (tmp_path / folder / f"{arm}_{seed}.json").write_text(json.dumps(record(arm, seed, scores)))
    seconds = {NAMI: [1.0, 3.0], SINGLE_FLOW: [2.0, 2.0]}
    (tmp_path / "convergence" / "step_seconds.json").write_text(json.dumps({"seconds": seconds}))
    results.show(tmp_path)
    told = capsys.readouterr().out
    assert "0.5 ± 0" in told
    assert "0.35 ± 0.64" in told
    assert "-0.15 ± 0.64" in told
    assert all((tmp_path / f"{name}.svg").read_text().count("<svg") == 1 for name in ("ablations", "convergence"))
    with pytest.raises(ConfigError, match=r"has no records. Run `python -m benchmarks.experiments`"):
        results.load(tmp_path / "nothing")


def test_minutes_count_each_phase_s_steps():
    np.testing.assert_allclose(60 * results.minutes(record(NAMI, 0, (0, 0, 0)), [1.0, 3.0]), [10, 15 + 15, 15 + 45])


@pytest.mark.slow
def test_a_run_is_trained_once_and_its_checkpoints_are_evaluated(tmp_path):
    train = {"steps": 4, "checkpoint_every": 2, "keep_checkpoints": 2, "keep_best": 0}
    cfg = card_config(tmp_path / "data", train=train)
    bench = Bench("train[:80%]", 4, [1.0, 2.0])
    points = bench.measure(cfg, tmp_path / "run")
    assert [(point["step"], point["guidance_scale"]) for point in points] == [(2, 1.0), (2, 2.0), (4, 1.0), (4, 2.0)]
    assert points[0]["scores"]["loss"] != points[2]["scores"]["loss"]
    assert points == bench.measure(cfg, tmp_path / "run")
