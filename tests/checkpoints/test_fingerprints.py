import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from nami_jax.checkpoints.fingerprints import fingerprint_arrays, fingerprint_json
from nami_jax.config import MeshConfig
from nami_jax.parallel.sharding import make_mesh

M = 2**32


def one(array) -> int:
    (number,) = fingerprint_arrays([jnp.asarray(array)]).values()
    return number


def by_hand(words: list[int]) -> int:
    total = 0
    for i, word in enumerate(words):
        word ^= i * 0x9E3779B1 % M
        word = (word ^ (word >> 16)) * 0x85EBCA6B % M
        word = (word ^ (word >> 13)) * 0xC2B2AE35 % M
        total += word ^ (word >> 16)
    return total % M


def test_fingerprint_is_the_sum_of_mixed_words():
    # 1.0 and -2.0 in float32, and the same in bfloat16.
    assert one(np.array([[1.0, -2.0], [0.0, 1.0]], np.float32)) == by_hand([0x3F800000, 0xC0000000, 0, 0x3F800000])
    assert one(jnp.array([1.0, -2.0], jnp.bfloat16)) == by_hand([0x3F80, 0xC000])
    assert one(np.int32(-1)) == by_hand([0xFFFFFFFF])


def test_every_single_flipped_bit_is_seen():
    words = np.random.default_rng(0).integers(0, M, 6, np.uint32)
    flipped = {one(words ^ (np.uint32(1 << bit) * (np.arange(6) == i))) for i in range(6) for bit in range(32)}
    assert len(flipped | {one(words)}) == 6 * 32 + 1


@pytest.mark.parametrize("ones", [2, 256, 512, 4096])
def test_zeros_in_place_of_ones_are_seen(ones):
    # 1.0 is 127 * 2^23: a sum of words times positions would lose most of what tells positions apart.
    scale = np.ones(8192, np.float32)
    damaged = scale.copy()
    damaged[1024 : 1024 + ones] = 0
    assert one(damaged) != one(scale)


def test_exchanged_elements_and_the_sign_of_zero_are_seen():
    assert len({one(np.array(x, np.float32)) for x in ([1, 2, 0], [2, 1, 0], [1, 2, -0.0])}) == 3


def test_fingerprint_does_not_depend_on_the_sharding():
    key = jax.random.key(3, impl="rbg")
    state = {"kernel": jax.random.normal(key, (16, 8, 4)), "scale": jnp.arange(6.0), "key": key}
    expected = fingerprint_arrays(state)
    mesh = make_mesh(MeshConfig(fsdp=4, tensor=2))
    specs = {"kernel": PartitionSpec("fsdp", None, "tensor"), "scale": PartitionSpec(), "key": PartitionSpec()}
    spread = {name: jax.device_put(state[name], NamedSharding(mesh, spec)) for name, spec in specs.items()}
    assert len(spread["kernel"].addressable_shards[0].data) == 4
    assert fingerprint_arrays(spread) == expected
    assert set(expected) == {"kernel float32 (16, 8, 4)", "scale float32 (6,)", "key key<rbg> ()"}


def test_random_keys_are_told_apart_and_from_the_words_that_they_hold():
    key = jax.random.key(3, impl="rbg")
    assert one(key) == one(jax.random.key_data(key))
    assert fingerprint_arrays([key]) != fingerprint_arrays([jax.random.key_data(key)])
    assert fingerprint_arrays([key]) != fingerprint_arrays([jax.random.key(4, impl="rbg")])


def test_json_has_one_fingerprint_before_and_after_reading():
    assert fingerprint_json({"sizes": (1, 2), "rate": 1e-3}) == fingerprint_json({"rate": 0.001, "sizes": [1, 2]})
    assert fingerprint_json({"next_index": 5}) != fingerprint_json({"next_index": 7})
