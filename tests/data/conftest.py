"""The emoji data set, built once for all tests; a whole run's configuration; text states made up from a seed."""

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest

from nami_jax.config import Config, DataConfig, FlowConfig, ModelConfig, SampleConfig, TextConfig, TrainConfig
from nami_jax.data.captioned_images import open_source
from nami_jax.text.caption_table import TextTable


@pytest.fixture(scope="session")
def emoji_config(tmp_path_factory: pytest.TempPathFactory) -> DataConfig:
    """The laptop default, prepared in a folder that does not exist before."""
    cfg = DataConfig(
        name="emoji_captions/food_animals_32:1.0.0",
        train_split="train",
        eval_split="held_out",
        image_key="image",
        caption_key="captions",
        side=32,
        data_dir=str(tmp_path_factory.mktemp("emoji") / "data" / "sets"),
        cache_images=300,
    )
    open_source(cfg, "train")
    return cfg


@pytest.fixture(scope="session")
def run_config(emoji_config: DataConfig) -> Config:
    """Three stages, three phases, ten steps."""
    return Config(
        model=ModelConfig(
            channels=3, patch_size=2, num_heads=2, rope_axes=(2, 2, 2), double_blocks=1, stage_single_blocks=(0, 1, 2),
            mlp_ratio=2, text_dim=3, pooled_dim=2,
        ),
        flow=FlowConfig(),
        data=emoji_config,
        text=TextConfig(max_length=5),
        train=TrainConfig(
            seed=3, steps=10, stage_batches=((8, 4, 4), (4, 8, 4), (4, 4, 12)), phase_starts=(0.0, 0.3, 0.6),
            phase_learning_rates=(1e-3, 1e-3, 1e-3), warmup_steps=0, decay="constant", weight_decay=0.0, adam_b1=0.9,
            adam_b2=0.99, grad_clip=1.0, ema_decay=0.9, caption_dropout=0.1, log_every=1, eval_every=1, eval_batch=8,
            checkpoint_every=1, keep_checkpoints=1, sample_every=1, sample_images=1,
        ),
        sample=SampleConfig(steps=(1, 1, 1)),
    )  # fmt: skip


@pytest.fixture
def make_table(tmp_path: Path) -> Callable[[Sequence[str]], TextTable]:
    """Makes a table whose states (T = 5, D = 3, P = 2) differ from caption to caption, without running an encoder."""

    def make(captions: Sequence[str]) -> TextTable:
        rows = np.zeros(len(captions), np.dtype([("embeds", np.float16, (5, 3)), ("pooled", np.float32, (2,))]))
        rows["embeds"] = np.random.default_rng(0).normal(size=rows["embeds"].shape)
        rows["pooled"] = np.arange(2 * len(captions)).reshape(-1, 2)
        np.save(tmp_path / "states.npy", rows)
        return TextTable(tmp_path / "states.npy", captions)

    return make


@pytest.fixture(scope="session")
def replace() -> Callable[..., Config]:
    """Sets fields of one section, as in `replace(cfg, "train", steps=5)`."""

    def replaced(cfg: Config, section: str, **fields: object) -> Config:
        return dataclasses.replace(cfg, **{section: dataclasses.replace(getattr(cfg, section), **fields)})

    return replaced
