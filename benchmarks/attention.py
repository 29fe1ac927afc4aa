"""Times attention without a kernel by its chunks of queries, against jax's own: `python -m benchmarks.attention`.

`CHUNK` of nami_jax/models/attention.py was chosen by it. Where a chunk is as long as the sequence, all heads are
attended at once. Forward and backward pass; each row's programs run in turns, and the ratios are of medians.
"""

from collections.abc import Callable, Iterator
from typing import Any
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
from absl import app, flags

from benchmarks.timing import Timed, about, clock, interleave
from nami_jax.models import attention
from nami_jax.planning.tables import table
from nami_jax.terminal.command_line import parse_flags

BATCHES = {80: 32, 320: 4, 1088: 1, 2112: 1, 4160: 1}  # images by tokens, 64 of them text's (16 in the first)
JAX = "jax.nn"


def define_flags() -> None:
    """Defines the command's flags."""
    flags.DEFINE_list("tokens", [str(length) for length in BATCHES], "lengths of the sequence")
    flags.DEFINE_list("chunks", ["128", "256", "512", "1024"], "queries at once")
    flags.DEFINE_integer("heads", 8, "N")
    flags.DEFINE_integer("head_dim", 64, "H")
    flags.DEFINE_integer("rounds", 7, "rounds of each row", lower_bound=1)


def main(argv: list[str]) -> None:
    """Times as the flags say and prints a table."""
    del argv
    args = flags.FLAGS
    chunks = [int(chunk) for chunk in args.chunks]
    print(", ".join(f"{name} {value}" for name, value in about().items()))
    rows = [
        row for length in args.tokens for row in measure(int(length), chunks, args.heads, args.head_dim, args.rounds)
    ]
    print(table(["tokens", "images", "pass", f"{JAX}, ms", *map(str, chunks)], rows))


def measure(length: int, chunks: list[int], heads: int, head_dim: int, rounds: int) -> Iterator[list[str]]:
    """Yields a row for each pass: milliseconds of jax's attention, and the share of them that each chunk takes."""
    batch = BATCHES.get(length, 1)
    q, k, v = jax.random.normal(jax.random.key(0), (3, batch, length, heads, head_dim))
    for name, wrap in (("forward", lambda attend: attend), ("and backward", with_gradient)):
        programs = {JAX: timed(wrap(jax.nn.dot_product_attention), q, k, v)}
        for chunk in chunks:
            with mock.patch.object(attention, "CHUNK", chunk):
                programs[str(chunk)] = timed(wrap(attention.attention), q, k, v)
        seconds = interleave(programs, rounds, f"{length} tokens, {name}")
        medians = {name: float(np.median(each)) for name, each in seconds.items()}
        shares = [f"{medians[str(chunk)] / medians[JAX]:.2f}" for chunk in chunks]
        yield [str(length), str(batch), name, f"{1e3 * medians[JAX]:.1f}", *shares]


def with_gradient(attend: Callable[..., Any]) -> Callable[..., Any]:
    """Returns (q, k, v) -> the gradients of the sum of squares of what is attended."""
    return jax.grad(lambda *arrays: jnp.sum(jnp.square(attend(*arrays))), argnums=(0, 1, 2))


def timed(function: Callable[..., Any], *arrays: jax.Array) -> Timed:
    """Compiles `function` and returns a program that times it."""
    compiled = jax.jit(function).lower(*arrays).compile()
    return lambda: [clock(compiled, *arrays)[1]]


if __name__ == "__main__":
    define_flags()
    app.run(main, flags_parser=parse_flags)
