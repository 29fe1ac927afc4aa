from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nami_jax.monitoring.metrics import Interval, NonFiniteError, bar_text

NAN = float("nan")
V5E = SimpleNamespace(device_kind="TPU v5 lite")  # 197 TFLOP/s at most


class Clock:
    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now


class SlowLoss:
    """A loss that is known at `done` and no sooner, as an array is that a device still computes."""

    def __init__(self, clock, done):
        self.clock, self.done = clock, done

    def __float__(self):
        self.clock.now = max(self.clock.now, self.done)
        return 1.0

    def __array__(self, dtype=None, copy=None):
        return np.array(1.0, dtype)


def metrics(loss=1.0, sums=((1.0, 0, 0, 0),), counts=((1.0, 0, 0, 0),), **others):
    return {
        "loss": jnp.float32(loss), "grad_norm": jnp.float32(2.0), "learning_rate": jnp.float32(1e-3),
        "loss_sums": jnp.array(sums), "loss_counts": jnp.array(counts),
        **{name: jnp.float32(value) for name, value in others.items()},
    }  # fmt: skip


def skipped(loss=NAN):
    """A step without a finite gradient, which its maker skipped, so that none of its images counts."""
    return metrics(loss, ((0.0, 0, 0, 0),), ((0.0, 0, 0, 0),), grad_norm=NAN, skipped=1.0)


def summarised(interval, clock, ends, *steps, flops=0.0):
    """Adds steps that end at the times `ends`, each dispatched when the one before it ends."""
    for step, (end, values) in enumerate(zip(ends, steps, strict=True), start=1):
        interval.add(step, values, flops)
        clock.now = end
    interval.settle()
    return interval.summary()


def test_summary_weighs_every_image_alike():
    clock = Clock()
    first = metrics(1.0, [[1.0, 0, 0, 0]], [[1.0, 0, 0, 0]])
    second = metrics(3.0, [[6.0, 0, 8.0, 0]], [[2.0, 0, 1.0, 0]])
    summary = summarised(Interval(clock=clock), clock, (4.0, 5.0), first, second)
    assert summary["loss"] == pytest.approx(2.0)
    assert summary["loss/stage_1"] == pytest.approx(15 / 4)
    assert summary["loss/stage_1/noise_1"] == pytest.approx(7 / 3)
    assert summary["loss/stage_1/noise_3"] == pytest.approx(8.0)
    assert "loss/stage_1/noise_2" not in summary
    # 4 images in 2 steps, which took 5 seconds.
    assert summary["steps_per_second"] == pytest.approx(2 / 5)
    assert summary["images_per_second/stage_1"] == pytest.approx(4 / 5)


def test_images_of_all_stages_add_up():
    clock = Clock()
    counts = [[1.0, 2, 0, 0], [0, 0, 3.0, 4.0]]
    summary = summarised(Interval(clock=clock), clock, (2.0,), metrics(1.0, np.ones((2, 4)), counts))
    assert summary["images_per_second/stage_1"] == pytest.approx(1.5)
    assert summary["images_per_second/stage_2"] == pytest.approx(3.5)
    assert summary["images_per_second"] == pytest.approx(5.0)


def test_every_metric_without_axes_is_averaged_and_the_learning_rate_the_last():
    clock = Clock()
    steps = [metrics(**{"grad_norm/double_blocks": 1.0}), metrics(**{"grad_norm/double_blocks": 4.0})]
    steps[1]["learning_rate"] = jnp.float32(5e-4)
    summary = summarised(Interval(clock=clock), clock, (1.0, 2.0), *steps)
    assert summary["grad_norm/double_blocks"] == pytest.approx(2.5)
    assert summary["grad_norm"] == pytest.approx(2.0)
    assert summary["learning_rate"] == pytest.approx(5e-4)


def test_summary_starts_anew_each_time():
    clock = Clock()
    interval = Interval(clock=clock)
    with interval.waiting_for_data():
        clock.now = 1.0
    summarised(interval, clock, (2.0,), metrics(5.0))
    summary = summarised(interval, clock, (2.5,), metrics(1.0))
    assert summary["loss"] == pytest.approx(1.0)
    assert summary["steps_per_second"] == pytest.approx(2.0)
    assert summary["data_wait"] == 0.0


def test_step_times_are_those_between_the_ends_of_steps():
    clock = Clock()
    summary = summarised(Interval(clock=clock), clock, (1.0, 1.5, 4.5), metrics(), metrics(), metrics())
    # 0.5, 1 and 3 seconds: nine tenths of the way from first to last lie at 1 + 0.8 (3 - 1).
    assert summary["step_time_ms/p50"] == pytest.approx(1000.0)
    assert summary["step_time_ms/p90"] == pytest.approx(2600.0)
    assert summary["step_time_ms/p99"] == pytest.approx(2960.0)


