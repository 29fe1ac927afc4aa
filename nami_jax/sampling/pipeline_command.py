"""How every command that draws begins, and how it ends if something is wrong."""

import contextlib
from collections.abc import Iterator

from absl import logging

from nami_jax.checkpoints.checkpoint import CheckpointError
from nami_jax.checkpoints.orbax import mute_orbax
from nami_jax.config import ConfigError
from nami_jax.files.disk import explain, print_anything
from nami_jax.parallel.kept_programs import keep_on_disk
from nami_jax.weights import WeightsError


@contextlib.contextmanager
def pipeline_command() -> Iterator[None]:
    """Quiets the libraries, keeps compiled programs on disk, and ends the program in one line if its block fails.

    Raises:
        SystemExit: what a user can mend was raised within: settings, checkpoints, weights, packages or files.
    """
    logging.set_verbosity(logging.WARNING)
    print_anything()
    mute_orbax()
    keep_on_disk()
    try:
        yield
    except (ConfigError, CheckpointError, WeightsError, ModuleNotFoundError) as error:
        raise SystemExit(f"error: {error}") from error
    except OSError as error:
        raise SystemExit(f"error: {explain(error)}") from error
