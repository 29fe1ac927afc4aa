"""Draws in the browser: `python -m nami_jax.demo --checkpoint runs/emoji_tiny`, or with the model that comes with it.

Serves a page on this computer alone, unless --host says otherwise; Ctrl-C ends it. Each stage's picture appears when it
is done; pictures can be begun from, painted over, and asked for their settings.
"""

import functools
import importlib.util
import os
import tempfile
from pathlib import Path

from absl import flags, logging

from nami_jax.config import ConfigError
from nami_jax.terminal.command_line import parse_flags, run_command
from nami_jax.terminal.sampler_flags import define_model_flags, given_mesh


def define_flags() -> None:
    """Defines the command's flags."""
    define_model_flags(checkpoint="emoji")
    flags.DEFINE_string("host", "127.0.0.1", "address to listen on; 0.0.0.0: all, for whoever can reach this computer")
    flags.DEFINE_integer("port", 8200, "port to listen on; 0: any that is free", lower_bound=0, upper_bound=65535)
    flags.DEFINE_integer("most_images", 8, "pictures at once, at most", lower_bound=1, upper_bound=64)
    flags.DEFINE_integer("most_side", None, "height and width at most, pixels; twice the side trained at if not given")
    flags.DEFINE_integer("most_steps", 50, "steps of a stage, at most", lower_bound=1, upper_bound=10_000)
    flags.DEFINE_integer("most_letters", 1000, "of a prompt", lower_bound=1, upper_bound=4096)
    flags.DEFINE_integer("most_waiting", 20, "visitors who wait for their turn, at most", lower_bound=1)


def main(argv: list[str]) -> None:
    """Loads the checkpoint and serves the page until it is stopped."""
    if importlib.util.find_spec("gradio") is None:
        raise SystemExit("error: gradio is not installed. Use `make demo`, or pip install 'nami_jax[demo]'.")
    # Not at the top: jax and Gradio take seconds, and `--help` or a mistyped flag is answered without them.
    from nami_jax.checkpoints.checkpoint import CheckpointError
    from nami_jax.checkpoints.orbax import mute_orbax
    from nami_jax.files.disk import explain
    from nami_jax.parallel.kept_programs import keep_on_disk
    from nami_jax.sampling.pipeline import NamiPipeline
    from nami_jax.serving.listening import address_of, listen, serve
    from nami_jax.weights import WeightsError

    del argv
    args = flags.FLAGS
    logging.set_verbosity(logging.WARNING)
    mute_orbax()
    keep_on_disk()
    try:
        listening = listen(args.host, args.port)
        pipe = NamiPipeline.from_pretrained(args.checkpoint, step=args.step, dtype=args.dtype, mesh=given_mesh(args))
        with tempfile.TemporaryDirectory(prefix="nami-demo-", ignore_cleanup_errors=True) as folder:
            _quiet_gradio(folder)
            from nami_jax.demo_page.demo_app import make_app
            from nami_jax.demo_page.drawer import Drawer
            from nami_jax.demo_page.form import VisitLimits

            side = args.most_side or 2 * pipe.cfg.side
            drawer = Drawer(pipe, VisitLimits(args.most_images, side, args.most_steps, args.most_letters), Path(folder))
            app = make_app(drawer, args.most_waiting)
            print(f"Serving on {address_of(args.host, listening)}; Ctrl-C ends it", flush=True)
            try:
                serve(app, listening)
            finally:
                drawer.close()
    except (ConfigError, CheckpointError, WeightsError, ModuleNotFoundError) as error:
        raise SystemExit(f"error: {error}") from error
    except OSError as error:
        raise SystemExit(f"error: {explain(error)}") from error


def _quiet_gradio(folder: str) -> None:
    """Says to Gradio, before it is imported, where its files go, and that it is to send nothing anywhere."""
    os.environ |= {
        "GRADIO_TEMP_DIR": folder,
        "GRADIO_ANALYTICS_ENABLED": "False",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "HF_HUB_OFFLINE": "1",
    }


def cli() -> None:
    """Runs the command."""
    run_command(main, define_flags, __doc__, functools.partial(parse_flags, remedy="Pass a model with --checkpoint"))


if __name__ == "__main__":
    cli()
