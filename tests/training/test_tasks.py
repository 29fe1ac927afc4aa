from pathlib import Path

import pytest

from nami_jax.config import ConfigError
from nami_jax.training.autoencoder.autoencoder_task import AutoencoderTask
from nami_jax.training.flow_task import FlowTask
from nami_jax.training.tasks import read_task
from tests.support.autoencoder_runs import make_autoencoder_run
from tests.support.runs import card_config

FLOW, AUTOENCODER = card_config(Path("data")), make_autoencoder_run("data")


@pytest.mark.parametrize(("cfg", "kind"), [(FLOW, FlowTask), (AUTOENCODER, AutoencoderTask)])
def test_a_config_says_which_task_it_is_of(cfg, kind):
    task = read_task(cfg.to_dict())
    assert type(task) is kind
    assert task.cfg == cfg


@pytest.mark.parametrize(("cfg", "name"), [(FLOW, "flow"), (AUTOENCODER, "autoencoder")])
def test_a_config_may_name_its_task(cfg, name):
    assert read_task(cfg.to_dict() | {"task": name}).cfg == cfg


def test_a_task_that_does_not_exist_is_named_with_those_that_do():
    with pytest.raises(ConfigError, match=r"task = 'painter': is not a task\. Set one of flow, autoencoder\."):
        read_task(FLOW.to_dict() | {"task": "painter"})


def test_a_dry_run_logs_each_step_and_shortens_the_bridges_training():
    cfg = card_config(Path("data"), bridge={"kind": "conv", "steps": 500}, sample={"transition": "bridge"})
    short = read_task(cfg.to_dict()).shortened(2).cfg
    assert (short.bridge.steps, short.train.log_every, short.train.steps) == (2, 1, cfg.train.steps)
    assert read_task(AUTOENCODER.to_dict()).shortened(2).cfg.train.log_every == 1
