import collections

import jax
import numpy as np
import pytest

from nami_jax.config import ConfigError
from nami_jax.data.captioned_images import CaptionedImages, all_captions, open_source
from nami_jax.data.corruption import CorruptDataError
from nami_jax.data.examples import Example, Pixels
from nami_jax.data.images import to_stage
from nami_jax.data.loader import eval_batches, order_steps, train_loader
from nami_jax.parallel.host_shard import WHOLE, HostShard


@pytest.fixture(scope="module")
def source(run_config) -> CaptionedImages:
    return open_source(run_config.data, "train")


@pytest.fixture
def text(source, make_table):
    return make_table(all_captions(source))


def loader(source, text, cfg, **processes):
    return train_loader([Pixels(source, text, cfg.data.flip)], cfg, **processes)


def evaluation(source, text, cfg, **processes):
    return eval_batches([Pixels(source, text)], cfg, **processes)


def all_equal(one, other):
    assert len(one) == len(other)
    for batch, other_batch in zip(one, other, strict=True):
        assert jax.tree.structure(batch) == jax.tree.structure(other_batch)
        jax.tree.map(np.testing.assert_array_equal, batch, other_batch)


def contents(steps):
    """What each stage saw: its images and pooled vectors, as a multiset per step."""
    return [
        [
            collections.Counter((image.tobytes(), pooled.tobytes()) for image, pooled in rows)
            for rows in (
                [pair for part in stage for pair in zip(part.images, part.text.pooled, strict=True)]
                for stage in zip(*processes, strict=True)
            )
        ]
        for processes in steps
    ]


def test_an_element_is_one_step_of_every_stage(source, text, run_config):
    step = next(loader(source, text, run_config))
    assert [batch.images.shape for batch in step] == [(8, 8, 8, 3), (4, 16, 16, 3), (4, 32, 32, 3)]
    assert [batch.text.embeds.shape for batch in step] == [(8, 5, 3), (4, 5, 3), (4, 5, 3)]
    assert [batch.text.pooled.shape for batch in step] == [(8, 2), (4, 2), (4, 2)]
    for batch in step:
        assert all(array.dtype == np.float32 for array in (batch.images, batch.text.embeds, batch.text.pooled))
        assert -1 <= batch.images.min() < -0.3 < 0.9 < batch.images.max() <= 1


def test_sizes_change_with_the_phase_and_the_run_ends_with_its_steps(source, text, run_config):
    sizes = [tuple(len(batch.images) for batch in step) for step in loader(source, text, run_config)]
    assert sizes == [(8, 4, 4)] * 3 + [(4, 8, 4)] * 3 + [(4, 4, 12)] * 4


def test_equal_seeds_give_equal_steps_and_others_do_not(source, text, run_config, replace):
    first = next(loader(source, text, run_config))
    all_equal(first, next(loader(source, text, run_config)))
    other = next(loader(source, text, replace(run_config, "train", seed=4)))
    assert not np.array_equal(first[0].text.pooled, other[0].text.pooled)


@pytest.mark.parametrize("position", [2, 3, 7])
def test_resuming_continues_where_it_stopped(source, text, run_config, position):
    steps = list(loader(source, text, run_config))
    interrupted = loader(source, text, run_config)
    for _ in range(position):
        next(interrupted)
    state = interrupted.get_state()
    assert state == {"next_index": position}
    resumed = loader(source, text, run_config)
    resumed.set_state(state)
    rest = list(resumed)
    assert len(rest) == len(steps) - position
    for step, expected in zip(rest, steps[position:], strict=True):
        all_equal(step, expected)


