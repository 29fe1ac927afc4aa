"""Plans a run on hardware that need not be present: `python -m nami_jax.plan --config C --topology v5e:16x16`.

Compiles the run's own programs for that hardware and prints how much of each device's memory they need, what they send
between devices, which kernel attends, the batch that fits, and the time and money that the run costs at an assumed
utilisation. Ends with status 1 if they do not fit, after saying what to change. TPU topologies need libtpu but no TPU,
h100:8x4 (GPUs of a host x hosts) jax's CUDA plugin and cuDNN but no GPU; "host" stands for this machine. Fields of the
config are set as flags: `--config.mesh.fsdp=16`.
"""

import sys

from absl import flags, logging

from nami_jax.config import ConfigError, require
from nami_jax.config.flow_run import TASK
from nami_jax.files.disk import explain
from nami_jax.terminal.command_line import run_command
from nami_jax.terminal.config_flag import define_config_flag
from nami_jax.training.flags import parse_run_flags


def define_flags() -> None:
    """Defines the command's flags."""
    define_config_flag("the run's config: a file, or the name of one that comes with nami_jax, e.g. nami_2b")
    topologies = (
        "TPUs by the chips along each side, e.g. v5e:16x16 or v5p:4x4x4; NVIDIA GPUs (h100, h200, a100, a100-40gb) by "
        "those of a host, x the hosts, e.g. h100:8 or h100:8x4; host: this machine"
    )
    flags.DEFINE_string("topology", None, topologies, required=True)
    flags.DEFINE_float("mfu", 0.4, "share of the chips' peak rate that the run is assumed to reach, in (0, 1]")
    flags.DEFINE_float("price_per_chip_hour", None, "USD; the list price if not given", lower_bound=0.0)
    flags.DEFINE_bool("all_shapes", False, "compile the training step for every shape, not only for the costliest")
    flags.DEFINE_bool("verify", False, "also compile the largest batch, which is otherwise extrapolated")


def main(argv: list[str]) -> None:
    """Plans as the flags say."""
    del argv
    # Not at the top: jax and the rest take seconds, and `--help` or a mistyped flag is answered without them.
    from nami_jax.planning.costs import make_rate
    from nami_jax.planning.hardware import find_hardware
    from nami_jax.planning.planner import make_plan
    from nami_jax.planning.report import report
    from nami_jax.training.tasks import read_task, task_name

    logging.set_verbosity(logging.WARNING)
    args = flags.FLAGS
    fields = args.config.to_dict()
    try:
        require(
            0 < args.mfu <= 1, field="mfu", value=args.mfu, rule="must be above 0 and at most 1", remedy="Set e.g. 0.4"
        )
        require(
            task_name(fields) == TASK,
            field="config.task",
            value=task_name(fields),
            rule="only a flow can be planned",
            remedy="Pass the config of a flow",
        )
        cfg = read_task(fields).cfg
        hardware = find_hardware(args.topology)
        plan = make_plan(cfg, hardware, all_shapes=args.all_shapes, verify=args.verify)
    except (ConfigError, ModuleNotFoundError) as error:
        raise SystemExit(f"error: {error}") from error
    except OSError as error:
        raise SystemExit(f"error: {explain(error)}") from error
    print(report(plan, make_rate(hardware, args.mfu, args.price_per_chip_hour), args.mfu))
    sys.exit(0 if plan.fits else 1)


def cli() -> None:
    """Runs the command."""
    run_command(main, define_flags, __doc__, parse_run_flags)


if __name__ == "__main__":
    cli()
