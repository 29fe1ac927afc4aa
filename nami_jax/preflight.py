"""Checks whether a run can start: `python -m nami_jax.preflight --config configs/emoji_tiny.py --workdir runs/mine`.

Takes the flags of `nami_jax.train`. Each host checks its devices, the versions of what it runs, its storage and its
data, and process 0 prints one table of all. Exits with 1 if a check failed on any of them. Compiles nothing of the run.
"""

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from absl import app, flags, logging
from jax.experimental import multihost_utils

from nami_jax.config import ConfigError
from nami_jax.config.keeping import most_kept
from nami_jax.host_checks import environment, storage
from nami_jax.host_checks import run_checks as run
from nami_jax.host_checks.findings import FAILED, Finding, Report, gather, summary_lines
from nami_jax.parallel import processes as distributed
from nami_jax.training import flags as run_flags
from nami_jax.training.tasks import read_task

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


def examine(
    fields: Mapping[str, Any], workdir: Path, hosts: int | None = None, devices: int | None = None
) -> list[Report]:
    """Checks this host, meets the others and returns the reports of all, by process.

    Args:
        fields: the run's config as nested dicts.
        workdir: where the run will be kept.
        hosts: how many processes there should be, if known.
        devices: how many devices they should have in total, if known.
    """
    report = Report()
    report.facts |= {"versions": environment.versions(), "config": environment.config_facts(fields, workdir)}
    report.attempt("hosts", lambda: environment.check_hosts(hosts))
    report.attempt("devices", lambda: environment.check_devices(devices))
    wrote = _examine_run(report, fields, workdir)
    writers = np.flatnonzero(multihost_utils.process_allgather(np.bool_(wrote))).tolist()
    if wrote:
        report.attempt("shared", lambda: storage.check_shared(workdir, writers))
    reports = gather(report)  # which waits for all, so that none removes what another is still looking for
    if wrote:
        storage.clean(workdir)
    return reports


def _examine_run(report: Report, fields: Mapping[str, Any], workdir: Path) -> bool:
    """Adds the checks of the run to a report; returns whether this host left a trace in the workdir."""
    try:
        task = read_task(fields)
    except ConfigError as error:
        report.findings.append(Finding("fields", FAILED, str(error)))
        return False
    if report.attempt("mesh", lambda: run.check_mesh(task)):
        report.attempt("settings", task.check)
        report.attempt("state", lambda: run.check_state(task))
    if task.needs_weights(workdir):
        report.attempt("weights", lambda: run.check_weights(task))
    report.attempt("data", lambda: run.check_data(task, report.facts))
    size, keep = run.checkpoint_bytes(task), most_kept(task.cfg.train)
    return report.attempt("storage", lambda: storage.check_storage(workdir, size, keep))


def main(argv: list[str]) -> None:
    """Checks, prints the table on the first process, and ends with 1 on every process if a check failed on one."""
    del argv
    logging.set_verbosity(logging.ERROR)  # the table says it
    start, args = time.perf_counter(), flags.FLAGS
    try:
        distributed.initialize()
    except ConfigError as error:
        raise SystemExit(f"error: {error}") from error
    with distributed.deadline(LIMIT, LATE):
        fields, workdir = args.config.to_dict(), Path(args.workdir)
        lines = summary_lines(examine(fields, workdir, args.expected_hosts, args.expected_devices))
    if distributed.is_main():
        for line in lines:
            print(f"{line.status:8} {line.check:9} {line.text}")
    failed = [line.check for line in lines if line.status == FAILED]
    if failed:
        raise SystemExit(f"preflight failed: {', '.join(dict.fromkeys(failed))}")
    if distributed.is_main():
        print(f"preflight passed in {time.perf_counter() - start:.0f} s")


if __name__ == "__main__":
    define_flags()
    app.run(main, flags_parser=run_flags.parse_flags)
