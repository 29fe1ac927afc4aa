"""Times our network against diffusers' FluxTransformer2DModel in PyTorch, eager and compiled, in turns in one process.

GLIBC_TUNABLES=glibc.malloc.hugetlb=1 .venv-parity/bin/python -m benchmarks.vs_pytorch

Needs torch and diffusers, which `make parity` installs into .venv-parity. Both have the same weights, inputs, type and
threads. Before anything is timed, the outputs are compared, and the gradients: a difference above the tolerance ends
the program with status 1. A training step is a forward and backward pass of a mean squared error with the gradients of
all parameters, without an optimizer. Ours is jitted, with the layout that training and sampling have on one device; a
forward pass has its blocks taken apart before, as the sampler's steps have.

Prints a table and last `ratio X`: the worst of the forward passes' ratios, ours to eager PyTorch. With --json FILE the
rows are kept as they come, and what has a row there is not measured again: after --minutes the same command goes on. A
few cells alone:

python -m benchmarks.vs_pytorch --widths 512 --tokens 256,1024 --passes forward --no_compile
"""

import gc
import importlib.util
import json
import math
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from absl import app, flags, logging
from flax import nnx

from benchmarks.accelerator_parts import layouts, temporaries
from benchmarks.pytorch_flux import compiled_forward, flux, flux_arguments, inputs, our_arguments, pack, take_apart
from benchmarks.timing import Timed, about, interleave
from nami_jax.config import Dtype, ModelConfig, choices
from nami_jax.files.disk import written_whole
from nami_jax.models.nami import Nami
from nami_jax.monitoring.chips import GIB
from nami_jax.parallel.compiler import compiler_options
from nami_jax.planning.tables import table
from nami_jax.terminal.command_line import parse_flags
from nami_jax.weights.nami_keys import export_nami, load_nami

PASSES = "forward", "training"
HEAD_DIM, TEXT_TOKENS = 64, 64
TURN, CELL = 0.3, 60.0  # seconds of a turn at least, and of all rounds of a cell about
# |ours - theirs| / |theirs|: of float32 through six blocks, and of the 8 bits of bfloat16 on both sides.
TOLERANCE = {"float32": {"forward": 1e-4, "training": 1e-3}, "bfloat16": {"forward": 0.05, "training": 0.1}}

Row = dict[str, Any]
Call = Callable[[], Any]  # computes once and need not wait


class Differs(Exception):
    """The two networks do not compute the same."""


class Cell(NamedTuple):
    """What is timed: one image of `tokens` image tokens through two double and four single blocks."""

    width: int
    tokens: int
    passed: str  # of PASSES
    dtype: Dtype

    @property
    def model(self) -> ModelConfig:
        """The sizes, as FLUX's own in all that the width does not set."""
        return ModelConfig(
            channels=16, patch_size=2, num_heads=self.width // HEAD_DIM, rope_axes=(8, 28, 28), double_blocks=2,
            stage_single_blocks=(4,), mlp_ratio=4, text_dim=256, pooled_dim=64, dtype=self.dtype, remat="none",
            scan_blocks=jax.default_backend() != "cpu",
        )  # fmt: skip

    @property
    def side(self) -> int:
        """The latents' height and width."""
        return 2 * math.isqrt(self.tokens)


def threads() -> int:
    """Returns the processors that this process may use, on which XLA starts its threads."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def our_call(cell: Cell, weights: Mapping[str, np.ndarray], given: Mapping[str, np.ndarray]) -> tuple[Call, int]:
    """Returns our pass, compiled, and the bytes it takes beside its arguments and results.

    A forward pass gives the velocity (B, H, W, C), a training step a network that holds the gradients.
    """
    network = load_nami(cell.model, weights, param_dtype=cell.dtype)
    layout, arguments, target = layouts()["kernel"], our_arguments(given), jnp.asarray(given["target"])
    if cell.passed == "forward":
        all_arguments = network, take_apart(network), *arguments
        program = compiled_forward(layout).lower(*all_arguments).compile()
        return lambda: program(*all_arguments), temporaries(program)
    structure, params = nnx.split(network)

    def loss(params: Any, *args: jax.Array) -> jax.Array:
        velocity = nnx.merge(structure, params)(*args, stage=1, layout=layout)
        return jnp.mean(jnp.square(velocity.astype(jnp.float32) - target))

    step = jax.jit(jax.grad(loss), compiler_options=compiler_options(jax.devices()[0]))
    program = step.lower(params, *arguments).compile()
    return lambda: nnx.merge(structure, program(params, *arguments)), temporaries(program)


def free_memory() -> int:
    """Returns the bytes that a new array may take on the device, or in this machine's memory."""
    if stats := jax.devices()[0].memory_stats():
        return stats["bytes_limit"] - stats["bytes_in_use"]
    lines = Path("/proc/meminfo").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith("MemAvailable"))


