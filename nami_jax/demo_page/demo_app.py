"""The page, by Gradio: its form, the pictures of each stage, those of this visit and their settings.

Nothing is fetched from elsewhere: no analytics, fonts of the system, and a policy by which a browser refuses the rest.
"""

import contextlib
import html
import secrets
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import fastapi
import gradio as gr
from gradio.themes import Default

from nami_jax.config import SAMPLE_PRESETS, ConfigError, preset_prompt
from nami_jax.demo_page.drawer import Drawer
from nami_jax.demo_page.form import MOST_BYTES, Form, canvas, filled_in, left_out, read_picture, sent_file
from nami_jax.sampling.picture_settings import read_settings
from nami_jax.sampling.source_pictures import STRENGTH
from nami_jax.serving.guarding import SecurityHeaders
from nami_jax.weights import WeightsError

KEPT = 48  # pictures of a visit that are shown
SECONDS_KEPT = 24 * 3600  # of files
PAINT = "rgb(255, 64, 160)"
# Gradio writes scripts and styles into its page and makes functions of texts; all of it comes from this server.
POLICY = (
    "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval'; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data: blob:; font-src 'self' data:; connect-src 'self' data: blob:; worker-src 'self' blob:; "
    "base-uri 'self'; form-action 'self'; frame-ancestors 'none'"
)
_PRIVATE: Any = {"api_visibility": "private"}  # of events: none is offered to programs
CSS = """
.drawn img { image-rendering: pixelated; }
.drawn .grid-wrap { padding-top: 2rem; }
#gallery .grid-wrap { min-height: 8rem; max-height: 22rem; }
#gallery .grid-container { grid-template: none / repeat(auto-fill, minmax(5rem, 1fr)); grid-auto-rows: auto; }
@media (max-width: 640px) {
  [id^=stage_], [id^=stage_] .grid-wrap { height: auto !important; max-height: none !important; }
}
#picture img { width: 100%; height: 100%; object-fit: contain; }
"""


class Fields(NamedTuple):
    """The form's components, in the order of `Form`, those of each stage last."""

    single: dict[str, Any]
    steps: list[Any]
    guidance_scale: list[Any]
    begin: Any  # what folds the picture to begin from

    @property
    def all(self) -> list[Any]:
        """Every component."""
        return [*self.single.values(), *self.steps, *self.guidance_scale]


class Results(NamedTuple):
    """Where pictures are shown."""

    stages: list[Any]
    gallery: Any
    chosen: Any  # the file whose settings are shown
    settings: Any
    download: Any
    uses: list[Any]  # buttons: take its settings, begin from it
    upload: Any


def make_app(drawer: Drawer, waiting: int) -> fastapi.FastAPI:
    """Returns the application.

    Args:
        drawer: draws.
        waiting: visitors who may wait for their turn, at most; the next one is told that there are too many.
    """
    page = make_page(drawer)
    page.queue(max_size=waiting, default_concurrency_limit=1, api_open=False)
    app = fastapi.FastAPI(openapi_url=None)
    app.add_middleware(SecurityHeaders, policy=POLICY)
    for path in ("", "/"):  # the page asks for none; the editor's keeps in memory what any program sends
        app.add_api_route(f"/gradio_api/component_server{path}", _no_such_page, methods=["POST"])
    sans, mono = ["system-ui", "sans-serif"], ["ui-monospace", "monospace"]
    return gr.mount_gradio_app(
        app,
        page,
        path="/",
        theme=Default(primary_hue="teal", font=sans, font_mono=mono),
        css=CSS,
        footer_links=[],
        run_history=False,
        max_file_size=MOST_BYTES,
        ssr_mode=False,
        enable_monitoring=False,
        mcp_server=False,
        pwa=False,
    )


def make_page(drawer: Drawer) -> gr.Blocks:
    """Returns the page of a drawer."""
    cfg = drawer.pipe.cfg
    with gr.Blocks(
        title="nami_jax", analytics_enabled=False, fill_width=True, delete_cache=(3600, SECONDS_KEPT)
    ) as page:
        gr.Markdown(
            f"## nami_jax\n{html.escape(str(drawer.pipe.source))} · {cfg.model.num_stages} stages · trained at "
            f"{cfg.side}×{cfg.side}"
        )
        with gr.Row():
            with gr.Column(scale=2, min_width=320):
                fields, draw, stop = _form(drawer)
            with gr.Column(scale=3, min_width=320):
                results = _results(drawer)
        _wire(_Visits(drawer), fields, results, (draw, stop))
    return page