def test_a_step_that_was_only_dispatched_is_not_taken_for_done():
    clock = Clock()
    interval = Interval(clock=clock)
    for step, done in enumerate((2.0, 6.0), start=1):
        interval.add(step, {**metrics(), "loss": SlowLoss(clock, done)})  # pyright: ignore[reportArgumentType]
    assert clock.now == 2.0  # the second runs while its successor is prepared
    interval.settle()
    summary = interval.summary()
    assert summary["step_time_ms/p50"] == pytest.approx(3000.0)
    assert summary["step_time_ms/p99"] == pytest.approx(2000.0 + 0.99 * 2000.0)
    assert summary["steps_per_second"] == pytest.approx(2 / 6)


def test_data_wait_is_a_share_of_the_time():
    clock = Clock()
    interval = Interval(clock=clock)
    for step in (1, 2):
        with interval.waiting_for_data():
            clock.now += 0.5
        interval.add(step, metrics())
        clock.now += 1.5
    interval.settle()
    assert interval.summary()["data_wait"] == pytest.approx(0.25)


def test_time_spent_paused_is_left_out():
    clock = Clock()
    interval = Interval(clock=clock)
    interval.add(1, metrics(counts=((20.0, 0, 0, 0),)))
    clock.now = 5.0
    interval.settle()
    with interval.paused():
        clock.now = 105.0
    interval.add(2, metrics(counts=((20.0, 0, 0, 0),)))
    clock.now = 110.0
    interval.settle()
    summary = interval.summary()
    assert summary["images_per_second/stage_1"] == pytest.approx(4.0)
    assert summary["step_time_ms/p99"] == pytest.approx(5000.0)


def test_flops_are_shared_by_the_devices_and_compared_with_their_peak():
    clock = Clock()
    interval = Interval(devices=[V5E, V5E], clock=clock)
    summary = summarised(interval, clock, (1.0, 4.0), metrics(), metrics(), flops=197e12)
    # 2 × 197 TFLOP in 4 seconds on two chips: a quarter of what they can do.
    assert summary["tflops_per_second_per_device"] == pytest.approx(197 / 4)
    assert summary["mfu"] == pytest.approx(0.25)


def test_a_device_whose_peak_is_unknown_has_flops_but_no_mfu():
    clock = Clock()
    summary = summarised(Interval(devices=jax.devices()[:2], clock=clock), clock, (2.0,), metrics(), flops=8e12)
    assert summary["tflops_per_second_per_device"] == pytest.approx(2.0)
    assert "mfu" not in summary


def test_steps_whose_flops_nobody_counts_have_none():
    clock = Clock()
    summary = summarised(Interval(devices=[V5E], clock=clock), clock, (1.0,), metrics())
    assert not {"mfu", "tflops_per_second_per_device"} & summary.keys()


def test_skipped_steps_are_counted_and_not_averaged():
    clock = Clock()
    interval = Interval(max_skipped=3, clock=clock)
    good = metrics(2.0, ((2.0, 0, 0, 0),), skipped=0.0)
    summary = summarised(interval, clock, (1.0, 2.0, 3.0, 4.0), skipped(), good, skipped(), skipped())
    assert summary["skipped_steps"] == 3
    assert summary["loss"] == pytest.approx(2.0)
    assert summary["grad_norm"] == pytest.approx(2.0)
    assert summary["loss/stage_1"] == pytest.approx(2.0)
    assert "skipped" not in summary
    assert summary["images_per_second"] == pytest.approx(0.25)  # one image of four seconds was trained on
    summary = summarised(interval, clock, (5.0, 6.0), good, skipped())
    assert (summary["skipped_steps"], summary["skipped_steps_total"]) == (1, 4)


def test_interval_of_skipped_steps_alone_has_rates_and_no_loss():
    clock = Clock()
    summary = summarised(Interval(max_skipped=3, clock=clock), clock, (1.0, 2.0), skipped(), skipped())
    assert not [name for name in summary if name.startswith(("loss", "grad_norm"))]
    assert np.isfinite(list(summary.values())).all()
    assert bar_text(summary) == "images/s 0, loss none: all steps were skipped"


def test_a_lone_skipped_step_is_worth_a_warning():
    interval = Interval(max_skipped=3)
    assert interval.add(7, skipped()) is None
    warning = interval.add(8, metrics(skipped=0.0))
    assert warning == "step 7: the loss is nan, the gradient norm nan. Skipped; in a row: 1 (the run stops at 3)."
    assert interval.settle() is None


