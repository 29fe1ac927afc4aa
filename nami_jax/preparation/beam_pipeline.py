"""Units of work spread over workers by Apache Beam, with a progress bar that follows their manifests."""

import contextlib
import difflib
import functools
import importlib.util
import itertools
import logging
import posixpath
import re
import threading
from collections.abc import Iterator, Sequence
from typing import Any

from nami_jax.config import ConfigError
from nami_jax.data.prepared_format import MANIFESTS, manifest_name
from nami_jax.preparation import beam_files as files
from nami_jax.preparation.errors import PreparationError
from nami_jax.preparation.job import Job
from nami_jax.preparation.sources import Unit
from nami_jax.preparation.worker import prepare_unit
from nami_jax.terminal.progress import progress_bar

TRACEBACK = "Traceback (most recent call last):\n"
AROUND_MESSAGE = re.compile(r"^[\w.]*(Error|Exception): |( \[while running .*)\Z", re.DOTALL)  # what Beam puts there
LOCAL_RUNNERS = (None, "DirectRunner")
LOOK_EVERY = {False: 0.5, True: 10.0}  # seconds between looks at a local and a remote folder


def require_beam() -> None:
    """Raises `PreparationError` if Apache Beam is not installed; it is imported only where it is used."""
    if importlib.util.find_spec("apache_beam") is None:
        raise PreparationError(
            "Apache Beam, which prepares data, is not installed. Install it with `pip install apache-beam`; for "
            "Dataflow and gs:// paths, `pip install 'apache-beam[gcp]'`."
        )


def beam_options(arguments: Sequence[str], own: Sequence[str] = ()) -> Any:
    """Returns Beam's PipelineOptions for the arguments that are not the command's own.

    Args:
        arguments: e.g. `["--runner=DataflowRunner", "--project=…"]`.
        own: the names of the command's own flags, of which an unknown one may be a misspelling.

    Raises:
        ConfigError: an argument is unknown. Runners that read options of which Beam's Python side knows nothing (Flink,
            Spark, portable ones) are given it, unless it is close to a known one.
    """
    with _errors_only():  # Beam warns of file systems that are not installed
        from apache_beam.options.pipeline_options import PipelineOptions, StandardOptions, TypeOptions

    options = PipelineOptions(list(arguments))
    known = {*options.get_all_options(), *own}
    unknown = sorted({*options.get_all_options(retain_unknown_options=True)} - known)
    local = options.view_as(StandardOptions).runner in LOCAL_RUNNERS
    for name in unknown:
        close = difflib.get_close_matches(name, known, n=2)
        if local or close:
            hint = f" Did you mean {' or '.join(f'--{other}' for other in close)}?" if close else " See --help."
            raise ConfigError(f"--{name}: neither this command nor Beam has such a flag.{hint}")
    if local:
        # DirectRunner would otherwise first look for another runner's program, Prism, which it downloads.
        options.view_as(TypeOptions).allow_unsafe_triggers = True
    return options


def in_this_process(options: Any) -> bool:
    """Returns whether Beam's options have the work done by threads of this process."""
    from apache_beam.options.pipeline_options import DirectOptions, StandardOptions

    local = options.view_as(StandardOptions).runner in LOCAL_RUNNERS
    return local and options.view_as(DirectOptions).direct_running_mode != "multi_processing"


@contextlib.contextmanager
def _errors_only() -> Iterator[None]:
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(before)


def run_units(job: Job, units: Sequence[Unit], options: Any) -> None:
    """Prepares units on Beam's workers.

    Args:
        job: the preparation.
        units: those still to be done.
        options: Beam's.

    Raises:
        PreparationError: a worker failed; the message is the worker's.
    """
    import apache_beam as beam

    work = functools.partial(prepare_unit, job=job)
    logger = logging.getLogger("apache_beam.runners.common")
    logger.addFilter(_unforeseen)
    try:
        with beam.Pipeline(options=options) as pipeline:
            counts = (
                pipeline
                | "units" >> beam.Create([tuple(unit) for unit in units])
                | "spread"
                >> beam.Reshuffle()  # on a cluster, a free worker takes the next; here each is dealt its share
                | "prepare" >> beam.Map(work)
            )
            _ = counts | "count" >> beam.Map(_count)
    except RuntimeError as error:  # what local runners raise for whatever a worker raised, and remote ones too
        message = worker_message(error)
        stopped = message.startswith("KeyboardInterrupt")
        raise PreparationError("Stopped. The same command continues." if stopped else message) from error
    finally:
        logger.removeFilter(_unforeseen)


def worker_message(error: RuntimeError) -> str:
    """Returns the complete message of a worker's exception, without what runners put around it."""
    _, traceback, text = str(error).rpartition(TRACEBACK)
    lines = text.strip("\n").split("\n")
    if traceback:
        lines = list(itertools.dropwhile(lambda line: line.startswith(" "), lines))
    return AROUND_MESSAGE.sub("", "\n".join(lines)).strip() or type(error).__name__


def _unforeseen(record: logging.LogRecord) -> bool:
    """Returns whether an error that Beam logs needs its traceback: those raised for the user speak for themselves."""
    error = record.exc_info[1] if record.exc_info else None
    return not isinstance(error, PreparationError | KeyboardInterrupt)


def _count(counts: tuple[int, int]) -> None:
    """Adds to the counters that a runner shows on its own page."""
    from apache_beam.metrics.metric import Metrics

    for name, count in zip(("kept", "rejected"), counts, strict=True):
        Metrics.counter("nami_jax", name).inc(count)


@contextlib.contextmanager
def progress(out: str, units: Sequence[Unit]) -> Iterator[None]:
    """Shows how many records are done, whichever machine did them: by the manifests in `out`."""
    sizes = {posixpath.basename(manifest_name(unit.index)): unit.count for unit in units}
    stop = threading.Event()

    def done() -> int:
        return sum(sizes.get(name, 0) for name in finished(out))  # there may be files that are not manifests

    def watch() -> None:
        while not stop.wait(LOOK_EVERY[files.is_remote(out)]):
            bar.update(done() - bar.n)

    total, initial = sum(sizes.values()), done()
    with progress_bar(total=total, initial=initial, desc="preparing", unit="image") as bar:
        thread = threading.Thread(target=watch, daemon=True)
        thread.start()
        try:
            yield
        finally:
            stop.set()
            thread.join()
            bar.update(done() - bar.n)


def finished(out: str) -> set[str]:
    """Returns the names of the manifests that are there."""
    return {name for name in files.listing(files.join(out, MANIFESTS)) if name.endswith(".json")}