def _form(drawer: Drawer) -> tuple[Fields, Any, Any]:
    limits, cfg = drawer.limits, drawer.pipe.cfg
    single: dict[str, Any] = {}
    single["prompt"] = gr.Textbox(
        label="Prompt", placeholder="a red apple", max_length=limits.letters, autofocus=True, elem_id="prompt"
    )
    single["negative_prompt"] = gr.Textbox(label="Negative prompt", max_length=limits.letters, elem_id="negative")
    with gr.Row():
        draw = gr.Button("Draw", variant="primary", min_width=100, elem_id="draw")
        stop = gr.Button("Stop", min_width=100, elem_id="stop")
        again = gr.Button("New seed", min_width=100, elem_id="new_seed")
    with gr.Row():
        single["preset"] = gr.Dropdown(_presets(drawer), value="", label="Preset", min_width=140, elem_id="preset")
        single["seed"] = gr.Number(0, label="Seed", precision=0, min_width=140, elem_id="seed")
    single["num_images"] = gr.Slider(1, limits.images, 1, step=1, label="Pictures", elem_id="num_images")
    unit = cfg.model.patch_size * 2 ** (cfg.model.num_stages - 1) * cfg.autoencoder.downscale
    with gr.Row():
        for name in ("height", "width"):
            single[name] = gr.Slider(
                unit, limits.side, cfg.side, step=unit, label=name.capitalize(), min_width=140, elem_id=name
            )
    with gr.Accordion("Steps and guidance by stage", open=False, elem_id="by_stage"):
        steps, scales = _by_stage(drawer)
    with gr.Accordion("Begin from a picture", open=False, elem_id="begin") as begin:
        single |= _picture()
    again.click(lambda: secrets.randbelow(2**32), None, single["seed"], queue=False, api_visibility="private")
    return Fields({name: single[name] for name in Form._fields[:-2]}, steps, scales, begin), draw, stop


def _presets(drawer: Drawer) -> list[tuple[str, str]]:
    fitting = [name for name in SAMPLE_PRESETS if name != "released" or drawer.pipe.bridge is not None]
    return [("the model's own", ""), *((name, name) for name in fitting)]


def _by_stage(drawer: Drawer) -> tuple[list[Any], list[Any]]:
    own, steps, scales = drawer.pipe.settings(), [], []
    for number, (count, scale) in enumerate(zip(own.steps, own.stage_scales, strict=True), 1):
        with gr.Row():
            steps.append(
                gr.Slider(
                    1,
                    drawer.limits.steps,
                    count,
                    step=1,
                    label=f"Steps {number}",
                    min_width=140,
                    elem_id=f"steps_{number}",
                )
            )
            scales.append(
                gr.Slider(
                    0,
                    20,
                    scale,
                    step=0.1,
                    label=f"Guidance {number}",
                    min_width=140,
                    elem_id=f"guidance_{number}",
                )
            )
    return steps, scales


def _picture() -> dict[str, Any]:
    sources: Any = ["upload", "clipboard"]
    picture = gr.Image(label="Picture", sources=sources, height=240, elem_id="picture", elem_classes="drawn")
    strength = gr.Slider(
        0.05, 1, STRENGTH, step=0.05, label="Strength", info="how much is drawn anew; 1: all of it", elem_id="strength"
    )
    painted = gr.ImageEditor(
        label="Paint what is drawn anew",
        format="png",
        sources=[],
        transforms=[],
        layers=False,
        brush=gr.Brush(default_size=60, colors=[PAINT], color_mode="fixed"),
        visible=False,
        elem_id="painted",
    )
    return {"picture": picture, "strength": strength, "painted": painted}


def _results(drawer: Drawer) -> Results:
    cfg = drawer.pipe.cfg
    count = cfg.model.num_stages
    with gr.Row():
        stages = [
            gr.Gallery(
                label=f"Stage {number} of {count}",
                columns=2,
                height=260,
                object_fit="contain",
                min_width=200,
                buttons=["download", "fullscreen"],
                elem_id=f"stage_{number}",
                elem_classes="drawn",
            )
            for number in range(1, count + 1)
        ]
    gallery = gr.Gallery(
        label="Drawn so far: choose one",
        columns=8,
        fit_columns=False,
        allow_preview=False,
        interactive=False,
        buttons=[],
        elem_id="gallery",
        elem_classes="drawn",
    )
    chosen = gr.State(None)
    with gr.Row():
        upload = gr.UploadButton("Settings of a PNG …", file_types=[".png"], size="sm", min_width=150, elem_id="upload")
        download = gr.DownloadButton("Download", size="sm", min_width=110, interactive=False, elem_id="download")
        uses = [
            gr.Button(text, size="sm", min_width=140, interactive=False, elem_id=name)
            for text, name in (("Use its settings", "use"), ("Begin from it", "begin_from"))
        ]
    settings = gr.JSON(label="Settings of this picture", max_height=320, visible=False, elem_id="settings")
    return Results(stages, gallery, chosen, settings, download, uses, upload)


