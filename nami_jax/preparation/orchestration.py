"""A whole preparation, as the command runs it: plan, work, summary."""

import dataclasses
import os
import time
from collections.abc import Sequence

from absl import logging

from nami_jax.config import Config, ConfigError, require
from nami_jax.config.autoencoder_run import AutoencoderRun
from nami_jax.data.prepared_format import (
    DATA,
    EMPTY_FILE,
    INDEX_FILE,
    MANIFESTS,
    SETTINGS_FILE,
    Index,
    Prepared,
    manifest_name,
    pack_states,
    unpack_states,
)
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
from nami_jax.preparation.errors import PreparationError
from nami_jax.preparation.finding import find_source
from nami_jax.preparation.holding_out import draw_held_out
from nami_jax.preparation.job import Job, Options, release_networks
from nami_jax.preparation.manifests import read_manifests
from nami_jax.preparation.sources import UnitList
from nami_jax.preparation.summary import as_text, rejected_text, summarise, write_summary


def prepare(
    cfg: Config | AutoencoderRun,
    source: str,
    out: str,
    options: Options,
    beam_arguments: Sequence[str] = (),
    own_flags: Sequence[str] = (),
) -> str:
    """Prepares a source, or continues where an earlier run with the same settings was stopped.

    Args:
        cfg: the run that is to train on the data: a flow of latents or of pixels, or an autoencoder.
        source: a folder, tars or the name of a tensorflow-datasets data set.
        out: the folder to prepare into, local or remote.
        options: what else a user can set.
        beam_arguments: options of Beam, as they stand on a command line.
        own_flags: names of the command's own flags, for hints.

    Returns:
        A human-readable summary.

    Raises:
        ConfigError: settings that cannot work, or that differ from those that `out` was started with.
        PreparationError: the work cannot go on, and continues with the next call; or no record can be used.
    """
    begun = time.monotonic()
    require_beam()
    pipeline_options = beam_options(beam_arguments, own_flags)
    files.require_file_system("source", source)
    files.require_file_system("out", out)
    job = Job(cfg, find_source(source, cfg.data), out, options)
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
        shards = draw_held_out(manifests, None if job.source.own_splits else options.held_out)
        summary = summarise(manifests, shards, sum(unit.count for unit in waiting), time.monotonic() - begun)
        write_summary(out, manifests, {"source": source, **summary})
        if not summary["kept"]:
            raise PreparationError(
                f"None of the records of {source} can be used: {rejected_text(out, summary)}. Mend them, remove {out} "
                "and run again."
            )
        write_contact_sheet(job, plan.units, manifests)
        files.write(files.join(out, INDEX_FILE), Index(shards).to_json().encode())
    return as_text(out, summary)


def begin(job: Job, plan: UnitList) -> None:
    """Writes what the data depend on and the states of the empty caption, or checks that nothing has changed.

    Raises:
        ConfigError: the folder was started with other settings, or contains something else.
    """
    path, settings = files.join(job.out, SETTINGS_FILE), job.settings(plan)
    if files.exists(path):
        _require_same(Prepared.from_json(files.read(path), path), settings, job.out)
        _write_empty(job, settings)
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
    _write_empty(job, settings)
    files.write(path, settings.to_json().encode())


def _write_empty(job: Job, settings: Prepared) -> None:
    """Writes the states of the empty caption, unless they are there and whole, or the run needs none."""
    path, encoder = files.join(job.out, EMPTY_FILE), job.networks().text
    if encoder is None:
        return
    try:
        if files.exists(path):
            unpack_states(files.read(path), settings, path)
            return
    except ConfigError as error:
        logging.warning("%s", error)
    files.write(path, pack_states(encoder([""])))


def _require_same(begun: Prepared, settings: Prepared, out: str) -> None:
    for field in dataclasses.fields(Prepared):
        before, now = getattr(begun, field.name), getattr(settings, field.name)
        if field.compare and before != now:
            raise ConfigError(
                f"{out} was started with other settings: {field.name} = {before!r}, now {now!r}. "
                "Set that value, use another --out, or remove the folder to prepare all of it again."
            )
