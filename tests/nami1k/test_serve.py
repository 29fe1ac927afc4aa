"""The command `serve` as a user runs it: links, restarts, and what it refuses."""

import socket
import stat
import subprocess
from pathlib import Path

import httpx
import pytest

from tests.support.arena import ANSWERS, Files
from tests.support.paths import ROOT


@pytest.fixture
def files(tmp_path):
    files = Files(tmp_path)
    yield files
    files.stop()


def failure(files: Files, *flags) -> str:
    run = subprocess.run(files.command(*flags), capture_output=True, text=True, cwd=ROOT)
    assert run.returncode == 2
    assert "Traceback" not in run.stderr
    return run.stderr.strip().splitlines()[-1]


def test_links_last_over_restarts_and_no_log_has_a_token(files):
    address = files.start("--raters=2", "--port=0")
    links = files.links()
    assert list(links) == ["rater-01", "rater-02"]
    path = Path(f"{files.votes}.links.txt")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    with httpx.Client(base_url=address, timeout=300, follow_redirects=True) as client:
        assert "<title>" in client.get(links["rater-01"]).text
        task = client.get("/api/tasks").json()["waiting"][0]
        vote = {"id": task["id"], "revision": 0, "answers": ANSWERS, "language": "en", "milliseconds": 5}
        assert client.post("/api/votes", json=vote).json()["done"] == 1
        assert client.get("/r/wrong-token").status_code == 401
        behind = client.get(links["rater-02"], headers={"X-Forwarded-Proto": "https"}, follow_redirects=False)
        assert "; secure" in behind.headers["set-cookie"].lower()  # as a web server with HTTPS before it says
    files.stop()
    address = files.start("--raters=3", "--renew=rater-02", "--port=0")
    again = files.links()
    assert list(again) == ["rater-01", "rater-02", "rater-03"]
    with httpx.Client(base_url=address, timeout=300) as client:
        assert client.get(links["rater-01"]).status_code == 303
        assert client.get("/api/tasks").json()["done"] == 1
        assert client.get(links["rater-02"]).status_code == 401  # renewed
        assert client.get(again["rater-02"]).status_code == 303
    files.stop()
    log = files.log.read_text()
    for link in (*links.values(), *again.values(), "/r/wrong-token"):
        assert link.removeprefix("/r/") not in log
    assert not files.votes.with_name("votes.db-wal").exists()  # closed in order


def test_another_prompt_set_or_other_pictures_are_refused(files, tmp_path):
    files.start("--port=0")
    assert "another process writes it" in failure(files, "--port=0")
    files.stop()
    text = files.prompts.read_text()
    files.prompts.write_text(text.replace("picture number 1", "picture with number 1"))
    assert "is on the prompt set" in failure(files, "--port=0")
    files.prompts.write_text(text)
    files.images.reverse()
    assert "is on the models A, B, in this order" in failure(files, "--port=0")
    files.images.reverse()
    (files.images[0] / "p000.png").write_bytes((files.images[0] / "p001.png").read_bytes())
    assert "is on other pictures of 'A'" in failure(files, "--port=0")


def test_what_cannot_be_served_is_said_in_one_line(files):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        assert "Set another port" in failure(files, f"--port={taken.getsockname()[1]}")
    assert "no rater is called so" in failure(files, "--port=0", "--renew=nobody")
    files.images.pop()
    assert "two models at least" in failure(files, "--port=0")
    files.prompts.write_text(files.prompts.read_text() * 2)
    assert "twin" in failure(files, "--port=0")
