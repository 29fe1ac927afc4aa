import dataclasses
import gc
import os
import pathlib
import re
import sys
import weakref

import jax
import numpy as np
import pytest
from PIL import Image

from nami_jax import NamiPipeline
from nami_jax.config import SAMPLE_PRESETS, ConfigError, parse_steps, sample_preset
from nami_jax.flow.stages import make_stages
from nami_jax.parallel.kept_programs import IN_MEMORY, compilations
from nami_jax.sample import file_name
from nami_jax.sampling.stage_programs import draw_noise, image_noise, run_stage
from nami_jax.weights import WeightsError
from tests.support import patience
from tests.support.paths import ROOT
from tests.support.runs import card_config, train


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    train(card_config(folder / "data", train={"steps": 3}), folder / "run", jax.devices()[:1])
    return folder / "run"


@pytest.fixture(scope="module")
def pipe(workdir):
    return NamiPipeline.from_pretrained(workdir)


def pixels(images):
    return np.stack([np.asarray(image, np.int32) for image in images])


def test_a_prompt_gives_pictures_of_the_trained_size(pipe):
    images = pipe("red card", num_images=2)
    assert [image.size for image in images] == [(16, 16), (16, 16)]
    assert not np.array_equal(*pixels(images))


def test_a_picture_depends_on_prompt_seed_and_number_alone(pipe):
    alone = pixels(pipe("red card", num_images=2, seed=5))
    together = pixels(pipe(["a blue card", "red card"], num_images=2, seed=5, batch_size=3))[2:]
    # Matrix products of other batch sizes may round differently: at most one level of 255.
    assert np.abs(alone - together).max() <= 1
    assert np.abs(alone - pixels(pipe("red card", num_images=2, seed=6))).max() > 1


def test_guidance_and_negative_prompt_change_the_picture(pipe):
    plain = pixels(pipe("red card", guidance_scale=1.0))
    assert np.array_equal(plain, pixels(pipe("red card", guidance_scale=1.0, negative_prompt="blue card")))
    assert not np.array_equal(pixels(pipe("red card")), pixels(pipe("red card", negative_prompt="blue card")))


def test_each_prompt_may_have_a_negative_prompt_of_its_own(pipe):
    prompts, negatives = ["red card", "a blue card"], ["blue card", "gold card"]
    together = pixels(pipe(prompts, negative_prompt=negatives))
    alone = pixels([pipe(p, negative_prompt=n)[0] for p, n in zip(prompts, negatives, strict=True)])
    assert np.abs(together - alone).max() <= 1  # as above: one level of rounding
    shared = pixels(pipe(prompts, negative_prompt=negatives[0]))
    assert np.array_equal(together[0], shared[0])
    assert not np.array_equal(together[1], shared[1])
    with pytest.raises(ConfigError, match=r"negative_prompt = .*: has 3 texts for 2 prompts"):
        pipe(prompts, negative_prompt=["a", "b", "c"])


def test_latents_that_are_not_finite_are_no_pictures(pipe):
    with pytest.raises(WeightsError, match=r"the network of .* gives latents that are not finite"):
        pipe.decode(np.full((1, 16, 16, 3), np.nan, np.float32))


def test_steps_solver_and_grid_can_be_chosen(pipe):
    for choice in ({"steps": (1, 1, 3)}, {"solver": "heun"}, {"grid": "released"}):
        assert pipe("red card", **choice)[0].size == (16, 16)


def test_oblong_pictures_are_drawn(pipe):
    assert pipe("red card", height=16, width=24)[0].size == (24, 16)


def test_a_new_number_of_pictures_is_filled_up_to_one_that_was_drawn_before(pipe):
    def drawn(count, batch_size=8):
        with compilations() as compiled:
            images = pipe("red card", num_images=count, batch_size=batch_size, steps=(1, 1, 2))
        return pixels(images), len(compiled)

    eight, at_first = drawn(8)
    assert at_first > 0
    for count in (5, 6, 7, 11):  # the last in two batches
        some, compiled = drawn(count)
        assert (len(some), compiled) == (count, 0)
        # The same program and the same noise: equal bit for bit, whatever stands beside them.
        assert np.array_equal(some[:8], eight[:count])
    assert drawn(3, batch_size=3)[0].shape[0] == 3  # no more at once than allowed


