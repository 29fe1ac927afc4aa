"""Inputs that nobody means, thrown at every boundary: each is taken, or refused in one line, soon, and writes nothing.

They are drawn from a seed. What a boundary takes is not used: the pipeline's text encoder is never loaded.
"""

import contextlib
import json
import os
import random
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from absl import app, flags
from flax import nnx

from configs import autoencoder_emoji, emoji_latent, emoji_tiny
from nami_jax import sample
from nami_jax.autoencoder.codec import Autoencoder
from nami_jax.checkpoints.workdir import held
from nami_jax.config import Config, ConfigError, PipelineConfig
from nami_jax.config.autoencoder_run import AutoencoderRun
from nami_jax.config.listing import RUNS
from nami_jax.data.prepared_format import FORMAT, Prepared
from nami_jax.files.output_folder import make_folder, output_folder
from nami_jax.models.nami import Nami
from nami_jax.preparation.manifests import Manifest
from nami_jax.release.folders import new_folder
from nami_jax.release.released_parts import read_records
from nami_jax.sampling.golden_vectors import compare
from nami_jax.sampling.parts import Parts
from nami_jax.sampling.pipeline import NamiPipeline
from nami_jax.text.encoder_files import bert_sizes, t5_sizes
from nami_jax.text.tokens import bert_tokenizer, t5_tokenizer
from nami_jax.training import flags as run_flags
from nami_jax.training.tasks import task_name
from nami_jax.weights import WeightsError, open_tensors
from nami_jax.weights.converted import read_pipeline_config
from tests.support.flags import defined
from tests.support.paths import GOLDEN, ROOT
from tests.support.releases import CONFIGS
from tests.support.sizes import CONFIG

# What a command prints as one line; the ends of absl's own parsing are SystemExit.
REFUSED = (ConfigError, WeightsError, SystemExit, flags.Error, app.UsageError)
SECONDS = 20  # for one input, however busy the machine is
LETTERS = 2000  # of a message


def nested(depth: int) -> list[Any]:
    value: list[Any] = []
    for _ in range(depth):
        value = [value]
    return value


NUMBERS = (
    -1,
    0,
    1,
    2,
    7,
    2**31,
    2**32,
    2**64,
    10**12,
    10**29,
    10**5000,
    -(10**30),
    0.0,
    -0.5,
    1.5,
    1e-300,
    1e39,
    1e300,
    float("inf"),
    float("-inf"),
    float("nan"),
)
TEXTS = (
    "",
    " ",
    "x",
    "\0",
    "\n",
    "\ud800",
    "a\udcffb",
    "é" * 300,
    "x" * 10_000,
    "x" * 10**6,
    "../..",
    "/",
    "None",
    "{}",
    "<generator object>",
    "%s%n",
)
ODD: tuple[Any, ...] = (None, True, False, b"x", (), [], {}, [None], [[]], {1: 2}, {"a": {}}, object, 3j, range(3))


def hostile(draw: random.Random) -> Any:
    """Draws a value of any type, perhaps within lists."""
    kind = draw.random()
    if kind < 0.15:
        return [hostile(draw) for _ in range(draw.choice((1, 2, 3, 3)))]
    if kind < 0.17:
        return nested(100_000)
    if kind < 0.19:
        return (value for value in (1, 2, 3))
    return draw.choice(draw.choice((NUMBERS, TEXTS, ODD)))


@contextlib.contextmanager
def in_time() -> Iterator[None]:
    def late(*_: Any) -> None:
        raise AssertionError(f"took more than {SECONDS} s")

    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(SECONDS)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def refused(attempt: Callable[[], Any], what: str) -> bool:
    """Attempts something; returns whether it was refused, as it must be if it fails."""
    with in_time():
        try:
            attempt()
        except REFUSED as error:
            text, _, _ = str(error).partition("\n  ")  # a list of tensors may follow
            assert len(text) < LETTERS, what
            assert len(text.splitlines()) <= 3, f"{what}: {text}"  # a field each; most have one wrong
            return True
    return False


def files(folder: Path) -> set[str]:
    return {str(path) for path in folder.rglob("*")}


