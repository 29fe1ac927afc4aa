from unittest import mock

import jax
import jax.numpy as jnp
import pytest

from benchmarks import attention as benchmark
from nami_jax.models import attention


def test_each_chunk_has_its_share_of_both_passes_and_nothing_stays_changed():
    before = attention.CHUNK
    rows = list(benchmark.measure(96, [32, 128], heads=2, head_dim=8, rounds=1))
    assert attention.CHUNK == before
    assert [row[:3] for row in rows] == [["96", "1", "forward"], ["96", "1", "and backward"]]
    assert all(float(share) > 0 for row in rows for share in row[3:])
    assert {len(row) for row in rows} == {6}


@pytest.mark.parametrize(("chunk", "loops"), [(32, True), (128, False)])
def test_a_chunk_shorter_than_the_sequence_makes_a_loop(chunk, loops):
    q = jax.ShapeDtypeStruct((1, 96, 2, 8), jnp.float32)
    with mock.patch.object(attention, "CHUNK", chunk):
        text = jax.jit(lambda *x: attention.attention(*x)).lower(q, q, q).as_text()
    assert ("stablehlo.while" in text) == loops
