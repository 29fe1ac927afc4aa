"""Styled cards, features of them, and a run on them."""

from pathlib import Path

import pytest

from nami_jax.config import DataConfig
from nami_jax.evaluation.features import FeatureNetwork
from tests.support.runs import train
from tests.support.styled_cards import cell_means, styled_config, styled_data


@pytest.fixture(scope="session")
def styled(tmp_path_factory: pytest.TempPathFactory) -> DataConfig:
    return styled_data(tmp_path_factory.mktemp("styled") / "data")


@pytest.fixture(scope="session")
def cells() -> FeatureNetwork:
    return cell_means()


@pytest.fixture(scope="session")
def card_run(styled: DataConfig, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of four steps."""
    workdir = tmp_path_factory.mktemp("card_run") / "run"
    train(styled_config(Path(styled.data_dir), steps=4), workdir)
    return workdir
