"""Draws what a form asks for, stage by stage, into PNGs that say how they were drawn."""

import queue
import tempfile
import threading
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from nami_jax.demo_page.form import GIVEN, Form, VisitLimits
from nami_jax.sampling.picture_settings import about_pictures
from nami_jax.sampling.pictures import save_png
from nami_jax.sampling.pipeline import NamiPipeline


class GivenUpError(Exception):
    """Nobody waits for what is being drawn."""


class Drawer:
    """A pipeline that draws for visitors, one after the other.

    Attributes:
        pipe: the pipeline.
        limits: what may be asked for.
    """

    def __init__(self, pipe: NamiPipeline, limits: VisitLimits, folder: Path):
        """Takes a pipeline, limits, and a folder for pictures, of which nothing is needed later."""
        self.pipe, self.limits, self._folder = pipe, limits, folder
        self._closing, self._turn = threading.Event(), threading.Lock()

    def close(self) -> None:
        """Ends what is being drawn, at the end of its stage."""
        self._closing.set()

    def draw(self, form: Form) -> Iterator[tuple[int, list[Path]]]:
        """Draws, and yields each stage's number, from 1 on, and its pictures as soon as it is done.

        Whoever does not go on to the end ends the drawing with the stage after; the next one begins when it has ended.

        Raises:
            ConfigError: what is asked for cannot work, or is more than the limits allow.
            WeightsError: the weights give no pictures.
        """
        asked = form.arguments(self.limits)
        settings = self.pipe.settings(asked["preset"], steps=form.steps, guidance_scale=form.guidance_scale)
        shown = {name: GIVEN for name in ("image", "mask") if asked[name] is not None}
        about = {"prompt": form.prompt} | about_pictures(self.pipe, settings, asked | shown)
        folder = Path(tempfile.mkdtemp(dir=self._folder))

        def work(tell: Callable[[Any], None]) -> None:
            def on_stage(pipe: NamiPipeline, stage: int, pictures: Any) -> None:
                if self._closing.is_set():
                    raise GivenUpError
                tell((stage, pictures))

            size = {"batch_size": self.limits.images}  # at once, so that stages come one after the other
            self.pipe(form.prompt, **asked, **size, **settings.to_dict(), callback_on_stage_end=on_stage)

        for stage, pictures in told_by(work, self._turn):
            of_stage = {} if stage == self.pipe.cfg.model.num_stages else {"stage": stage}
            files = []
            for i, picture in enumerate(pictures):
                files.append(folder / f"{stage}-{i}.png")
                save_png(picture, files[-1], about | {"number": i} | of_stage)
            yield stage, files


def told_by(work: Callable[[Callable[[Any], None]], None], turn: threading.Lock) -> Generator[Any]:
    """Runs a function in a thread and yields what it tells by the function that it is given, while it runs.

    It waits for the turn and has it until it ends: if the iterator is closed, that is when it tells something again,
    which raises `GivenUpError` in that thread.

    Raises:
        Exception: what the function raises.
    """
    news, given_up, end = queue.SimpleQueue(), threading.Event(), object()

    def tell(what: Any) -> None:
        if given_up.is_set():
            raise GivenUpError
        news.put(what)

    def in_turn() -> None:
        with turn:
            work(tell)

    pool = ThreadPoolExecutor(1)
    try:
        future = pool.submit(in_turn)
        future.add_done_callback(lambda _: news.put(end))
        yield from iter(news.get, end)
        future.result()
    finally:
        given_up.set()
        pool.shutdown(wait=False)
