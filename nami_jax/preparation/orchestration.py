"""A whole preparation, as the command runs it: plan, work, summary."""

import dataclasses
import os
import time
from collections.abc import Sequence

from flax.serialization import msgpack_serialize

from nami_jax.config import Config, ConfigError, require
from nami_jax.data.latents import DATA, EMPTY_FILE, MANIFESTS, SETTINGS_FILE, Prepared, manifest_name
from nami_jax.preparation import beam_files as files
from nami_jax.preparation.beam_pipeline import (
    beam_options,
    finished,
    in_this_process,
    progress,
    require_beam,
    run_units,
)
from nami_jax.preparation.contact_sheet import write_contact_sheet
from nami_jax.preparation.finding import find_source
from nami_jax.preparation.job import Job, Options, release_networks
from nami_jax.preparation.sources import UnitList
from nami_jax.preparation.summary import as_text, read_manifests, summarise, write_summary


def prepare(
    cfg: Config,
    source: str,
    out: str,
    options: Options,
    beam_arguments: Sequence[str] = (),
    own_flags: Sequence[str] = (),
) -> str:
    """Prepares a source, or continues where an earlier run with the same settings was stopped.

    Args:
        cfg: the run that is to train on the data.
        source: a folder, tars or the name of a tensorflow-datasets data set.
        out: the folder to prepare into, local or remote.
        options: what else a user can set.
        beam_arguments: options of Beam, as they stand on a command line.
        own_flags: names of the command's own flags, for hints.

    Returns:
        A human-readable summary.

    Raises:
        ConfigError: settings that cannot work, or that differ from those that `out` was started with.
        PreparationError: the work cannot go on; it continues with the next call.
    """
    begun = time.monotonic()
    require(
        cfg.autoencoder.folder is not None,
        field="autoencoder.folder",
        value=None,
        rule="a flow of pixels needs no preparation",
        remedy="To train on latents, set it and data.prepared",
    )
    require_beam()
    files.require_driver(source, "source")
    files.require_driver(out, "out")
    pipeline_options = beam_options(beam_arguments, own_flags)
    job = Job(cfg, find_source(source, cfg.data, options.eval_share), out, options)
    with files.only_run(out):
        plan = job.source.plan(options.unit_size)
        require(bool(plan.units), field="source", value=source, rule="contains no records", remedy="Use another source")
        begin(job, plan)
        done = finished(out)
        waiting = [unit for unit in plan.units if os.path.basename(manifest_name(unit.index)) not in done]
        if waiting:
            if not in_this_process(pipeline_options):
                release_networks()
            with progress(out, plan.units):
                run_units(job, waiting, pipeline_options)
        manifests = read_manifests(out, plan.units)
        summary = summarise(manifests, sum(unit.count for unit in waiting), time.monotonic() - begun)
        write_summary(out, manifests, {"source": source, **summary})
        write_contact_sheet(job, plan.units, manifests)
    return as_text(out, summary)


def begin(job: Job, plan: UnitList) -> None:
    """Writes what the data depend on and the states of the empty caption, or checks that nothing has changed.

    Raises:
        ConfigError: the folder was started with other settings, or contains something else.
    """
    path, settings = files.join(job.out, SETTINGS_FILE), job.settings(plan)
    if files.exists(path):
        _require_same(Prepared.from_json(files.read(path), path), settings, job.out)
        return
    others = files.listing(job.out) - {EMPTY_FILE}  # which may be left of a run that was killed between the two
    require(
        not others,
        field="out",
        value=job.out,
        rule=f"contains other files, such as {min(others, default=None)}",
        remedy="Use an empty or a new folder",
    )
    for name in (MANIFESTS, DATA):  # of settings that nobody knows any more
        require(
            not files.listing(files.join(job.out, name)),
            field="out",
            value=job.out,
            rule=f"contains prepared {name} but no {SETTINGS_FILE}",
            remedy=f"Remove {MANIFESTS} and {DATA} in it, or use another --out",
        )
    states = job.networks().text([""])
    files.write(files.join(job.out, EMPTY_FILE), msgpack_serialize(states._asdict()))
    files.write(path, settings.to_json().encode())


def _require_same(begun: Prepared, settings: Prepared, out: str) -> None:
    for field in dataclasses.fields(Prepared):
        before, now = getattr(begun, field.name), getattr(settings, field.name)
        if before != now:
            raise ConfigError(
                f"{out} was started with other settings: {field.name} = {before!r}, now {now!r}. "
                "Set that value, use another --out, or remove the folder to prepare all of it again."
            )