@pytest.mark.slow
def test_requests_of_many_sizes_do_not_pile_up_programs(pipe):
    found = []
    for i in range(60):
        pipe("red card", height=8 * (1 + i % 8), width=8 * (1 + i // 8), steps=(1, 1, 1))
        found.append(len(pathlib.Path("/proc/self/maps").read_text().splitlines()))
    assert len(run_stage) == len(draw_noise) == IN_MEMORY
    print(f"memory maps after 15, 30, 45 and 60 sizes: {found[14::15]}")
    # Each size has some 200 maps: thirty more that were kept would have added 6,000.
    assert found[-1] - found[29] < 1500


@pytest.mark.parametrize(
    ("request_", "message"),
    [
        ({"prompts": ""}, "a prompt is empty"),
        ({"prompts": ["red card", "  "]}, "a prompt is empty"),
        ({"prompts": []}, "a prompt is empty"),
        ({"prompts": "red", "steps": (10, 10)}, r"steps = \(10, 10\): the model has 3 stages"),
        ({"prompts": "red", "height": 20}, r"height = 20: .* multiple of 8\. Set 24"),
        ({"prompts": "red", "height": 0}, r"height = 0"),
        ({"prompts": "red", "num_images": 0}, "num_images = 0"),
        ({"prompts": "red", "solver": "rk4"}, "solver = 'rk4'"),
        ({"prompts": "red", "preset": "release"}, "preset = 'release': no such preset. Did you mean 'released'"),
        ({"prompts": "red", "preset": "released"}, "transition = 'bridge': this model has no bridge. Set 'renoise'"),
        ({"prompts": "red", "transition": "jump"}, "sample.transition = 'jump'"),
        ({"prompts": None}, "prompts = None: must be a text or a list of texts"),
        ({"prompts": ["red", 3]}, "must be a text or a list of texts"),
        ({"prompts": "a\udcff"}, "prompts = 'a.*': is not valid Unicode at letter 1"),
        ({"prompts": "red", "steps": 10}, r"sample\.steps = 10: must be a list"),
        ({"prompts": "red", "seed": 1.5}, r"seed = 1\.5: must be an integer"),
        ({"prompts": "red", "seed": [0, 1]}, r"seed = \(0, 1\): must be an integer"),
        ({"prompts": "red", "seed": 2**32}, r"seed = 4294967296: must be in \[0, 4294967296\)"),
        ({"prompts": "red", "guidance_scale": [3.0]}, r"guidance_scale = \(3\.0,\): .* 3 stages"),
        ({"prompts": "red", "guidance_scale": "3"}, r"guidance_scale = '3': must be a number"),
        ({"prompts": "red", "guidance_scale": (3, -1, 1)}, r"guidance_scale\[1\] = -1: must not be negative"),
        (
            {"prompts": "red", "guidance_interval": (0.9, 0.1)},
            r"guidance_interval = .* Set \(0\.1, 0\.9\)",
        ),
        ({"prompts": "red", "zero_init_steps": 9}, r"zero_init_steps = 9: the first stage has"),
        ({"prompts": "red", "taus": ((1, 0),)}, r"steps = \(1,\): the model has 3 stages"),
        (
            {"prompts": "red", "taus": ((1, 0), (1, 0), (0.5, 0))},
            r"taus = .*: the local times .* must fall",
        ),
        ({"prompts": "red", "taus": 3}, r"sample\.taus = 3: must be a list"),
        ({"prompts": "red", "grid": "released", "shift": 2.0}, r"grid = 'released': the released grid has no shift"),
        ({"prompts": "red", "guidance_scale": 1e39}, r"guidance_scale = 1e\+39: must be at most 1000"),
        ({"prompts": "red", "height": -32}, r"height = -32: must be at least 1\. Set e\.g\. 512"),
    ],
)
def test_bad_requests_are_refused(pipe, request_, message):
    with pytest.raises(ConfigError, match=message):
        pipe(request_.pop("prompts"), **request_)


def test_settings_are_the_presets_with_what_is_given_in_their_place(pipe):
    released = pipe.settings("released", steps=[4, 4, 4], transition="renoise", solver=None)
    assert (released.steps, released.transition, released.grid) == ((4, 4, 4), "renoise", "released")
    assert pipe.settings() == pipe.cfg.sample
    assert sample_preset("released", pipe.cfg.sample).steps == (10, 10, 10)


@pytest.mark.parametrize("preset", [name for name in SAMPLE_PRESETS if name != "released"])
def test_a_budget_s_preset_draws_with_the_model_s_own_scale_and_jump(pipe, preset):
    settings = pipe.settings(preset)
    own = pipe.cfg.sample
    assert (settings.guidance_scale, settings.transition) == (own.guidance_scale, own.transition)
    assert len(pipe("red card", preset=preset)) == 1


def test_local_times_of_one_s_own_bring_their_steps_and_are_dropped_by_others(pipe):
    taus = ((1.0, 0.4, 0.0), (1.0, 0.0), (1.0, 0.5, 0.0))
    own = pipe.settings(taus=taus)
    assert (own.taus, own.steps) == (taus, (2, 1, 2))
    assert pipe.settings(**dataclasses.asdict(own)) == own  # as the command passes them on
    assert own.changed({"steps": (1, 1, 1)}).taus is None
    text, negative = pipe.encode(["red card", ""], split=1)
    even, the_same, others = (
        pipe.sample_latents(text, negative, pipe.settings(**changes), seed=1)
        for changes in ({"steps": (2, 1, 2)}, {"taus": ((1, 0.5, 0), (1, 0), (1, 0.5, 0))}, {"taus": taus})
    )
    assert np.array_equal(even, the_same)
    assert not np.array_equal(even, others)


def test_given_states_and_initial_latents_make_the_same_picture(pipe):
    text, negative = pipe.encode(["red card", ""], split=1)
    initial = image_noise(3, [0], make_stages(3)[0], (4, 4, 3))
    drawn = pipe.decode(pipe.sample_latents(text, negative, initial=initial, seed=3))
    assert np.array_equal(pixels(drawn), pixels(pipe("red card", seed=3)))
    other = pipe.decode(pipe.sample_latents(text, negative, initial=-initial, seed=3))
    assert not np.array_equal(pixels(drawn), pixels(other))
    with pytest.raises(ConfigError, match=r"initial = \(1, 8, 8, 3\): is not the shape .* Pass .*\(1, 4, 4, 3\)"):
        pipe.sample_latents(text, negative, initial=np.zeros((1, 8, 8, 3), np.float32))


def test_the_text_encoder_is_kept_or_freed_by_choice(workdir):
    pipe = NamiPipeline.from_pretrained(workdir, keep_encoder=False)
    pipe.encode(["red card", ""], split=1)
    assert pipe._encoder is None
    pipe.keep_encoder = True
    pipe.encode(["red card", ""], split=1)
    kept = weakref.ref(pipe._encoder)
    pipe.free_encoder()
    gc.collect()
    assert kept() is None


def test_compute_type_can_be_chosen(workdir):
    pipe = NamiPipeline.from_pretrained(workdir, dtype="bfloat16")
    assert pipe.model.cfg.dtype == pipe.model.image_in.dtype == "bfloat16"
    assert pipe("red card")[0].size == (16, 16)


def test_a_long_prompt_is_cut_with_a_warning(pipe, caplog):
    assert len(pipe("red card " * 50)) == 1
    assert "longer than the text window of 8 tokens" in caplog.text


def command(*arguments, **env):
    return patience.run([sys.executable, "-m", *arguments], 300, cwd=ROOT, env=os.environ | env)


def test_command_writes_pictures_that_say_what_they_are(workdir, tmp_path):
    run = command("nami_jax.sample", "--checkpoint", str(workdir), "--prompt", "red card", "--prompt", "blue card",
                  "--steps", "1,2,1", "--guidance_scale", "2,2,1", "--guidance_interval", "0.2,1", "--solver", "ab2",
                  "--cfg_zero_star", "--seed", "4", "--out", str(tmp_path))  # fmt: skip
    assert run.returncode == 0, run.stderr
    assert {p.name for p in tmp_path.iterdir()} == {"000-red-card-seed4.png", "001-blue-card-seed4.png", "grid.png"}
    with Image.open(tmp_path / "000-red-card-seed4.png") as image:
        about = image.text  # pyright: ignore[reportAttributeAccessIssue]
    assert about["prompt"] == "red card"
    assert about["seed"] == "4"
    assert about["steps"] == "(1, 2, 1)"
    assert about["guidance_scale"] == "(2.0, 2.0, 1.0)"
    assert about["guidance_interval"] == "(0.2, 1.0)"
    assert (about["solver"], about["cfg_zero_star"]) == ("ab2", "True")
    assert str(workdir) in about["checkpoint"]


@pytest.mark.slow
def test_command_begins_from_a_picture_and_saves_stages(workdir, tmp_path):
    source, mask = Image.new("RGB", (16, 16), "navy"), Image.new("L", (16, 16))
    mask.paste(255, (0, 0, 16, 5))
    source.save(tmp_path / "source.png")
    mask.save(tmp_path / "mask.png")
    given = ("--image", str(tmp_path / "source.png"), "--mask", str(tmp_path / "mask.png"), "--stages")
    run = command("nami_jax.sample", "--checkpoint", str(workdir), "--prompt", "red card", *given, "--preset=released",
                  "--transition=renoise", "--steps=2,1,2", "--out", str(tmp_path / "out"))  # fmt: skip
    assert run.returncode == 0, run.stderr
    assert "--preset=released adds '.extremely detailed" in run.stdout
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert names == {"000-red-card-seed0.png", "000-red-card-seed0-stages.png"}
    with Image.open(tmp_path / "out" / "000-red-card-seed0.png") as image:
        found, about = np.asarray(image.convert("RGB")), image.text  # pyright: ignore[reportAttributeAccessIssue]
    assert (found[5:] == np.asarray(source)[5:]).all()
    assert not (found[:5] == np.asarray(source)[:5]).all()
    assert about["mask"] == str(tmp_path / "mask.png")
    assert about["negative_prompt"].startswith("(face asymmetry")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("nami_jax.sample", "--checkpoint", "nowhere", "--prompt", "x"), "error: checkpoint = 'nowhere': is not"),
        (("nami_jax.sample", "--checkpoint", "x", "--prompt", "x", "--step_s", "3"), "Did you mean"),
        (("nami_jax.train", "--config", "configs/emoji_tiny.py", "--workdir", "x", "--config.train.stepz=3"),
         "Did you mean 'steps'?"),
        (("nami_jax.train", "--config", "configs/no.py", "--workdir", "x"), "configs/no.py"),
        (("nami_jax.train", "--config", "configs/emoji_tiny.py", "--workdir", "x", "--stop_after=0"), "stop_after = 0"),
        (("nami_jax.train", "--config", "configs/emoji_tiny.py", "--workdir", "x", "--config.data.side=30"),
         "error: data.side = 30: 3 stages of 4x4 patches need a multiple of 16. Set 32."),
        (("nami_jax.train", "--config", "configs/emoji_tiny.py", "--workdir", "x", "--profile=15:10"),
         "error: --profile = '15:10': must be steps of the run, 1 to 1500, in order."),
    ],
)  # fmt: skip
def test_wrong_command_lines_name_the_remedy_before_anything_starts(arguments, message):
    run = command(*arguments)
    assert run.returncode != 0
    assert message in run.stderr
    assert "Traceback" not in run.stderr
    assert not (ROOT / "x").exists()


def test_steps_are_whole_numbers():
    assert parse_steps(["10", " 4"]) == (10, 4)
    with pytest.raises(ConfigError, match=r"steps = '10,x': must be whole numbers"):
        parse_steps(["10", "x"])


def test_file_names_hold_the_words_of_the_prompt():
    assert file_name(3, "A red/apple, please!", 0) == "003-a-red-apple-please-seed0.png"


def test_repr_says_what_is_drawn_and_with_what(pipe, workdir):
    told = repr(pipe)
    assert told.startswith(f"NamiPipeline({workdir} step ")
    assert re.search(r": [\d,]+ parameters, 3 stages, 16x16 pixels, text by minilm, SampleConfig\(steps=", told)