def their_calls(torch: Any, run: Any, arguments: Mapping[str, Any], target: np.ndarray) -> dict[str, Call]:
    """Returns PyTorch's passes of `run`, the model or what it is compiled to: as `our_call`, in its own tensors."""
    packed = torch.from_numpy(pack(target)).to(arguments["hidden_states"].device)
    parameters = list(run.parameters())

    def forward() -> Any:
        with torch.inference_mode():
            return run(**arguments).sample

    def training() -> Any:
        loss = torch.mean(torch.square(run(**arguments).sample.float() - packed))
        return torch.autograd.grad(loss, parameters)

    return {"forward": forward, "training": training}


def finish(torch: Any, result: Any) -> None:
    """Waits for a result of either."""
    jax.block_until_ready(result)
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def error(torch: Any, model: Any, ours: Any, theirs: Any) -> float:
    """Returns |ours - theirs| / |theirs| of two velocities, or of the gradients of all parameters together."""
    if isinstance(ours, Nami):
        names = [name for name, _ in model.named_parameters()]
        found, expected = export_nami(ours), dict(zip(names, theirs, strict=True))
    else:
        found, expected = {"velocity": pack(np.asarray(ours, np.float32))}, {"velocity": theirs}
    expected = {name: tensor.float().cpu().numpy() for name, tensor in expected.items()}
    squares = [(np.sum(np.square(found[n].astype(np.float32) - e)), np.sum(np.square(e))) for n, e in expected.items()]
    return math.sqrt(sum(s for s, _ in squares) / sum(s for _, s in squares))


def compiled(torch: Any, model: Any, arguments: Mapping[str, Any], cell: Cell, target: np.ndarray) -> Call | str:
    """Returns PyTorch's compiled pass, already compiled, or why there is none."""
    torch._dynamo.reset()  # else it counts all cells' shapes as one function's, and gives up after eight
    call = their_calls(torch, torch.compile(model, dynamic=False), arguments, target)[cell.passed]
    try:
        call()
    except torch._dynamo.exc.BackendCompilerFailed as refused:
        return str(refused).splitlines()[0][:100]
    return call


def timed(torch: Any, call: Call) -> tuple[Timed, float]:
    """Returns a turn of `call`, which takes TURN seconds at least, and its seconds; runs it twice before."""

    def run(repeats: int) -> float:
        begun, result = time.perf_counter(), None
        for _ in range(repeats):
            result = call()
        finish(torch, result)
        return (time.perf_counter() - begun) / repeats

    run(1)
    once = run(1)
    repeats = max(1, round(TURN / once))
    return lambda: [run(repeats)], once * repeats


def measure(torch: Any, cell: Cell, rounds: int, compile_too: bool) -> Row:
    """Compares and times one cell.

    Raises:
        Differs: ours is not the same as eager PyTorch's, or that not as the compiled one's.
    """
    cfg = cell.model
    given = inputs(cfg, cell.side, TEXT_TOKENS, batch=1)
    given["target"] = np.random.default_rng(1).standard_normal(given["latents"].shape, np.float32)
    model = flux(torch, cfg).requires_grad_(cell.passed == "training")
    weights = {key: tensor.detach().float().cpu().numpy() for key, tensor in model.state_dict().items()}
    arguments = flux_arguments(torch, given, cell.dtype)
    ours, needed = our_call(cell, weights, given)
    if needed > (free := free_memory()):
        return {**cell._asdict(), "left out": f"ours needs {needed / GIB:.1f} GiB, {free / GIB:.1f} are free"}
    calls: dict[str, Call] = {
        "ours": ours,
        "eager": their_calls(torch, model, arguments, given["target"])[cell.passed],
    }
    row: Row = {**cell._asdict(), "error": error(torch, model, *(call() for call in calls.values()))}
    tolerance = TOLERANCE[cell.dtype][cell.passed]
    if not row["error"] <= tolerance:
        raise Differs(f"{cell}: ours differs from PyTorch's by {row['error']:.2g}, above {tolerance:.2g}")
    if compile_too:
        found = compiled(torch, model, arguments, cell, given["target"])
        if isinstance(found, str):
            row["not compiled"] = found
        else:
            calls["compiled"] = found
    turns = {name: timed(torch, call) for name, call in calls.items()}
    possible = max(2, min(rounds, int(CELL / sum(seconds for _, seconds in turns.values()))))
    programs = {name: turn for name, (turn, _) in turns.items()}
    taken = interleave(programs, possible, f"{cell.width} x {cell.tokens}, {cell.passed}", warm_up=0)
    row |= {"rounds": possible} | {f"{name} ms": float(np.median(s)) * 1e3 for name, s in taken.items()}
    return row | {f"to {name}": float(np.median(taken["ours"] / taken[name])) for name in taken if name != "ours"}


