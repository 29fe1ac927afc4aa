"""Measures NAMI-2B with random weights on one accelerator: `python -m benchmarks.accelerator --out FOLDER`.

What the device reaches, attention alone, guided sampling against a single flow, a forward pass against PyTorch and by
its kernels, training steps and their memory, and how long commands take to start. Each part runs in a process of its
own and leaves FOLDER/PART.json; a part that has its file is not run again, so the same command goes on where it
stopped: after --minutes, or at a part that failed. Ends with the tables of all that is there. Any platform; CPUs with
--tiny alone.
"""

import dataclasses
import importlib.util
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from absl import app, flags, logging

from benchmarks import accelerator_parts as parts
from benchmarks.accelerator_parts import TINY, Row, Sizes
from benchmarks.accelerator_profile import profile
from benchmarks.timing import about
from configs import presets
from nami_jax.files.disk import written_whole
from nami_jax.planning.tables import table
from nami_jax.terminal.command_line import parse_flags


def pytorch(sizes: Sizes) -> Iterator[Row]:
    """Measures against PyTorch, where it is installed."""
    missing = [name for name in ("torch", "diffusers") if importlib.util.find_spec(name) is None]
    if missing:
        yield {"what": f"left out: no {' and no '.join(missing)} here"}
        return
    from benchmarks.pytorch_flux import pytorch as measure

    yield from measure(sizes)


def smaller(sizes: Sizes) -> Sizes:
    """Returns the sizes with the network of 0.6 B parameters in place of NAMI-2B."""
    return dataclasses.replace(sizes, model=presets.NAMI_0_6B) if sizes.model == presets.NAMI_2B else sizes


# In the order in which they run, the most important first: (sizes, folder) -> the rows of the part.
PARTS: dict[str, Callable[[Sizes, Path], Iterator[Row]]] = {
    "ceiling": lambda sizes, _: parts.ceiling(sizes),
    "attention": lambda sizes, _: parts.attention(sizes),
    "sampling_kernel": lambda sizes, _: parts.sampling(sizes, "kernel"),
    "sampling_plain": lambda sizes, _: parts.sampling(sizes, "plain"),
    "pytorch": lambda sizes, _: pytorch(sizes),
    "profile": lambda sizes, _: profile(sizes),
    "start": lambda sizes, folder: parts.start(sizes, folder),
    "training": lambda sizes, _: parts.training(sizes, [parts.KERNEL]),
    "training_plain": lambda sizes, _: parts.training(sizes, [parts.PLAIN]),
    # A network of which every policy fits into 80 GB.
    "training_small": lambda sizes, _: parts.training(smaller(sizes), parts.POLICIES),
}


def measure(part: str, sizes: Sizes, folder: Path) -> None:
    """Measures a part in this process, prints its rows as they come, and writes its file."""
    begun, rows = time.perf_counter(), []
    for row in PARTS[part](sizes, folder):
        print(json.dumps(row), flush=True)
        rows.append(row)
    result = {"about": about() | {"seconds": f"{time.perf_counter() - begun:.0f}"}, "rows": rows}
    with written_whole(folder / f"{part}.json") as path:
        path.write_text(json.dumps(result, indent=1))


def environment(part: str) -> dict[str, str]:
    """Returns the environment of a part's process: jax has the device's memory, or shares it with PyTorch."""
    shares = part in ("pytorch", "start")
    chosen = {"XLA_PYTHON_CLIENT_PREALLOCATE": "false"} if shares else {"XLA_PYTHON_CLIENT_MEM_FRACTION": "0.93"}
    return chosen | os.environ


def run_missing(names: Sequence[str], folder: Path, arguments: Sequence[str], minutes: float) -> list[str]:
    """Runs each part that has no file yet, until the time is over; returns those that failed or were not begun."""
    end, left = time.monotonic() + 60 * minutes, []
    for part in names:
        if (folder / f"{part}.json").exists():
            continue
        if (seconds := end - time.monotonic()) <= 0:
            left.append(part)
            continue
        command = [sys.executable, "-m", "benchmarks.accelerator", f"--out={folder}", f"--part={part}", *arguments]
        print(f"{part} ...", flush=True)
        try:
            run = subprocess.run(command, env=environment(part), timeout=seconds)
        except subprocess.TimeoutExpired:
            left.append(part)
            continue
        if run.returncode:
            left.append(part)
    return left


def text(value: Any) -> str:
    """Writes a cell."""
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def report(folder: Path) -> str:
    """Returns the tables of all parts that are there, rates also as shares of the measured matrix product."""
    sections, peak = [], None
    for part in PARTS:
        path = folder / f"{part}.json"
        if not path.exists():
            continue
        result = json.loads(path.read_text())
        rows = result["rows"]
        peak = rows[0]["TFLOP/s"] if part == "ceiling" else peak
        for row in rows:
            if peak and "TFLOP/s" in row:
                row["of ceiling"] = f"{row['TFLOP/s'] / peak:.1%}"
        columns = list(dict.fromkeys(column for row in rows for column in row))
        cells = [[text(row.get(column, "")) for column in columns] for row in rows]
        heading = f"{part}: {', '.join(f'{name} {value}' for name, value in result['about'].items())}"
        sections.append(f"{heading}\n\n{table(columns, cells)}")
    return "\n\n".join(sections)


def main(argv: Sequence[str]) -> None:
    """Runs one part, or all that are missing, and prints the tables."""
    del argv
    logging.set_verbosity(logging.WARNING)
    args, folder = flags.FLAGS, Path(flags.FLAGS.out)
    folder.mkdir(parents=True, exist_ok=True)
    if args.part:
        measure(args.part, TINY if args.tiny else Sizes(), folder)
        return
    left = run_missing(args.parts or list(PARTS), folder, ["--tiny"] if args.tiny else [], args.minutes)
    print(f"\n{report(folder)}")
    if left:
        raise SystemExit(f"error: left: {', '.join(left)}. Run the same command again")


def define_flags() -> None:
    """Defines the command's flags."""
    flags.DEFINE_string("out", None, "folder for the results, one JSON file for each part", required=True)
    flags.DEFINE_multi_enum("parts", None, list(PARTS), "run these alone; repeat it for several")
    flags.DEFINE_enum("part", None, list(PARTS), "measure this one in this process")
    flags.DEFINE_bool("tiny", False, "a network small enough for a CPU")
    flags.DEFINE_float("minutes", 9.0, "end after this time; a part that is under way then is left out", lower_bound=0)


if __name__ == "__main__":
    define_flags()
    app.run(main, flags_parser=parse_flags)
