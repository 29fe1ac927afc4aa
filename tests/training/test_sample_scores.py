import pytest

from nami_jax.config import ConfigError
from nami_jax.training.flow_task import FlowTask
from nami_jax.training.sample_scores import SampleScores
from tests.support.event_files import read_values
from tests.support.runs import train
from tests.support.styled_cards import cell_means, styled_config


def test_samples_of_held_out_captions_are_scored_the_same_each_time(tmp_path):
    cfg = styled_config(tmp_path / "data", evaluate_every=1, evaluate_images=6)
    task = FlowTask(cfg)
    scores = SampleScores(cfg, task.data, None, task.parts.sampler, {"cells": cell_means()})
    networks = task.parts.networks(task.first_state(tmp_path))
    found = scores.measure(networks)
    assert {"samples/concept", "samples/style", "samples/kid/cells", "samples/squared_error"} <= found.keys()
    assert scores.measure(networks) == found
    firsts = {captions[0] for captions in scores._evaluation.real.captions}  # whose states are sampled with
    assert len(scores._evaluation.captions) == 6
    assert set(scores._evaluation.captions) <= firsts


def test_a_held_out_split_too_small_to_measure_is_named_before_the_first_step(tmp_path):
    cfg = styled_config(tmp_path / "data", evaluate_every=1)
    few = type(cfg).from_dict(cfg.to_dict() | {"data": cfg.data.to_dict() | {"eval_split": "held_out[:4]"}})
    task = FlowTask(few)
    with pytest.raises(ConfigError, match="has 4 pictures"):
        task.views(tmp_path)


@pytest.mark.slow
def test_a_run_that_asks_for_it_has_scores_in_its_events(tmp_path):
    train(styled_config(tmp_path / "data", steps=4, evaluate_every=3, evaluate_images=6), tmp_path / "run")
    scalars = read_values(tmp_path / "run" / "events")
    assert set(scalars["samples/concept"]) == {3, 4}
    assert "samples/kid/efficientnet_lite0" in scalars
