import jax.numpy as jnp
import pytest

from nami_jax.metrics import EventWriter, Interval, NonFiniteError, bar_text


def metrics(loss, sums, counts):
    return {
        "loss": jnp.float32(loss), "grad_norm": jnp.float32(2.0), "learning_rate": jnp.float32(1e-3),
        "loss_sums": jnp.array(sums), "loss_counts": jnp.array(counts),
    }  # fmt: skip


def test_summary_weighs_every_image_alike():
    interval = Interval()
    interval.add(1, metrics(1.0, [[1.0, 0, 0, 0]], [[1.0, 0, 0, 0]]))
    interval.add(2, metrics(3.0, [[6.0, 0, 8.0, 0]], [[2.0, 0, 1.0, 0]]))
    summary = interval.summary()
    assert summary["loss"] == pytest.approx(2.0)
    assert summary["loss/stage_1"] == pytest.approx(15 / 4)
    assert summary["loss/stage_1/noise_1"] == pytest.approx(7 / 3)
    assert summary["loss/stage_1/noise_3"] == pytest.approx(8.0)
    assert "loss/stage_1/noise_2" not in summary
    # 4 images in 2 steps.
    assert summary["images_per_second/stage_1"] == pytest.approx(2 * summary["steps_per_second"])


def test_summary_starts_anew_each_time():
    interval = Interval()
    interval.add(1, metrics(5.0, [[5.0, 0, 0, 0]], [[1.0, 0, 0, 0]]))
    interval.summary()
    interval.add(2, metrics(1.0, [[1.0, 0, 0, 0]], [[1.0, 0, 0, 0]]))
    assert interval.summary()["loss"] == pytest.approx(1.0)


@pytest.mark.parametrize("loss", [float("nan"), float("inf")])
def test_non_finite_loss_is_reported_with_its_step(loss):
    interval = Interval()
    interval.add(7, metrics(1.0, [[1.0, 0, 0, 0]], [[1.0, 0, 0, 0]]))
    interval.add(8, metrics(loss, [[1.0, 0, 0, 0]], [[1.0, 0, 0, 0]]))
    with pytest.raises(NonFiniteError, match=r"step 8: the loss is (nan|inf)"):
        interval.summary()
    with pytest.raises(NonFiniteError, match=r"step 8: the loss is (nan|inf)"):
        interval.add(9, metrics(1.0, [[1.0, 0, 0, 0]], [[1.0, 0, 0, 0]]))


def test_non_finite_gradient_is_reported_though_its_loss_is_finite():
    interval = Interval()
    interval.add(3, metrics(1.0, [[1.0, 0, 0, 0]], [[1.0, 0, 0, 0]]) | {"grad_norm": jnp.float32("nan")})
    with pytest.raises(NonFiniteError, match=r"step 3: the loss is 1\.0, the gradient norm nan"):
        interval.require_finite()


def test_time_spent_paused_is_left_out_of_the_rates(monkeypatch):
    now = iter([0.0, 5.0, 105.0, 110.0, 110.0])  # made, pause entered, pause left, summary, new interval
    monkeypatch.setattr("time.perf_counter", lambda: next(now))
    interval = Interval()
    interval.add(1, metrics(1.0, [[1.0, 0, 0, 0]], [[20.0, 0, 0, 0]]))
    with interval.paused():
        pass
    summary = interval.summary()
    assert summary["steps_per_second"] == pytest.approx(0.1)
    assert summary["images_per_second/stage_1"] == pytest.approx(2.0)


def test_bar_shows_rate_and_loss_of_each_stage():
    text = bar_text({"images_per_second/stage_1": 120.4, "images_per_second/stage_2": 60.2, "loss/stage_1": 0.5,
                     "loss/stage_2": 0.25, "loss/stage_1/noise_1": 9.0, "loss": 0.4})  # fmt: skip
    assert text == "images/s 120+60, loss 0.5000 0.2500"


def test_events_are_written(tmp_path):
    with EventWriter(tmp_path, start=0) as events:
        events.scalars(1, {"loss": 0.5})
    (file,) = (tmp_path / "events").iterdir()
    assert b"loss" in file.read_bytes()