def test_a_step_that_was_skipped_for_a_reason_of_its_own_is_reported_too():
    interval = Interval(max_skipped=3)
    interval.add(7, metrics(1.0, skipped=1.0))
    assert "step 7: the loss is 1.0, the gradient norm 2.0. Skipped" in str(interval.settle())


def test_run_stops_at_that_many_skipped_steps_in_a_row_and_knows_what_is_good():
    interval = Interval("train.phase_learning_rates", max_skipped=3)
    for step, values in enumerate([skipped(), skipped(), metrics(skipped=0.0), skipped(), skipped(1.0)], start=1):
        interval.add(step, values)
    assert "in a row: 2" in str(interval.add(6, skipped(1.0)))
    with pytest.raises(NonFiniteError) as caught:
        interval.settle()
    assert str(caught.value) == (
        "step 6: the loss is 1.0, the gradient norm nan; steps like this in a row: 3. "
        "Lower train.phase_learning_rates or raise train.warmup_steps."
    )
    assert interval.good_until == 2  # whose loss is that of step 3


@pytest.mark.parametrize("loss", [NAN, float("inf")])
def test_non_finite_loss_that_was_not_skipped_stops_at_once(loss):
    interval = Interval("train.learning_rate", max_skipped=3)
    interval.add(7, metrics())
    interval.add(8, metrics(loss))
    with pytest.raises(NonFiniteError, match=r"step 8: the loss is (nan|inf).* Lower train\.learning_rate"):
        interval.add(9, metrics())


def judged(*losses, **options):
    """An interval of finite steps with these losses, settled, and the last warning."""
    interval, warning = Interval(max_skipped=3, max_rise=4.0, **options), None
    for step, loss in enumerate(losses, start=1):
        interval.add(step, metrics(loss, skipped=0.0))
        warning = interval.settle()
    return interval, warning


def test_a_state_is_in_range_again_after_a_lone_spike():
    interval, warning = judged(*[1.0] * 200, 9.0)
    assert "step 201: the loss is 9, beyond 4.0" in str(warning)
    assert "train.max_loss_rise = 4.0). Not saved; in a row: 1 (the run stops at 3)." in str(warning)
    assert not interval.in_range
    assert interval.good_until == 199
    interval.add(202, metrics(1.0))
    assert interval.settle() is None
    assert interval.in_range
    assert interval.good_until == 201
    interval.require_in_range()


def test_losses_out_of_range_stop_the_run_and_do_not_move_the_range():
    with pytest.raises(NonFiniteError, match=r"step 203: the loss is 9, beyond 4\..*in a row: 3\. Lower train\.phase"):
        judged(*[1.0] * 200, 9.0, 9.0, 9.0)


def test_the_last_state_is_refused_if_its_loss_or_its_validation_is_out_of_range():
    interval, _ = judged(*[1.0] * 200, 9.0)
    with pytest.raises(NonFiniteError, match=r"step 201: the loss is 9.* The state is not saved\. Lower"):
        interval.require_in_range()
    assert interval.judge(201, 1.0) is None  # the weights are good, so it was the batch
    interval.require_in_range()
    interval, _ = judged(1.0, 1.0)
    for _ in range(50):
        assert interval.judge(2, 0.5) is None
    assert "step 2: the validation loss is 5, beyond" in str(interval.judge(2, 5.0))
    with pytest.raises(NonFiniteError, match=r"the validation loss is 5, beyond .* Lower"):
        interval.require_in_range()


def test_the_past_of_a_continued_run_goes_with_it():
    interval, _ = judged(*[1.0] * 200)
    _, warning = judged(9.0, past=interval.past())
    assert "Not saved" in str(warning)
    assert judged(9.0)[1] is None


def test_non_finite_gradient_is_reported_though_its_loss_is_finite():
    interval = Interval()
    interval.add(3, metrics(grad_norm=NAN))
    with pytest.raises(NonFiniteError, match=r"step 3: the loss is 1\.0, the gradient norm nan"):
        interval.settle()


def test_bar_shows_rate_and_loss_of_each_stage():
    scalars = {"images_per_second": 180.6, "images_per_second/stage_1": 120.4, "images_per_second/stage_2": 60.2,
               "loss/stage_1": 0.5, "loss/stage_2": 0.25, "loss/stage_1/noise_1": 9.0, "loss": 0.4}  # fmt: skip
    assert bar_text(scalars) == "images/s 120+60, loss 0.5000 0.2500"
    assert bar_text(scalars | {"mfu": 0.414}) == "images/s 120+60, loss 0.5000 0.2500, MFU 41%"
