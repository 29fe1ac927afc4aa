"""Checks whether a run can start: `python -m nami_jax.preflight --config configs/emoji_tiny.py --workdir runs/mine`.

Takes the flags of `nami_jax.train`. Each host checks its devices, the versions of what it runs, its storage and its
data, and process 0 prints one table of all. Exits with 1 if a check failed on any of them. Compiles nothing of the run.
"""

import time

from absl import flags, logging

from nami_jax.config import ConfigError
from nami_jax.terminal.command_line import run_command
from nami_jax.training import flags as run_flags

LIMIT = 180  # seconds, for all of it
LATE = (
    f"preflight: not every host finished within {LIMIT} s. One is stuck reading its storage or its data, or the "
    "hosts' devices cannot reach each other: check that no firewall is between them."
)


def define_flags() -> None:
    """Defines the command's flags: those of a run, and what is expected."""
    run_flags.define_flags()
    flags.DEFINE_integer("expected_devices", None, "expected number of devices on all hosts together", lower_bound=1)
    flags.DEFINE_integer("expected_hosts", None, "expected number of processes, usually one per host", lower_bound=1)


def main(argv: list[str]) -> None:
    """Checks, prints the table on the first process, and ends with 1 on every process if a check failed on one."""
    del argv
    # Not at the top: jax and the rest take seconds, and `--help` or a mistyped flag is answered without them.
    from nami_jax.host_checks.examination import examine
    from nami_jax.host_checks.findings import FAILED, summary_lines
    from nami_jax.parallel import processes as distributed

    logging.set_verbosity(logging.ERROR)  # the table says it
    start, args = time.perf_counter(), flags.FLAGS
    try:
        distributed.initialize()
    except ConfigError as error:
        raise SystemExit(f"error: {error}") from error
    with distributed.deadline(LIMIT, LATE):
        fields, workdir = args.config.to_dict(), run_flags.workdir()
        lines = summary_lines(examine(fields, workdir, args.expected_hosts, args.expected_devices))
    if distributed.is_main():
        for line in lines:
            print(f"{line.status:8} {line.check:9} {line.text}")
    failed = [line.check for line in lines if line.status == FAILED]
    if failed:
        raise SystemExit(f"preflight failed: {', '.join(dict.fromkeys(failed))}")
    if distributed.is_main():
        print(f"preflight passed in {time.perf_counter() - start:.0f} s")


def cli() -> None:
    """Runs the command."""
    run_command(main, define_flags, __doc__, run_flags.parse_run_flags)


if __name__ == "__main__":
    cli()