@pytest.mark.parametrize(
    "shards",
    [
        [HostShard((0,), 2), HostShard((1,), 2)],
        [HostShard((i,), 4) for i in range(4)],
        [HostShard((0, 3), 4), HostShard((1, 2), 4)],
    ],
    ids=["two processes", "four", "two whose devices alternate"],
)
def test_any_number_of_processes_sees_the_same_samples_in_the_same_rows(source, text, run_config, replace, shards):
    cfg = replace(run_config, "data", flip=True)
    whole, parts = list(loader(source, text, cfg)), [list(loader(source, text, cfg, shard=shard)) for shard in shards]
    assert len(whole) == 10
    for step, *pieces in zip(whole, *parts, strict=True):
        for k, batch in enumerate(step):
            for rows, *shares in zip(*(jax.tree.leaves(x) for x in (batch, *(p[k] for p in pieces))), strict=True):
                joined = np.empty_like(rows)
                for shard, share in zip(shards, shares, strict=True):
                    joined[shard.rows(len(rows))] = share
                np.testing.assert_array_equal(joined, rows)


def test_no_image_comes_twice_within_an_epoch_whatever_its_stage_and_phase(source, text, run_config):
    shown = {to_stage(source[i]["image"][None], f)[0].tobytes(): i for i in range(len(source)) for f in (4, 2, 1)}
    assert len(shown) == 3 * len(source)
    steps = loader(source, text, run_config)
    seen = collections.Counter(shown[image.tobytes()] for step in steps for batch in step for image in batch.images)
    assert seen.total() == 3 * 16 + 3 * 16 + 4 * 20 < len(source)
    assert max(seen.values()) == 1


def test_captions_differ_from_visit_to_visit_and_belong_to_the_image(source, text, run_config, replace):
    cfg = replace(replace(run_config, "train", steps=40), "data", cache_images=0)
    states = {text.lookup([caption]).pooled.tobytes(): caption for caption in all_captions(source)}
    captions = {source[i]["image"].tobytes(): source[i]["captions"] for i in range(len(source))}
    drawn = collections.defaultdict(set)
    for step in loader(source, text, cfg):
        for image, pooled in zip(step[-1].images, step[-1].text.pooled, strict=True):
            key = np.rint((image + 1) * 127.5).astype(np.uint8).tobytes()
            caption = states[pooled.tobytes()]
            assert caption in captions[key]
            drawn[key].add(caption)
    assert sum(len(texts) > 1 for texts in drawn.values()) > 10


def test_half_of_the_images_are_mirrored_if_asked(source, text, run_config, replace):
    plain = next(loader(source, text, run_config))[0].images
    flipped = next(loader(source, text, replace(run_config, "data", flip=True)))[0].images
    mirrored = [np.array_equal(a[:, ::-1], b) for a, b in zip(plain, flipped, strict=True)]
    same = [np.array_equal(a, b) for a, b in zip(plain, flipped, strict=True)]
    assert all(a or b for a, b in zip(mirrored, same, strict=True))
    assert 0 < sum(mirrored) < len(mirrored)


def test_batches_that_processes_cannot_share_are_refused(source, text, run_config):
    with pytest.raises(ConfigError, match=r"train\.stage_batches = \(8, 4, 4\): 8 devices.*multiples of 8"):
        loader(source, text, run_config, shard=HostShard((0,), 8))


def test_a_corrupt_data_set_stops_the_loader(run_config, make_table):
    broken = CaptionedImages([{"image": b"", "captions": [b"x"]}] * 20, run_config.data)
    with pytest.raises(CorruptDataError, match="max_corrupt_share"):
        next(loader(broken, make_table(["x"]), run_config))


@pytest.fixture(scope="module")
def held_out(run_config) -> CaptionedImages:
    return open_source(run_config.data, "held_out")


def test_every_epoch_shows_every_image_once_in_an_order_of_its_own(held_out, make_table, run_config, replace):
    cfg = replace(run_config, "train", stage_batches=((2, 2, 3),) * 3)  # seven samples a step, 14 images: five epochs
    shown = {to_stage(held_out[i]["image"][None], f)[0].tobytes(): i for i in range(14) for f in (4, 2, 1)}
    steps = loader(held_out, make_table(all_captions(held_out)), cfg)
    order = [shown[image.tobytes()] for step in steps for batch in step for image in batch.images]
    epochs = [tuple(order[i : i + 14]) for i in range(0, 70, 14)]
    assert len(held_out) == 14
    assert all(set(epoch) == set(range(14)) for epoch in epochs)
    assert len(set(epochs)) == 5


