"""Times what `python -m nami_jax.sample` does up to its first picture.

python -m benchmarks.start_up --checkpoint runs/emoji_tiny

Run it twice: the second time finds its programs in the compilation cache. Seconds of one process, part by part; the
last part draws the picture once more, so what it takes less than the one before is tracing and compiling.
"""

import time
from collections.abc import Iterator

from absl import app, flags

from nami_jax.terminal.command_line import parse_flags

BEGAN = time.perf_counter()


def define_flags() -> None:
    """Defines the command's flags."""
    flags.DEFINE_string("checkpoint", None, "a run's workdir, or a folder of converted weights", required=True)
    flags.DEFINE_string("prompt", "a red apple", "what to draw")


def parts(checkpoint: str, prompt: str) -> Iterator[tuple[str, float]]:
    """Yields the name of each part and its seconds."""
    now = BEGAN

    def lap(name: str) -> tuple[str, float]:
        nonlocal now
        before, now = now, time.perf_counter()
        return name, now - before

    from nami_jax.parallel.kept_programs import keep_on_disk
    from nami_jax.sampling.pipeline import NamiPipeline

    yield lap("imports")
    keep_on_disk()
    pipe = NamiPipeline.from_pretrained(checkpoint)
    yield lap("loading the network")
    pipe.encode([prompt, ""], split=1)
    yield lap("loading the text encoder, and the prompt")
    pipe(prompt)
    yield lap("tracing, compiling or reading the programs, and drawing")
    pipe(prompt)
    yield lap("drawing again")


def main(argv: list[str]) -> None:
    """Prints the parts and their sum but the last."""
    del argv
    found = list(parts(flags.FLAGS.checkpoint, flags.FLAGS.prompt))
    for name, seconds in found:
        print(f"{seconds:6.2f} s  {name}")
    print(f"{sum(seconds for _, seconds in found[:-1]):6.2f} s  to the first picture")


if __name__ == "__main__":
    define_flags()
    app.run(main, flags_parser=parse_flags)
