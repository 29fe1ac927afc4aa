"""A data set of twenty plain cards, as tensorflow-datasets makes it, and the configuration of a run on it."""

import dataclasses
import io
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
import tensorflow_datasets as tfds
from PIL import Image

from nami_jax.checkpoints.checkpoint import Checkpoints
from nami_jax.config import Config
from nami_jax.training.flow_task import FlowTask
from nami_jax.training.loop import run
from nami_jax.training.state import TrainState
from nami_jax.training.task import Task
from tests.support.sizes import make_config

COLOURS = ("red", "green", "blue", "black", "gold", "grey", "pink", "navy", "cyan", "lime")


class PlainCards(tfds.core.GeneratorBasedBuilder):
    """Ten colours, each with a light and a dark frame, named by a class label."""

    VERSION = tfds.core.Version("1.0.0")

    def _info(self) -> tfds.core.DatasetInfo:
        features = {
            "picture": tfds.features.Image(shape=(None, None, 3)),
            "colour": tfds.features.ClassLabel(names=[f"{colour}_card" for colour in COLOURS]),
        }
        return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict(features))

    def _split_generators(self, dl_manager: Any) -> dict[str, Any]:
        return {"train": self._generate_examples()}

    def _generate_examples(self) -> Iterator[tuple[int, dict[str, Any]]]:
        for i in range(20):
            image = Image.new("RGB", (16, 16), "white" if i % 2 else "brown")
            image.paste(COLOURS[i // 2], (3, 3, 13, 13))
            buffer = io.BytesIO()
            image.save(buffer, "PNG")
            yield i, {"picture": io.BytesIO(buffer.getvalue()), "colour": i // 2}


def card_config(data_dir: Path, **sections: dict[str, Any]) -> Config:
    """Returns a run of twelve steps on the cards, with fields replaced as in `make_config`.

    Its network is the smallest of three stages: what is tested is the run around it, of which most time is compilation.
    """
    data = {
        "name": "plain_cards", "train_split": "train[:80%]", "eval_split": "train[80%:]", "image_key": "picture",
        "caption_key": "colour", "caption_templates": ("{}", "a {}"), "data_dir": str(data_dir),
    }  # fmt: skip
    model = {"double_blocks": 0, "stage_single_blocks": (1, 1, 1), "text_dim": 384, "pooled_dim": 384}
    return make_config(
        **sections | {"data": data | sections.get("data", {}), "model": model | sections.get("model", {})}
    )


def train(
    cfg: Config, workdir: Path, devices: Sequence[Any] | None = None, stop_after: int | None = None, **extras: Any
) -> TrainState:
    """Runs or continues the training of a flow."""
    return run(FlowTask(cfg, devices), workdir, stop_after=stop_after, **extras)


def restored(checkpoints: Checkpoints, task: Task) -> tuple[TrainState, dict]:
    """Returns the state in the newest checkpoint of a run, and the loader's position."""
    found = checkpoints.restore_latest(task.abstract_state().items())
    assert found is not None
    return TrainState.from_items(found[0]), found[1]


def numbers(state: TrainState) -> dict[str, np.ndarray]:
    """Returns all of a training state as NumPy arrays by path, random keys as the words they hold."""
    state = dataclasses.replace(state, key=jax.random.key_data(state.key))
    return {jax.tree_util.keystr(path): np.asarray(leaf) for path, leaf in jax.tree_util.tree_leaves_with_path(state)}
