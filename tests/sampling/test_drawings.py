"""What a call returns, of which texts, and what is told of its steps: by a small network that needs no encoder."""

import signal
import threading

import numpy as np
import pytest

from nami_jax.config import ConfigError
from nami_jax.config.sampler_settings import SampleChanges, SampleConfig
from nami_jax.parallel.kept_programs import compilations
from nami_jax.sampling.stage_programs import run_stage
from tests.support.pipelines import EncoderAskedError, small_pipeline, states

STEPS = 6  # of three stages


@pytest.fixture(scope="module")
def pipe():
    return small_pipeline()


def test_pictures_are_images_numbers_or_latents(pipe):
    images, array, latents = (pipe(**states(), output_type=kind, num_images=2) for kind in ("pil", "np", "latent"))
    assert array.shape == latents.shape == (2, 16, 16, 3)
    assert array.dtype == np.float32
    np.testing.assert_array_equal(array, np.clip((latents + 1) / 2, 0, 1))
    np.testing.assert_array_equal(np.round(array * 255), np.stack([np.asarray(image) for image in images]))


def test_an_output_type_that_does_not_exist_is_named_with_those_that_do(pipe):
    with pytest.raises(ConfigError, match=r"output_type = 'pt': .* Set 'pil' or 'np' or 'latent'"):
        pipe(**states(), output_type="pt")


def test_every_stage_is_returned_at_its_size_and_the_last_is_the_picture(pipe):
    stages = pipe(**states(2), return_stages=True, output_type="latent")
    assert [stage.shape for stage in stages] == [(2, 4, 4, 3), (2, 8, 8, 3), (2, 16, 16, 3)]
    np.testing.assert_array_equal(stages[-1], pipe(**states(2), output_type="latent"))
    images = pipe(**states(2), return_stages=True)
    assert [[image.size for image in stage] for stage in images] == [[(4, 4)] * 2, [(8, 8)] * 2, [(16, 16)] * 2]


def test_states_draw_what_their_texts_draw_and_ask_for_no_encoder(pipe):
    with pytest.raises(EncoderAskedError):
        pipe("red card")
    given = states(2)
    both = pipe(**given, output_type="latent")
    second = {name: x[1:] if len(x) == 2 else x for name, x in given.items()}
    np.testing.assert_allclose(both[1:], pipe(**second, output_type="latent"), atol=1e-3)  # other matrix shapes
    other = {**given, "negative_prompt_embeds": given["negative_prompt_embeds"] + 1}
    assert not np.allclose(both, pipe(**other, output_type="latent"), atol=1e-2)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"pooled_prompt_embeds": None}, r"pooled_prompt_embeds is missing"),
        ({"prompt_embeds": np.zeros((1, 5, 7))}, r"must be token states \(B, T, 24\) and pooled vectors \(B, 12\)"),
        ({"prompts": "red"}, r"prompts = 'red': the states of these texts are given too"),
        ({"negative_prompt": "red"}, r"negative_prompt = 'red': the states of these texts are given too"),
        ({"negative_prompt_embeds": np.zeros((3, 5, 24)), "negative_pooled_prompt_embeds": np.zeros((3, 12))},
         r"has the states of 3 texts for 1 prompts"),
        ({"strength": 0.5}, r"strength = 0\.5: needs a picture"),
        ({"mask": np.ones((16, 16))}, r"mask = .* needs a picture"),
        ({"edit": "red"}, r"edit = 'red': needs a picture"),
        ({"callback_on_step_end": 3}, r"callback_on_step_end = 3: must be a function"),
        ({"callback_on_stage_end": 3}, r"callback_on_stage_end = 3: must be a function"),
        ({"stepz": 3}, r"sample\.stepz: no such config field\. Did you mean 'steps'"),
    ],
)  # fmt: skip
def test_arguments_that_do_not_go_together_are_refused_before_anything_is_compiled(pipe, changes, message):
    with compilations() as compiled, pytest.raises(ConfigError, match=message):
        pipe(**{**states(), **changes})
    assert not compiled


def test_what_may_be_changed_is_every_setting_of_the_sampler():
    assert SampleChanges.__annotations__.keys() == SampleConfig.__dataclass_fields__.keys()


