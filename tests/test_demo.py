"""The command `demo` as a user runs it: what it refuses, and how it ends."""

import importlib.util
import signal
import subprocess
import sys

import httpx
import pytest

from nami_jax import demo
from nami_jax.serving.listening import listen
from tests.support import patience
from tests.support.demo import Demo
from tests.support.images import bomb
from tests.support.paths import ROOT


def failure(*flags: str) -> str:
    command = [sys.executable, "-m", "nami_jax.demo", *flags]
    run = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert run.returncode == 1
    assert len(run.stderr.splitlines()) == 1, run.stderr
    return run.stderr


def test_a_port_that_is_taken_is_said_before_the_model_is_loaded():
    with listen("127.0.0.1", 0) as taken:
        port = taken.getsockname()[1]
        assert f"--port = {port}: cannot be listened on" in failure("--checkpoint=nowhere", f"--port={port}")


def test_without_gradio_it_says_how_to_install_it(monkeypatch):
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "gradio" else found(name))
    with pytest.raises(SystemExit, match="gradio is not installed"):
        demo.main([])


def test_a_model_that_is_not_there_is_said(tmp_path):
    assert str(tmp_path / "nowhere") in failure(f"--checkpoint={tmp_path / 'nowhere'}", "--port=0")


@pytest.fixture
def server(tmp_path):
    server = Demo(tmp_path)
    yield server
    server.stop()


@pytest.mark.slow
@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])
def test_it_serves_this_computer_alone_and_ends_in_order_leaving_nothing(server, how):
    address = server.start("--port=0")
    assert address.startswith("http://127.0.0.1:")
    answer = httpx.get(address, timeout=300)
    assert answer.status_code == 200
    assert "default-src 'self'" in answer.headers["content-security-policy"]
    assert httpx.get(f"{address}/docs", timeout=300).status_code == 404
    assert httpx.get(f"{address}/gradio_api/info", timeout=300).json()["named_endpoints"] == {}
    assert list(server.temporary.glob("nami-demo-*"))
    watch = patience.Stopwatch()
    assert server.stop(how) == 0
    assert watch.look() < 60
    assert list(server.temporary.iterdir()) == []
    assert "Traceback" not in server.log.read_text()


@pytest.mark.slow
def test_what_a_program_sends_as_painted_is_refused_before_it_is_decoded(server):
    address = server.start("--port=0")
    api, config = f"{address}/gradio_api", httpx.get(f"{address}/config", timeout=300).json()
    parts = {part["id"]: part["props"] for part in config["components"]}
    ids = {props.get("elem_id"): number for number, props in parts.items()}
    events = {tuple(target): event for event in config["dependencies"] for target in event["targets"]}
    drawing, cutting = events[ids["draw"], "click"], events[ids["picture"], "change"]

    def upload(content: bytes) -> dict:
        (path,) = httpx.post(f"{api}/upload", files={"files": ("1.png", content)}, timeout=300).json()
        return {"path": path, "meta": {"_type": "gradio.FileData"}}

    def told(event: dict, data: list) -> str:
        call = {"data": data, "fn_index": event["id"], "session_hash": "visit"}
        assert httpx.post(f"{api}/queue/join", json=call, timeout=300).status_code == 200
        return httpx.get(f"{api}/queue/data", params={"session_hash": "visit"}, timeout=300).text

    picture, layer = upload((ROOT / "docs/emoji_tiny.png").read_bytes()), upload(bomb(13_000, 13_000))
    given = {"picture": picture, "painted": {"layers": [layer]}, "prompt": "red"}
    values = [given.get(parts[number].get("elem_id"), parts[number].get("value")) for number in drawing["inputs"]]
    assert "painted: decompression bomb: 13000x13000 pixels" in told(drawing, values)
    assert '"success":true' in told(cutting, [picture, 16, 16])  # Gradio makes the editor anew
    assert "painted: decompression bomb: 13000x13000 pixels" in told(drawing, values)
    assert "picture: decompression bomb: 13000x13000 pixels" in told(cutting, [layer, 16, 16])

    blob = {"component_id": ids["painted"], "session_hash": "visit", "fn_name": "accept_blobs"}
    sent = httpx.post(f"{api}/component_server", data=blob, files={"file": ("1.png", b"1")}, timeout=300)
    assert sent.status_code == 404  # they would stay in memory