def shown(value: Any) -> str:
    try:
        return repr(value)[:200]
    except (ValueError, RecursionError):
        return "a value that has no repr"


COUNTS = [pytest.param(1, id="short"), pytest.param(10, id="long", marks=pytest.mark.slow)]


@pytest.mark.parametrize("times", COUNTS)
def test_configs(times):
    draw, wrong = random.Random(1), 0
    bases = [(Config, emoji_tiny), (Config, emoji_latent), (AutoencoderRun, autoencoder_emoji)]
    for _ in range(200 * times):
        kind, config = draw.choice(bases)
        fields = {name: value for name, value in config.get_config().to_dict().items() if name != "task"}
        section = draw.choice(sorted(fields))
        name, value = draw.choice([*sorted(fields[section]), "self", "unknown"]), hostile(draw)
        if draw.random() < 0.1:
            fields[section] = value
        else:
            fields[section][name] = value
        wrong += refused(lambda k=kind, f=fields: k.from_dict(f), f"{section}.{name} = {shown(value)}")
    assert wrong > 150 * times


JSON = (
    b"",
    b"{",
    b"[]",
    b"null",
    b"3",
    b'"x"',
    b"\xff\xfe",
    b"[" * 100_000,
    b'{"a":' * 100_000,
    b'{"a": NaN}',
    b"\0" * 64,
    b'{"a": "\\ud800"}',
    b'{"a": 1e999}',
    b'{"a": ' + b"9" * 9999 + b"}",
    b"\xef\xbb\xbf{}",
    b"[CLS]\n[SEP]\n",
)


def broken_json(draw: random.Random, whole: dict[str, Any]) -> bytes:
    """Draws what is no JSON, or a good object with one entry replaced or left out, at any depth."""
    if draw.random() < 0.4:
        return draw.choice(JSON)
    copy = json.loads(json.dumps(whole))
    place: Any = copy
    while True:
        key = draw.choice(list(place) if isinstance(place, dict) else range(len(place)))
        if isinstance(place[key], dict | list) and place[key] and draw.random() < 0.7:
            place = place[key]
            continue
        break
    if draw.random() < 0.3:
        del place[key]
    else:
        simple = [x for x in (*NUMBERS, *TEXTS, *ODD[:3]) if x not in (10**5000, 3j)]
        place[key] = draw.choice([*simple, [], {}, "x" * 10_000, [1, "a", None], {"a": [1]}])
    return json.dumps(copy).encode()


def vocabulary() -> dict[str, Any]:
    model = {"type": "WordLevel", "unk_token": "[UNK]", "vocab": {"[UNK]": 0, "a": 1, "</s>": 2}}
    return {"version": "1.0", "added_tokens": [], "model": model, "normalizer": None, "pre_tokenizer": None}


# What three files hold that are read.
PREPARED = {
    "format": FORMAT,
    "source": "folder",
    "source_digest": "x",
    "records": 1,
    "unit_size": 1,
    "units": 1,
    "buckets": [[16, 16]],
    "max_upscale": 1.0,
    "max_pixels": 1,
    "autoencoder": "x",
    "downscale": 2,
    "channels": 4,
    "text_encoder": "x",
    "max_length": 8,
    "text_dim": 8,
    "pooled_dim": 8,
    "dtype": "float32",
    "caption_templates": ["{}"],
}
SHARD = {"name": "data/a.arrayrecord", "unit": 0, "split": "train", "bucket": [16, 16], "records": 1, "bytes": 9}
RECORD = {"files": {"vae/a.bin": ["a", "b"]}, "index": None, "prefix": "", "aliases": {}, "left_out": 0}


