import dataclasses
import os

import pytest

from nami_jax.config import ConfigError
from nami_jax.preparation.finding import find_source
from nami_jax.preparation.folder_source import FolderSource
from nami_jax.preparation.pair_source import PairSource
from nami_jax.preparation.tar_source import TarSource
from nami_jax.preparation.tfds_source import TfdsSource
from tests.support.runs import PlainCards, card_config


@pytest.fixture
def data(tmp_path):
    return card_config(tmp_path / "sets").data


def test_a_folder_with_metadata_is_a_folder(tmp_path, data):
    (tmp_path / "metadata.jsonl").touch()
    assert find_source(str(tmp_path), data) == FolderSource(str(tmp_path))


def test_a_folder_with_a_table_or_with_images_alone_is_told_from_it(tmp_path, data):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "x.PNG").touch()
    (tmp_path / "circle").symlink_to("circle")
    assert find_source(str(tmp_path), data) == PairSource(str(tmp_path))
    (tmp_path / "metadata.csv").touch()
    assert find_source(str(tmp_path), data) == FolderSource(str(tmp_path), "metadata.csv")
    (tmp_path / "metadata.jsonl").touch()
    with pytest.raises(ConfigError, match=r"contains both metadata\.jsonl and metadata\.csv\. Keep one"):
        find_source(str(tmp_path), data)


def test_tars_are_given_as_a_folder_a_pattern_or_a_file(tmp_path, data):
    for name in ("a/1.tar", "a/0.tar", "b/0.tar", "a/0.json", "a/x.tar.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    a = f"{tmp_path}/a"
    assert find_source(a, data) == TarSource(f"{a}/", ("0.tar", "1.tar"))
    assert find_source(f"{a}/1.tar", data) == TarSource(f"{a}/", ("1.tar",))
    assert find_source(f"{tmp_path}/*/0.*", data) == TarSource(f"{tmp_path}/", ("a/0.tar", "b/0.tar"))


def test_a_name_is_a_data_set_and_replaces_that_of_the_config(tmp_path, data):
    other = dataclasses.replace(data, name="something else")
    assert find_source("plain_cards", other) == TfdsSource(data)
    assert PlainCards.name in {path.name for path in (tmp_path / "sets").iterdir()}


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("nothing", r"source = 'nothing': no such folder, and not usable as a data set: data\.name = 'nothing'"),
        ("plain_card", r"Did you mean 'plain_cards'"),
        ("./nothing", r"no such folder, file or data set\. Pass a folder of images that contains metadata\.jsonl"),
        ("nothing/*.tar", r"matches no file that ends in \.tar"),
        ("nothing.tar", r"matches no file that ends in \.tar"),
        ("{tmp_path}/empty", r"contains neither images nor metadata\.jsonl, metadata\.csv or tars\. Pass"),
        ("{tmp_path}/both", r"contains both metadata\.jsonl and tars\. Keep one of them, or pass '.*/both/\*\.tar'"),
        ("{tmp_path}/pipes", r"contains neither images nor"),
        ("{tmp_path}/pipes/x.tar", r"matches no file that ends in \.tar"),
    ],
)
def test_what_names_nothing_or_two_things_is_refused_with_what_was_looked_for(tmp_path, data, source, message):
    for name in ("empty", "both", "pipes"):
        (tmp_path / name).mkdir()
    for name in ("x.tar", "metadata.jsonl"):
        os.mkfifo(tmp_path / "pipes" / name)  # opening it would wait for ever
    for name in ("metadata.jsonl", "0.tar"):
        (tmp_path / "both" / name).touch()
    with pytest.raises(ConfigError, match=message):
        find_source(source.format(tmp_path=tmp_path), data)
