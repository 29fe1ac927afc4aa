"""All checks of a run on this host, and the reports of all hosts."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from jax.experimental import multihost_utils

from nami_jax.config import ConfigError
from nami_jax.config.keeping import most_kept
from nami_jax.host_checks import environment, storage
from nami_jax.host_checks import run_checks as run
from nami_jax.host_checks.findings import FAILED, Finding, Report, gather
from nami_jax.training.tasks import read_task


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
        task = read_task(fields, workdir=workdir)
    except ConfigError as error:
        report.findings.append(Finding("fields", FAILED, str(error)))
        return False
    if report.attempt("mesh", lambda: run.check_mesh(task)):
        report.attempt("settings", task.check)
        report.attempt("state", lambda: run.check_state(task))
    if task.needs_weights(workdir):
        report.attempt("weights", lambda: run.check_weights(task, workdir))
    report.attempt("data", lambda: run.check_data(task, report.facts))
    size, keep = run.checkpoint_bytes(task), most_kept(task.cfg.train)
    return report.attempt("storage", lambda: storage.check_storage(workdir, size, keep))