def boundaries(folder: Path) -> dict[str, tuple[Path, dict[str, Any], Callable[[], Any]]]:
    """Returns what reads JSON: the file, what it should hold, and the reading."""
    for name in ("vae", "mt5", "mclip", "fast", "index", "parity", "bert", "prepared"):
        (folder / name).mkdir()
    (folder / "vae" / "x.safetensors").write_bytes(b"")
    (folder / "bert" / "vocab.txt").write_text("[PAD]\n[UNK]\n[CLS]\n[SEP]\na\n")
    for path in (GOLDEN / "nami_tiny").glob("*.safetensors"):
        (folder / "parity" / path.name).symlink_to(path)
    pipeline = CONFIG.pipeline.to_dict()
    golden = json.loads((GOLDEN / "nami_tiny" / "config.json").read_text())
    cased = {"do_lower_case": True, "strip_accents": None, "tokenize_chinese_chars": True}

    def at(
        path: str, good: dict[str, Any], read: Callable[[Path], Any]
    ) -> tuple[Path, dict[str, Any], Callable[[], Any]]:
        return folder / path, good, lambda: read((folder / path).parent)

    return {
        "pipeline": at("pipeline.json", pipeline, read_pipeline_config),
        "vae": at("vae/config.json", CONFIGS["vae"], Autoencoder.from_folder),
        "mt5": at("mt5/config.json", CONFIGS["mt5"], t5_sizes),
        "mclip": at("mclip/config.json", CONFIGS["mclip"], bert_sizes),
        "tokenizer_config": at("bert/tokenizer_config.json", cased, lambda path: bert_tokenizer(path, 8, "length")),
        "tokenizer": at(
            "fast/tokenizer.json", vocabulary(), lambda path: t5_tokenizer(path, 8, "length")(["a b \U0001f600"])
        ),
        "index": at("index/a.safetensors.index.json", {"weight_map": {"a": "b.safetensors"}}, open_tensors),
        "release": at("release.json", {"vae": RECORD}, read_records),
        "prepared": at(
            "prepared/prepared.json",
            PREPARED,
            lambda path: Prepared.from_json((path / "prepared.json").read_bytes(), "p"),
        ),
        "manifest": at(
            "prepared/0.json",
            {"shards": [SHARD], "ids": [["a"]], "rejects": []},
            lambda path: Manifest.from_json((path / "0.json").read_bytes(), "m"),
        ),
        "parity": at(
            "parity/config.json",
            {n: golden[n] for n in ("transformer", "steps", "guidance_scale", "final_latent_size")},
            lambda path: next(compare(path)),
        ),
    }


@pytest.mark.parametrize("times", COUNTS)
def test_json(tmp_path, times):
    draw, wrong = random.Random(2), 0
    found = boundaries(tmp_path)
    for path, good, _ in found.values():
        path.write_text(json.dumps(good))
    before = files(tmp_path)
    for i in range(165 * times):
        name = list(found)[i % len(found)]
        path, good, read = found[name]
        content = broken_json(draw, good)
        path.write_bytes(content)
        wrong += refused(read, f"{name}: {content[:300]!r}")
        path.write_text(json.dumps(good))
    assert wrong > 100 * times
    assert files(tmp_path) == before


@pytest.mark.parametrize(
    "name", ["vae", "mt5", "mclip", "tokenizer_config", "tokenizer", "index", "release", "pipeline"]
)
def test_json_that_is_a_folder_or_cannot_be_opened(tmp_path, name):
    path, _, read = boundaries(tmp_path)[name]
    path.mkdir()
    assert refused(read, name)
    path.rmdir()
    path.symlink_to(path.name)  # of itself
    assert refused(read, name) or name in ("tokenizer", "tokenizer_config", "release", "index")  # not there at all


def spelt(draw: random.Random) -> str:
    """Draws what can stand on a command line: no NUL, and not so long that absl's own messages are."""
    value = hostile(draw)
    if isinstance(value, int) and abs(value) > 10**4000:
        value = "9" * 300
    return shown(value).replace("\0", "0") if not isinstance(value, str) else value.replace("\0", "0")[:300]