def measure_missing(torch: Any, cells: Sequence[Cell], kept: list[Row], args: Any) -> Iterator[Row]:
    """Yields the rows of cells that `kept` has none of, until the time is over."""
    end = time.monotonic() + 60 * args.minutes
    have = [tuple(row[name] for name in Cell._fields) for row in kept]
    for cell in cells:
        if tuple(cell) not in have and time.monotonic() < end:
            yield measure(torch, cell, args.rounds, not args.no_compile)
            gc.collect()


def lines(rows: Sequence[Row]) -> str:
    """Returns the table."""
    names = "ours", "eager", "compiled"
    header = ("width", "tokens", "pass", "rounds", *(f"{n} ms" for n in names), "to eager", "to compiled", "error")

    def number(row: Row, name: str, form: str) -> str:
        return format(row[name], form) if name in row else "-"

    cells = [
        (
            *(str(row.get(name, "-")) for name in ("width", "tokens", "passed", "rounds")),
            *(number(row, f"{name} ms", ".1f") for name in names),
            *(number(row, f"to {name}", ".2f") for name in names[1:]),
            number(row, "error", ".1e"),
        )
        for row in rows
    ]
    notes = sorted({f"{why}: {row[why]}" for row in rows for why in ("not compiled", "left out") if why in row})
    return "\n".join([table(header, cells), *notes])


def worst(rows: Sequence[Row]) -> float:
    """Returns the worst ratio of a forward pass to eager PyTorch's; nan without a forward pass."""
    ratios = [row["to eager"] for row in rows if row["passed"] == "forward" and "to eager" in row]
    return max(ratios, default=math.nan)


def main(argv: Sequence[str]) -> None:
    """Measures, prints the table and, last, the worst ratio."""
    del argv
    logging.set_verbosity(logging.WARNING)
    missing = [name for name in ("torch", "diffusers") if importlib.util.find_spec(name) is None]
    if missing:
        raise SystemExit(f"error: no {' and no '.join(missing)} here. Run `make parity`, then .venv-parity/bin/python")
    import diffusers  # pyright: ignore[reportMissingImports]
    import torch  # pyright: ignore[reportMissingImports]

    diffusers.utils.logging.set_verbosity_error()  # it warns of every change of type
    args = flags.FLAGS
    torch.set_num_threads(threads())
    dtype = args.dtype or ("float32" if jax.default_backend() == "cpu" else "bfloat16")
    sizes = [(int(width), int(tokens)) for tokens in args.tokens for width in args.widths]
    cells = [Cell(width, tokens, passed, dtype) for width, tokens in sizes for passed in args.passes]
    bad = [f"{c.width} x {c.tokens}" for c in cells if c.width % HEAD_DIM or math.isqrt(c.tokens) ** 2 != c.tokens]
    if bad:
        raise SystemExit(f"error: {bad[0]}: widths must be multiples of {HEAD_DIM}, tokens squares, e.g. 512 x 1024")
    path = Path(args.json) if args.json else None
    rows: list[Row] = json.loads(path.read_text())["rows"] if path and path.exists() else []
    facts = about() | {"threads": threads(), "GLIBC_TUNABLES": os.environ.get("GLIBC_TUNABLES", "not set")}
    facts["load at the start"] = f"{os.getloadavg()[0]:.1f}"
    print(", ".join(f"{name} {value}" for name, value in facts.items()), flush=True)
    try:
        for row in measure_missing(torch, cells, rows, args):
            rows.append(row)
            if path:
                with written_whole(path) as new:
                    new.write_text(json.dumps({"about": facts, "rows": rows}, indent=1))
    except Differs as differs:
        raise SystemExit(f"error: {differs}") from None
    wanted = [row for row in rows if Cell(**{name: row[name] for name in Cell._fields}) in cells]
    print(f"medians, ratios of each round, one image, {TEXT_TOKENS} text tokens, {dtype}\n\n{lines(wanted)}")
    if len(wanted) < len(cells):
        print(f"left out: {len(cells) - len(wanted)} of {len(cells)} rows, for --minutes={args.minutes:g} were over")
    print(f"ratio {worst(wanted):.3f}")


def define_flags() -> None:
    """Defines the command's flags."""
    flags.DEFINE_list("widths", "128,512,1024", f"widths of the network, in heads of {HEAD_DIM} channels")
    flags.DEFINE_list("tokens", "256,1024,4096", "image tokens, a square")
    flags.DEFINE_list("passes", ",".join(PASSES), "forward, training or both")
    flags.DEFINE_enum("dtype", None, choices(ModelConfig, "dtype"), "of weights and products [float32; GPUs: bfloat16]")
    flags.DEFINE_bool("no_compile", False, "leave out torch.compile, which takes about a minute for each row")
    flags.DEFINE_integer("rounds", 7, f"in turns; fewer, 2 at least, where they take {CELL:g} s", lower_bound=2)
    flags.DEFINE_float("minutes", 9.0, "begin no row after this time", lower_bound=0)
    flags.DEFINE_string("json", None, "file that keeps the rows, and from which the same command goes on")


if __name__ == "__main__":
    define_flags()
    app.run(main, flags_parser=parse_flags)