@pytest.mark.parametrize(
    "solver", ["euler", "ab2", *(pytest.param(solver, marks=pytest.mark.slow) for solver in ("heun", "midpoint"))]
)
def test_a_callback_sees_each_step_and_changes_no_picture(pipe, solver):
    seen = []

    def callback(of, step, timestep, kwargs):
        assert of is pipe
        seen.append((step, timestep, kwargs["latents"].shape))
        return {}

    settings = {"solver": solver, "guidance_interval": (0.2, 1.0), "output_type": "latent"}
    found = pipe(**states(), callback_on_step_end=callback, **settings)
    np.testing.assert_allclose(found, pipe(**states(), **settings), atol=1e-4)
    assert [step for step, _, _ in seen] == list(range(STEPS))
    assert [shape for _, _, shape in seen] == [(1, side, side, 3) for side in (4, 4, 8, 8, 16, 16)]
    times = [timestep for _, timestep, _ in seen]
    assert times == sorted(times, reverse=True)
    assert times[1::2] == pytest.approx([1000 * 29 / 39, 1000 * 15 / 39, 0], abs=1e-3)


def test_latents_that_a_callback_returns_take_the_place_of_the_others(pipe):
    def last(pipe, step, timestep, kwargs):
        return {"latents": kwargs["latents"] * 0 + 0.5} if step == STEPS - 1 else None

    assert (pipe(**states(), callback_on_step_end=last, output_type="latent") == 0.5).all()

    def early(pipe, step, timestep, kwargs):
        return {"latents": kwargs["latents"] * 0} if step == 1 else None

    plain, changed = (pipe(**states(), callback_on_step_end=c, output_type="latent") for c in (None, early))
    assert not np.allclose(plain, changed, atol=1e-2)


def test_a_callback_compiles_its_own_programs_once_and_leaves_those_without_alone(pipe):
    kept = len(run_stage)
    pipe(**states(), callback_on_step_end=lambda *_: None)
    with compilations() as compiled:
        pipe(**states(), callback_on_step_end=lambda *_: None, seed=1)
    assert not compiled
    assert len(run_stage) == kept


@pytest.mark.parametrize("source", [{}, {"image": np.ones((16, 16, 3)), "strength": 0.7}])
def test_each_stage_is_told_when_it_is_done_and_no_other_is_begun_if_that_fails(pipe, source):
    told = []

    def callback(of, stage, pictures):
        assert of is pipe
        told.append((stage, pictures))

    found = pipe(**states(), **source, callback_on_stage_end=callback, output_type="latent")
    stages = pipe(**states(), **source, return_stages=True, output_type="latent")
    assert [stage for stage, _ in told] == [1, 2, 3][-len(stages) :]
    for (_, pictures), stage in zip(told, stages, strict=True):
        np.testing.assert_array_equal(pictures, stage)
    np.testing.assert_array_equal(found, told[-1][1])
    before = len(told)

    def fail(of, stage, pictures):
        told.append((stage, pictures))
        raise InterruptedError

    with pytest.raises(InterruptedError):
        pipe(**states(), **source, callback_on_stage_end=fail)
    assert len(told) == before + 1


def test_a_bar_counts_steps(pipe, capfd):
    pipe(**states(), progress=True)
    assert f"{STEPS}/{STEPS}" in capfd.readouterr().err
    pipe(**states(), progress=True, callback_on_step_end=lambda *_: None)
    assert f"{STEPS - 1}/{STEPS}" in capfd.readouterr().err


def test_an_interrupted_call_leaves_the_pipeline_as_it_was(pipe):
    before = pipe(**states(), output_type="latent")

    def interrupt(pipe, step, timestep, kwargs):
        if step == 3:
            signal.raise_signal(signal.SIGINT)  # as Ctrl-C does

    with pytest.raises(KeyboardInterrupt):
        pipe(**states(), callback_on_step_end=interrupt)
    np.testing.assert_array_equal(before, pipe(**states(), output_type="latent"))


def test_two_threads_share_a_pipeline(pipe):
    def draw(seed):
        return [pipe(**states(seed=seed), seed=seed, output_type="latent", steps=(2, 1, 3)) for _ in range(3)]

    alone, found = {seed: draw(seed)[0] for seed in (1, 2)}, {}
    threads = [threading.Thread(target=lambda s=s: found.update({s: draw(s)})) for s in alone]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for seed, latents in alone.items():
        for each in found[seed]:
            np.testing.assert_array_equal(each, latents)
