"""The flags of a training run."""

from pathlib import Path
from typing import Any, cast

from absl import flags

from nami_jax.terminal.command_line import parse_flags
from nami_jax.terminal.config_flag import config_name, define_config_flag

RUNS = Path("runs")  # where a run is kept by default, under its config's name


def define_flags() -> None:
    """Defines the flags."""
    define_config_flag("the run's config: a file, or the name of one that comes with nami_jax, e.g. emoji_tiny")
    flags.DEFINE_string("workdir", None, f"folder to keep the run in; {RUNS}/ and the config's name if not given")
    flags.DEFINE_integer(
        "stop_after",
        None,
        "save and stop once this many steps are done; the same command continues. An autoencoder's run writes vae/ "
        "then too, of as many steps, and anew when it goes on to its end",
    )
    flags.DEFINE_string("wandb", None, "Weights & Biases project to send metrics and pictures to")
    flags.DEFINE_string("profile", None, "first and last step to trace with jax's profiler, e.g. 10:15")
    flags.DEFINE_bool("dry_run", False, "run two steps in a temporary folder, report what they took, leave nothing")
    define_process_flags()


def define_process_flags() -> None:
    """Defines the flags by which a process finds the others of a run on several hosts; see `parallel.processes`."""
    flags.DEFINE_bool("distributed", False, "join the other hosts of a TPU pod, GKE or Slurm job, which jax discovers")
    flags.DEFINE_string("coordinator_address", None, "host:port of process 0, for hosts that jax cannot discover")
    flags.DEFINE_integer("num_processes", None, "number of processes, with --coordinator_address", lower_bound=1)
    flags.DEFINE_integer("process_id", None, "index of this process, 0 to num_processes - 1", lower_bound=0)
    flags.DEFINE_integer("initialization_timeout", 300, "seconds to wait for all processes to join", lower_bound=1)


def parse_run_flags(argv: list[str]) -> list[str]:
    """Parses the flags of a command for a run, as `parse_flags`."""
    return parse_flags(argv, remedy="Set fields of the config with e.g. --config.train.steps=9")


def workdir() -> Path:
    """Returns the folder that the parsed flags name."""
    given, config = flags.FLAGS.workdir, cast(Any, flags.FLAGS["config"])
    return RUNS / config_name(config.config_filename) if given is None else Path(given)
