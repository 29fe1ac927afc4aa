import dataclasses
import json
import re
import shutil

import numpy as np
import pytest

from nami_jax.autoencoder.codec import Autoencoder
from nami_jax.config import ConfigError, EvaluationConfig, MeshConfig
from nami_jax.evaluation.evaluator import Evaluation
from nami_jax.evaluation.real_pictures import open_real
from nami_jax.evaluation.run_evaluation import evaluate, model_originals, run_data
from nami_jax.release.run_conversion import convert_run
from nami_jax.sampling.parts import Parts
from nami_jax.sampling.pipeline import NamiPipeline
from nami_jax.weights.autoencoder_keys import load_autoencoder, read_autoencoder_config
from tests.support.golden_networks import golden_autoencoder
from tests.support.pipelines import no_encoder, small_pipeline


@pytest.fixture(scope="module")
def pipe(card_run) -> NamiPipeline:
    return NamiPipeline.from_pretrained(card_run)


@pytest.fixture(scope="module")
def evaluation(card_run, cells) -> Evaluation:
    data = run_data(card_run)
    assert data is not None
    return Evaluation(data, EvaluationConfig(seeds=2), networks={"cells": cells})


@pytest.fixture(scope="module")
def evaluated(pipe, evaluation, tmp_path_factory):
    out = tmp_path_factory.mktemp("evaluation") / "out"
    return evaluate(pipe, evaluation=evaluation, out=out), out


def test_a_run_is_sampled_and_measured_on_its_held_out_captions(evaluated, evaluation, pipe):
    found, out = evaluated
    report = json.loads((out / "evaluation.json").read_text())
    assert report == json.loads(json.dumps(found.report))
    assert (report["split"], report["captions"]) == ("held_out", 8)
    assert report["pictures"] == {"held_out": 8, "train": 16}
    assert found.samples.shape == (2, 8, 16, 16, 3)
    drawn = pipe(evaluation.captions[:1], seed=1)[0]
    assert np.abs(np.asarray(drawn, int) - found.samples[1, 0]).max() <= 1  # number 0 of seed 1
    names = {"concept", "style", "original", "copies", "kid/cells", "loss", "loss/stage_3", "loss/stage_1/noise_4"}
    assert names <= report["scores"].keys()
    assert all(np.isfinite(score["value"]) for score in report["scores"].values())
    stages = [report["scores"][f"loss/stage_{k}"]["value"] for k in (1, 2, 3)]
    assert report["scores"]["loss"]["value"] == pytest.approx(np.mean(stages))


def test_the_page_is_whole_and_asks_for_nothing_else(evaluated, evaluation):
    page = (evaluated[1] / "index.html").read_text("utf-8")
    assert not re.search(r"(src|href)=(?!.data:)|https?://|@import|url\(", page)
    captions = [caption.replace("&", "&amp;") for caption in evaluation.captions]
    assert (
        sum(caption in page for caption in captions) >= 6
    )  # of the eight: two nearest, two in the middle, two furthest
    assert page.count("<img ") == 18
    assert "concept" in page


def test_the_same_call_goes_on_and_another_is_refused(evaluated, evaluation, pipe, tmp_path):
    first, out = evaluated
    shutil.copytree(out, tmp_path / "out")
    (tmp_path / "out" / "samples" / "1" / "000003.png").unlink()
    times = {path: path.stat().st_mtime_ns for path in (tmp_path / "out" / "samples").rglob("*.png")}
    again = evaluate(pipe, evaluation=evaluation, out=tmp_path / "out")
    assert len(times) == 15
    assert all(path.stat().st_mtime_ns == time for path, time in times.items())
    assert np.abs(again.samples.astype(int) - first.samples).max() <= 1
    with pytest.raises(ConfigError, match=r"made with sampler.guidance_scale = .*, not 1.5. Set another --out"):
        evaluate(pipe, evaluation=evaluation, out=tmp_path / "out", sample=pipe.settings(guidance_scale=1.5))
    kept = json.loads((tmp_path / "out" / "samples.json").read_text())
    del kept["text_encoder"]  # as an older version wrote it
    (tmp_path / "out" / "samples.json").write_text(json.dumps(kept))
    with pytest.raises(ConfigError, match=r"made with text_encoder = None, not 'minilm-.*'. Set another --out"):
        evaluate(pipe, evaluation=evaluation, out=tmp_path / "out")


def test_a_pipeline_alone_does_not_say_what_it_was_trained_on(pipe):
    with pytest.raises(ConfigError, match=r"data = None: .* run_data"):
        evaluate(pipe)


def test_originals_of_a_named_set_are_encoded_at_the_sizes_that_a_flow_of_latents_is_trained_on(styled, cells):
    golden, small = golden_autoencoder("attention"), small_pipeline()
    autoencoder = Autoencoder(load_autoencoder(read_autoencoder_config(golden.config), golden.weights))
    pipe = NamiPipeline(Parts(small.model, small.cfg, None, ""), no_encoder, autoencoder=autoencoder)

    def originals(lower_stages: str) -> list[np.ndarray]:
        data = dataclasses.replace(styled, lower_stages=lower_stages)
        return model_originals(pipe, Evaluation(data, EvaluationConfig(), networks={"cells": cells}))

    (pooled,), (whole, *lower) = originals("latents"), originals("pixels")
    np.testing.assert_array_equal(whole, pooled)
    assert [latents.shape for latents in (whole, *lower)] == [(8, 8, 8, 4), (8, 4, 4, 4), (8, 2, 2, 4)]
    levels = open_real(styled, "held_out", EvaluationConfig(), None).pixels(range(8))
    images = levels / np.float32(127.5) - np.float32(1)
    halved = (images[:, ::2, ::2] + images[:, 1::2, ::2] + images[:, ::2, 1::2] + images[:, 1::2, 1::2]) / 4
    np.testing.assert_allclose(lower[0], autoencoder.encode(halved), atol=1e-5)


@pytest.mark.slow
def test_a_workdir_is_evaluated_by_efficientnet(card_run, styled):
    report = evaluate(card_run, settings=EvaluationConfig(seeds=1, num_images=4)).report
    assert "kid/efficientnet_lite0" in report["scores"]
    assert report["scores"]["squared_error"]["over"] == "pictures"


@pytest.mark.slow
def test_samples_and_losses_are_the_same_on_eight_devices(card_run, evaluated, evaluation):
    spread = NamiPipeline.from_pretrained(card_run, mesh=MeshConfig(fsdp=2))
    found, one = evaluate(spread, evaluation=evaluation), evaluated[0]
    assert np.abs(found.samples.astype(int) - one.samples).max() <= 1
    for name, score in one.report["scores"].items():
        if name.startswith("loss"):
            assert found.report["scores"][name]["value"] == pytest.approx(score["value"], rel=1e-3), name


def test_a_converted_run_says_what_it_was_trained_on_and_saved_weights_do_not(card_run, pipe, tmp_path):
    convert_run(card_run, tmp_path / "converted")
    assert run_data(tmp_path / "converted") == run_data(card_run)
    pipe.save_pretrained(tmp_path / "saved")
    assert run_data(tmp_path / "saved") is None
