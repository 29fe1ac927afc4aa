import collections
from typing import Any

import numpy as np
import pytest

from nami_jax.config import ConfigError
from nami_jax.data.captioned_images import open_source
from nami_jax.data.crops import crop_loader
from nami_jax.data.images import to_stage
from nami_jax.parallel.host_shard import HostShard

ORDER = {"seed": 3, "batch": 8, "crop": 12, "flip": True}


@pytest.fixture(scope="module")
def source(emoji_config):
    return open_source(emoji_config, "train")


def take(loader, count):
    return [next(loader) for _ in range(count)]


def test_an_element_is_a_batch_of_squares(source):
    (batch,) = take(crop_loader([source], **ORDER), 1)
    assert batch.shape == (8, 12, 12, 3)
    assert batch.dtype == np.float32
    assert -1 <= batch.min() < batch.max() <= 1


def test_squares_are_cut_from_the_images_mirrored_or_not(source):
    images = to_stage(np.stack([source[i]["image"] for i in range(len(source))]), 1)
    windows = np.lib.stride_tricks.sliding_window_view(images, (12, 12), axis=(1, 2))  # (N, 21, 21, 3, 12, 12)
    windows = windows.transpose(0, 1, 2, 4, 5, 3)
    batch = np.concatenate(take(crop_loader([source], **ORDER), 2))
    plain = [(windows == square).all((3, 4, 5)).any() for square in batch]
    mirrored = [(windows == square[:, ::-1]).all((3, 4, 5)).any() for square in batch]
    assert all(np.logical_or(plain, mirrored))
    assert not all(plain)
    assert not all(mirrored)


def test_whole_images_are_seen_once_an_epoch_each_in_a_new_order(source):
    size = len(source)
    loader = crop_loader([source], seed=0, batch=size, crop=32, flip=False)
    first, second = take(loader, 2)
    kinds = [collections.Counter(image.tobytes() for image in epoch) for epoch in (first, second)]
    assert kinds[0] == kinds[1]
    assert not np.array_equal(first, second)


def test_any_step_continues_exactly(source):
    steps = take(crop_loader([source], **ORDER), 5)
    loader = crop_loader([source], **ORDER)
    take(loader, 2)
    state = loader.get_state()
    assert state == {"next_index": 2}
    resumed = crop_loader([source], **ORDER)
    resumed.set_state(state)
    for found, expected in zip(take(resumed, 3), steps[2:], strict=True):
        np.testing.assert_array_equal(found, expected)


def test_two_processes_share_what_one_would_see(source):
    one = take(crop_loader([source], **ORDER), 3)
    halves = [take(crop_loader([source], **ORDER, shard=HostShard((i,), 2)), 3) for i in range(2)]
    for step, parts in zip(one, zip(*halves, strict=True), strict=True):
        np.testing.assert_array_equal(step, np.concatenate(parts))


def test_batch_that_processes_cannot_share_is_refused(source):
    with pytest.raises(ConfigError, match=r"train\.batch = \(8,\): 3 devices must share each batch evenly"):
        crop_loader([source], **ORDER, shard=HostShard((0,), 3))


def test_squares_of_images_of_several_sizes_are_mixed(source):
    wide, tall = ({"image": np.full((*sides, 3), level, np.uint8)} for sides, level in (((16, 32), 0), ((32, 16), 255)))
    sources: Any = [[wide] * 5, [tall] * 15]
    batches = take(crop_loader(sources, **ORDER), 5)
    levels = collections.Counter(float(square[0, 0, 0]) for batch in batches for square in batch)
    assert levels == {-1.0: 10, 1.0: 30}  # two epochs of twenty images
