"""Generated pictures that copy a training picture are found, whatever was done to them on the way."""

import numpy as np
import pytest
from PIL import Image, ImageOps

from nami_jax.config import ConfigError
from nami_jax.nami1k import image_copies
from nami_jax.nami1k.image_copies import find_copies


def picture(seed):
    """A picture of some large shapes: a hash of low frequencies says little of noise."""
    coarse = np.random.default_rng(seed).integers(0, 256, (6, 6, 3), np.uint8)
    return Image.fromarray(coarse).resize((96, 96), Image.Resampling.BICUBIC)


@pytest.fixture
def folders(tmp_path):
    generated, training = tmp_path / "generated", tmp_path / "training" / "deeper"
    generated.mkdir()
    training.mkdir(parents=True)
    for seed in range(6):
        picture(seed).save(training / f"{seed}.png")
    picture(0).resize((64, 48)).save(generated / "small.png")
    picture(1).save(generated / "jpeg.jpg", quality=40)
    ImageOps.mirror(picture(2)).save(generated / "mirror.png")
    picture(100).save(generated / "new.png")
    (generated / "broken.png").write_bytes(b"no picture")
    return generated, training.parent


def pairs(audit):
    return {(copy.generated.rsplit("/")[-1], copy.training.rsplit("/")[-1]) for copy in audit.copies}


def test_hashes_find_resized_recompressed_and_mirrored_copies(folders):
    found = find_copies(folders[0], folders[1], None)
    assert pairs(found) == {("small.png", "0.png"), ("jpeg.jpg", "1.png"), ("mirror.png", "2.png")}
    assert (found.generated, found.training, found.pairs) == (4, 6, 3)
    assert list(found.unreadable) == [str(folders[0] / "broken.png")]


def test_features_find_what_hashes_do_not(folders):
    def features(paths):
        new = [path.endswith(("new.png", "5.png")) for path in paths]
        return np.array([(one, not one) for one in new], np.float32).reshape(-1, 2) * [1, 0.1]

    found = find_copies(folders[0], folders[1], features)
    assert ("new.png", "5.png") in pairs(found)
    assert len(found.copies) == 4
    first = found.to_dict()["copies"][0]
    assert first["score"] == max(copy.score for copy in found.copies)


def test_a_chunk_of_broken_pictures_alone_takes_nothing_from_the_others(folders, monkeypatch):
    monkeypatch.setattr(image_copies, "CHUNK", 1)
    found = find_copies(folders[0], folders[1], lambda paths: np.eye(1, 9).repeat(len(paths), 0))
    assert (found.generated, found.pairs, list(found.unreadable)) == (4, 24, [str(folders[0] / "broken.png")])


def test_the_strongest_pairs_are_kept(folders, monkeypatch):
    monkeypatch.setattr(image_copies, "MOST_PAIRS", 1)
    monkeypatch.setattr(image_copies, "CHUNK", 2)
    picture(0).save(folders[0] / "same.png")
    found = find_copies(folders[0], folders[1], None)
    assert (found.pairs, [copy.bits for copy in found.copies]) == (4, [0])


def test_folders_without_pictures_are_refused(folders, tmp_path):
    with pytest.raises(ConfigError, match=r"images = .*is no folder"):
        find_copies(tmp_path / "none", folders[1], None)
    (tmp_path / "empty").mkdir()
    with pytest.raises(ConfigError, match=r"training = .*holds none of \.png"):
        find_copies(folders[0], tmp_path / "empty", None)


def test_a_folder_of_broken_pictures_alone_matches_nothing(folders, tmp_path):
    broken = tmp_path / "broken"
    broken.mkdir()
    (broken / "x.png").write_bytes(b"")
    for features in (None, lambda paths: np.ones((len(paths), 1))):
        found = find_copies(broken, folders[1], features)
        assert (found.generated, found.training, found.pairs) == (0, 6, 0)
        assert find_copies(folders[0], broken, features).training == 0