def _wire(visits: "_Visits", fields: Fields, results: Results, buttons: tuple[Any, Any]) -> None:
    draw, stop = buttons
    single, private = fields.single, _PRIVATE
    seen = [results.chosen, results.settings, results.download, *results.uses]
    drawing = gr.on(
        [draw.click, single["prompt"].submit],
        visits.draw,
        [results.gallery, *fields.all],
        [*results.stages, results.gallery],
        show_progress_on=results.stages[-1],
        preprocess=False,  # Gradio would decode pictures of any size
        **private,
    )
    stop.click(None, cancels=[drawing], queue=False, **private)
    single["preset"].input(visits.preset, single["preset"], [*fields.steps, *fields.guidance_scale], **private)
    cut = [single[name] for name in ("picture", "height", "width")]
    changed = [part.change for part in cut]
    gr.on(changed, visits.canvas, cut, single["painted"], show_progress="hidden", preprocess=False, **private)
    results.gallery.select(visits.choose, results.gallery, seen, **private)
    results.upload.upload(visits.show, results.upload, seen, **private)
    results.uses[0].click(visits.use, results.chosen, fields.all, **private)
    begun = [single["picture"], single["painted"], fields.begin]
    results.uses[1].click(visits.begin, [results.chosen, *cut[1:]], begun, **private)


class _Visits:
    """What the page's events call."""

    def __init__(self, drawer: Drawer):
        self._drawer = drawer

    def draw(self, shown: Sequence[dict[str, Any]] | None, *values: Any) -> Iterator[list[Any]]:
        """Draws, and shows each stage when it is done; the last one's pictures go before those of the visit."""
        count = self._drawer.pipe.cfg.model.num_stages
        yield [[] for _ in range(count)] + [gr.skip()]
        with _in_words():
            for number, files in self._drawer.draw(Form.of(values).with_files()):
                changed: list[Any] = [gr.skip()] * (count + 1)
                changed[number - 1] = [str(file) for file in files]
                if number == count:
                    changed[-1] = [*changed[number - 1], *(sent_file(item["image"]) for item in shown or ())][:KEPT]
                yield changed

    def preset(self, name: str) -> list[Any]:
        """Fills in a preset's steps and guidance."""
        with _in_words():
            settings = self._drawer.pipe.settings(name or None)
        texts = preset_prompt(name)
        if texts.suffix:
            gr.Info(html.escape(f"adds {texts.suffix!r} to the prompt; its negative prompt is {texts.negative!r}"))
        return [*settings.steps, *settings.stage_scales]

    def canvas(self, picture: Any, height: Any, width: Any) -> Any:
        """Shows a picture, cut as it will be redrawn, to paint on."""
        path = sent_file(picture)
        if path is None:
            return gr.update(value=None, visible=False)
        with _in_words():
            return gr.update(value=canvas(read_picture(Path(path)), height, width, self._drawer.limits), visible=True)

    def begin(self, path: str, height: Any, width: Any) -> list[Any]:
        """Fills in a picture to begin from, and unfolds where it is."""
        return [path, self.canvas({"path": path}, height, width), gr.update(open=True)]

    def choose(self, shown: Sequence[tuple[str, Any]], event: gr.SelectData) -> list[Any]:
        """Shows the settings of a picture of the gallery."""
        return self.show(shown[event.index][0])

    def show(self, path: str) -> list[Any]:
        """Shows the settings that a PNG holds."""
        with _in_words():
            about = read_settings(Path(path))
        active = gr.update(interactive=True)
        shown = gr.update(value={name: str(value) for name, value in about.items()}, visible=True)
        return [path, shown, gr.update(value=path, interactive=True), active, active]

    def use(self, path: str) -> list[Any]:
        """Fills in the settings that a PNG holds, and says what the form cannot repeat."""
        pipe = self._drawer.pipe
        with _in_words():
            about = read_settings(Path(path))
            filled = filled_in(about, pipe.cfg.model)
            by_stage = {name: filled[name] for name in ("steps", "guidance_scale") if name in filled}
            notes = left_out(about, pipe.settings(filled["preset"] or None, **by_stage), str(pipe.source))
        if notes:
            gr.Warning(html.escape("Not in this form: " + "; ".join(notes)))
        count = pipe.cfg.model.num_stages
        values = [filled.get(name, gr.skip()) for name in Form._fields[:-2]]
        for name in ("steps", "guidance_scale"):
            values += filled.get(name, [gr.skip()] * count)
        return values


def _no_such_page() -> None:
    raise fastapi.HTTPException(404)


@contextlib.contextmanager
def _in_words() -> Iterator[None]:
    """Shows a visitor what went wrong, and nothing of the program."""
    try:
        yield
    except (ConfigError, WeightsError) as error:
        raise gr.Error(html.escape(str(error)), duration=None, print_exception=False) from error