@pytest.mark.filterwarnings("ignore:the load_module")  # of ml_collections, which loads the config's file
@pytest.mark.parametrize("times", COUNTS)
def test_command_lines_of_a_run(times, monkeypatch, capsys):
    monkeypatch.chdir(ROOT)
    draw, wrong = random.Random(3), 0
    names = [
        f"{s}.{f}"
        for s, fields in emoji_tiny.get_config().to_dict().items()
        if isinstance(fields, dict)
        for f in fields
    ]

    def attempt(arguments: list[str]) -> None:
        with defined(run_flags.define_flags):
            run_flags.parse_run_flags(["train", "--config=configs/emoji_tiny.py", "--workdir=/nowhere", *arguments])
            fields = flags.FLAGS.config.to_dict()
            RUNS[task_name(fields)].from_dict({name: value for name, value in fields.items() if name != "task"})

    for _ in range(100 * times):
        argument = f"--config.{draw.choice(names)}={spelt(draw)}"
        if draw.random() < 0.2:
            argument = (
                f"--{draw.choice(('stop_after', 'process_id', 'num_processes', 'config', 'unknown'))}={spelt(draw)}"
            )
        wrong += refused(lambda a=argument: attempt([a]), argument[:200])
    assert wrong > 50 * times
    assert "Traceback" not in capsys.readouterr().err


@pytest.mark.parametrize("times", COUNTS)
def test_command_lines_of_sample(times, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    draw = random.Random(4)
    names = (
        "step",
        "dtype",
        "preset",
        "steps",
        "guidance_scale",
        "grid",
        "height",
        "seed",
        "num_images",
        "fsdp",
        "out",
        "checkpoint",
    )

    def attempt(arguments: list[str]) -> None:
        with defined(sample.define_flags):
            flags.FLAGS(["sample", "--checkpoint=nowhere", "--prompt=x", *arguments])
            sample.main(["sample"])

    for _ in range(60 * times):
        argument = f"--{draw.choice(names)}={spelt(draw)}"
        assert refused(lambda a=argument: attempt([a]), argument[:200]), argument[:200]
    assert not list(tmp_path.iterdir())
    assert "Traceback" not in capsys.readouterr().err


class ReachedError(Exception):
    """A request that was found good: what it needs next would be loaded."""


def encoder() -> Any:
    raise ReachedError


@pytest.mark.parametrize("times", COUNTS)
def test_calls(times, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    draw, wrong = random.Random(5), 0
    cfg: PipelineConfig = CONFIG.pipeline
    pipe = NamiPipeline(Parts(Nami(cfg.model, rngs=nnx.Rngs(0)), cfg, None, ""), encoder)
    names = (
        "prompts",
        "negative_prompt",
        "preset",
        "steps",
        "guidance_scale",
        "grid",
        "solver",
        "transition",
        "height",
        "width",
        "seed",
        "num_images",
        "batch_size",
    )

    def attempt(given: dict[str, Any]) -> None:
        with contextlib.suppress(ReachedError):
            pipe(given.pop("prompts", "red apple"), **given)

    for _ in range(150 * times):
        given = {draw.choice(names): hostile(draw)}
        what = f"{next(iter(given))} = {shown(next(iter(given.values())))}"
        wrong += refused(lambda g=given: attempt(g), what)
    assert wrong > 100 * times
    for path in (*TEXTS, *ODD):
        if path not in ("/", "../.."):  # folders
            with contextlib.suppress(RuntimeError):  # CheckpointError: no run is there
                assert refused(lambda p=path: NamiPipeline.from_pretrained(p), shown(path))


def test_places(tmp_path):
    (tmp_path / "file").write_text("kept")
    (tmp_path / "pipe").mkdir()
    os.mkfifo(tmp_path / "pipe" / "p")
    (tmp_path / "loop").symlink_to("loop")
    before = files(tmp_path)
    places = (
        "file",
        "file/below",
        "file/far/below",
        "pipe/p",
        "loop",
        "loop/below",
        "x" * 300,
        "nul\0",
        "\ud800",
        "y/" * 3000,
    )

    def hold(path: Path) -> None:
        with held(path):
            raise AssertionError

    def out(path: Path) -> None:
        with output_folder(path, field="out"):
            raise AssertionError

    def convert(path: Path) -> None:
        with new_folder(path, 10):
            raise AssertionError

    for place in places:
        for make in (lambda path: make_folder(path, field="out"), hold, out, convert):
            assert refused(lambda m=make, p=place: m(tmp_path / p), shown(place))
    assert files(tmp_path) == before
    assert (tmp_path / "file").read_text() == "kept"
