"""Reads where the TPU compiler expects a stage of the sampler to spend its time, without a TPU.

PYTHONPATH=.venv/tpu_compiler python -m benchmarks.tpu_cycles --config configs/nami_2b.py

One picture on one chip, with guidance. The compiler's cycles are multiplied by the trips of the loops around them; the
attention kernel's are not among them. On two cores NAMI-2B's last stage compiles in about two minutes.
"""

import dataclasses

from absl import app, flags

from nami_jax.config import Config, MeshConfig
from nami_jax.parallel.sharding import make_mesh
from nami_jax.planning.hardware import find_hardware
from nami_jax.planning.hlo import cycles
from nami_jax.planning.programs import stage_tracers
from nami_jax.planning.tables import table
from nami_jax.terminal.command_line import parse_flags
from nami_jax.terminal.config_flag import define_config_flag


def define_flags() -> None:
    """Defines the command's flags."""
    define_config_flag("the run's config")
    flags.DEFINE_string("topology", "v5e:1x1", "TPUs, of which one is used")
    flags.DEFINE_integer("stage", None, "k in 1..K; the last if not given", lower_bound=1)


def main(argv: list[str]) -> None:
    """Compiles as the flags say and prints seconds by operation."""
    del argv
    args = flags.FLAGS
    hardware = find_hardware(args.topology)
    cfg = dataclasses.replace(Config.from_dict(args.config.to_dict()), mesh=MeshConfig())
    tracers = stage_tracers(cfg, make_mesh(devices=hardware.devices[:1]), images=1)
    text = tracers[(args.stage or len(tracers)) - 1]().compile().as_text()
    assert text is not None
    assert hardware.chip is not None
    assert hardware.chip.clock is not None
    found = {operation: count / hardware.chip.clock for operation, count in cycles(text).items()}
    total = sum(found.values())
    rows = [(name, f"{1e3 * seconds:.1f}", f"{seconds / total:.1%}") for name, seconds in found.items()]
    print(table(("operation", "ms", "of all"), [("all but kernels", f"{1e3 * total:.1f}", ""), *rows[:24]]))


if __name__ == "__main__":
    define_flags()
    app.run(main, flags_parser=parse_flags)