def test_evaluation_covers_the_split_in_full_batches_at_every_stage(held_out, make_table, run_config):
    captions = all_captions(held_out)
    table = make_table(captions)
    batches = list(evaluation(held_out, table, run_config))
    assert len(batches) == -(-len(held_out) // 8)
    for stage, side in enumerate((8, 16, 32)):
        assert all(batch[stage].images.shape == (8, side, side, 3) for batch in batches)
        pooled = np.concatenate([batch[stage].text.pooled for batch in batches])
        firsts = [held_out[i % len(held_out)]["captions"][0] for i in range(len(pooled))]
        np.testing.assert_array_equal(pooled, table.lookup(firsts).pooled)
    images = np.concatenate([batch[-1].images for batch in batches])
    np.testing.assert_array_equal(images[len(held_out) :], images[: len(images) - len(held_out)])


def test_evaluation_batches_join_up_from_any_number_of_processes(held_out, make_table, run_config):
    table = make_table(all_captions(held_out))
    whole = list(evaluation(held_out, table, run_config))
    halves = [list(evaluation(held_out, table, run_config, shard=HostShard((i,), 2))) for i in range(2)]
    for batch, *parts in zip(whole, *halves, strict=True):
        for stage, pieces in zip(batch, zip(*parts, strict=True), strict=True):
            joined = jax.tree.map(lambda *shares: np.concatenate(shares), *pieces)
            jax.tree.map(np.testing.assert_array_equal, stage, joined)


def test_an_evaluation_batch_that_processes_cannot_share_is_refused(held_out, make_table, run_config):
    with pytest.raises(ConfigError, match=r"train\.eval_batch = \(8,\)"):
        next(evaluation(held_out, make_table(["x"]), run_config, shard=HostShard((0,), 3)))


class Numbered:
    """Images of one size that say which they are."""

    num_corrupt = 0

    def __init__(self, height, width, count, first):
        self.shape, self.count, self.first = (height, width, 1), count, first

    def __len__(self):
        return self.count

    def __getitem__(self, index):
        return np.full(self.shape, self.first + index, np.float32)

    def example(self, sample, rng):
        return Example(sample, "", np.zeros((5, 3), np.float32), sample[0, 0])


class Levels(Numbered):
    """Images whose smaller sizes are no means of them."""

    def example(self, sample, rng):
        lower = (sample[::2, ::2] + 1000, sample[::4, ::4] + 2000)
        return super().example(sample, rng)._replace(lower=lower)


def test_lower_stages_have_latents_of_their_own_and_those_of_the_stage_before(run_config, replace):
    cfg = replace(run_config, "train", eval_batch=4)
    for first, second, third in [
        next(train_loader([Levels(32, 32, 60, 0)], cfg)),
        next(eval_batches([Levels(32, 32, 60, 0)], cfg)),
    ]:
        assert first.coarse is None
        for part, side, offset in ((first, 8, 2000), (second, 16, 1000), (third, 32, 0)):
            assert part.images.shape[1:] == (side, side, 1)
            np.testing.assert_array_equal(part.images[:, 0, 0], part.text.pooled + offset)  # which are the numbers
        for part, side, offset in ((second, 8, 2000), (third, 16, 1000)):
            assert part.coarse.shape[1:] == (side, side, 1)
            np.testing.assert_array_equal(part.coarse[:, 0, 0], part.text.pooled + offset)
    assert all(part.coarse is None for part in next(train_loader([Numbered(32, 32, 60, 0)], cfg)))


@pytest.fixture
def buckets():
    return [Numbered(32, 32, 60, 0), Numbered(16, 64, 20, 100)]


def test_a_step_takes_all_of_its_samples_from_one_bucket_in_proportion_to_their_sizes(buckets, run_config, replace):
    cfg = replace(run_config, "train", steps=80)
    sides = [
        tuple(batch.images.shape[1:3] for batch in step) for step in train_loader(buckets, cfg)
    ]  # latents keep their scale
    square, wide = ((8, 8), (16, 16), (32, 32)), ((4, 16), (8, 32), (16, 64))
    assert set(sides) == {square, wide}
    assert 10 <= sides.count(wide) <= 30  # a quarter of 80


def test_every_bucket_goes_through_epochs_of_its_own(buckets, run_config, replace):
    cfg = replace(run_config, "train", steps=40, stage_batches=((4, 8, 8),) * 3)
    seen = {0: [], 100: []}
    for step in train_loader(buckets, cfg):
        numbers = np.concatenate([batch.images[:, 0, 0, 0] for batch in step])
        seen[100 if numbers[0] >= 100 else 0].append(numbers)
    assert all(set(numbers) == set(range(100, 120)) for numbers in seen[100])
    epochs = [np.concatenate(seen[0][i : i + 3]) for i in range(0, len(seen[0]) - 2, 3)]
    assert len(epochs) > 5
    assert all(set(numbers) == set(range(60)) for numbers in epochs)


@pytest.mark.parametrize("processes", [2, 4])
def test_buckets_do_not_depend_on_the_number_of_processes(buckets, run_config, processes):
    whole = list(train_loader(buckets, run_config))
    parts = [list(train_loader(buckets, run_config, HostShard((i,), processes))) for i in range(processes)]
    for step, *shards in zip(whole, *parts, strict=True):
        for k, batch in enumerate(step):
            found = np.concatenate([shard[k].text.pooled for shard in shards])
            np.testing.assert_array_equal(found, batch.text.pooled)


def test_a_run_that_goes_from_machine_to_machine_sees_every_sample_once_an_epoch(run_config, replace):
    """Two hosts of four devices, then one of four, then a single device, each continuing where the last one stopped."""
    source = [Numbered(16, 16, 120, 0)]
    cfg = replace(run_config, "train", steps=45, stage_batches=((8, 8, 8),) * 3)  # nine epochs of five steps
    legs = [
        (7, [HostShard((0, 1, 2, 3), 8), HostShard((4, 5, 6, 7), 8)]),
        (13, [HostShard((0, 1, 2, 3), 4)]),
        (22, [HostShard((0, 3), 4), HostShard((1, 2), 4)]),
        (45, [WHOLE]),
    ]
    seen, position = [], {"next_index": 0}
    for stop, shards in legs:
        hosts = [train_loader(source, cfg, shard) for shard in shards]
        for host in hosts:
            host.set_state(position)
        for _ in range(position["next_index"], stop):
            step = [next(host) for host in hosts]
            seen += [int(x) for k in range(3) for host in step for x in host[k].images[:, 0, 0, 0]]
        (position,) = {tuple(host.get_state().items()): host.get_state() for host in hosts}.values()
        assert position == {"next_index": stop}
    undisturbed = [int(x) for step in train_loader(source, cfg) for batch in step for x in batch.images[:, 0, 0, 0]]
    for step in range(45):
        of_step = slice(24 * step, 24 * step + 24)
        assert sorted(seen[of_step]) == sorted(undisturbed[of_step]), step
    for epoch in range(9):
        counts = collections.Counter(seen[120 * epoch : 120 * epoch + 120])
        assert counts == dict.fromkeys(range(120), 1), epoch


def test_where_phases_take_different_numbers_of_samples_a_run_s_length_says_which_a_step_sees(run_config, replace):
    phases = {"phase_starts": (0.0, 0.5), "stage_batches": ((8, 4, 4), (8, 8, 8)), "phase_learning_rates": (1e-3,) * 2}
    short, long = (order_steps(replace(run_config, "train", steps=n, **phases), [60]) for n in (4, 8))
    assert short.starts.tolist() == [0, 16, 32, 56]
    assert long.starts.tolist() == [0, 16, 32, 48, 64, 88, 112, 136]


def test_a_longer_run_begins_as_the_shorter_one(buckets, run_config, replace):
    phase = {"phase_starts": (0.0,), "stage_batches": ((8, 4, 4),), "phase_learning_rates": (1e-3,)}
    short, long = (order_steps(replace(run_config, "train", steps=n, **phase), [60, 20]) for n in (20, 50))
    np.testing.assert_array_equal(short.sources, long.sources[:20])
    np.testing.assert_array_equal(short.starts, long.starts[:20])
