import pytest

from nami_jax.config import ConfigError
from nami_jax.data.prepared_format import Shard
from nami_jax.preparation.holding_out import count_held_out, draw_held_out
from nami_jax.preparation.manifests import Manifest
from nami_jax.preparation.options import parse_held_out, require_held_out


@pytest.mark.parametrize(
    ("text", "value"), [("20", 20), ("0.1", 0.1), ("1", 1), ("none", None), ("None", None), ("0", None), (" 5 ", 5)]
)
def test_a_number_a_share_and_none_are_told_apart(text, value):
    found = parse_held_out(text)
    assert found == value
    assert type(found) is type(value)
    require_held_out(found)


@pytest.mark.parametrize("text", ["all", "", "10%", "1.0", "-1", "1.5", "nan", "inf", "0.0"])
def test_anything_else_is_refused_with_what_to_set(text):
    with pytest.raises(
        ConfigError, match=r"held_out = .*Set a number of images such as 20, a share such as 0\.01, or none"
    ):
        require_held_out(parse_held_out(text))


@pytest.mark.parametrize(
    ("held_out", "usable", "count"),
    [
        (0.01, 18, 1),
        (0.01, 1000, 10),
        (0.4, 30, 12),
        (0.999, 10, 9),
        (0.5, 1, 0),
        (3, 18, 3),
        (17, 18, 17),
        (None, 9, 0),
    ],
)
def test_a_share_is_drawn_exactly_and_never_nothing_or_all(held_out, usable, count):
    assert count_held_out(held_out, usable) == count


@pytest.mark.parametrize("usable", [1, 3])
def test_a_number_that_leaves_nothing_to_train_on_is_refused(usable):
    with pytest.raises(ConfigError, match=rf"held_out = 3: only {usable} images can be used"):
        count_held_out(3, usable)


def manifests(names: list[list[str]], split: str = "train") -> list[Manifest]:
    return [
        Manifest([Shard(f"data/{unit}", unit, split, (16, 16), len(ids), 1)], [ids], [])
        for unit, ids in enumerate(names)
    ]


def drawn(names: list[list[str]], number: float | None) -> set[str]:
    shards = draw_held_out(manifests(names), number)
    return {ids[i] for shard, ids in zip(shards, names, strict=True) for i in shard.held_out}


def test_the_draw_depends_on_ids_alone():
    ids = [f"{i}.png" for i in range(40)]
    whole = drawn([ids], 10)
    assert len(whole) == 10
    assert drawn([ids[:7], ids[7:30], ids[30:]], 10) == whole
    assert drawn([ids[::-1]], 10) == whole
    assert whole < drawn([ids], 0.5)


def test_what_a_source_holds_out_itself_is_not_drawn_from():
    (shard,) = draw_held_out(manifests([["a", "b"]], "held_out"), None)
    assert shard.held_out == ()
    assert list(shard.held_out_positions) == [0, 1]
