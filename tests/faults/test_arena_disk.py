"""The arena's votes on a disk that becomes full while a rater votes, and then has room again."""

import shutil
import sqlite3
import time
from pathlib import Path

import httpx

from tests.faults.mounts import mounted
from tests.support.arena import ANSWERS, Files


def test_a_full_disk_stops_votes_loses_none_and_is_got_over(tmp_path):
    disk, full = tmp_path / "disk", tmp_path / "full"
    disk.mkdir()
    full.touch()
    files = Files(tmp_path, prompts=300)
    files.votes = disk / "votes.db"
    # Only the server sees the disk. Most of it is taken until a file outside is gone.
    ballast = f"head -c 4000000 /dev/zero > {disk}/ballast"
    script = f'{ballast}; (while [ -e {full} ]; do sleep 0.1; done; rm {disk}/ballast) & exec "$@"'
    flags = ["--port=0", "--raters=1", "--votes_each=1000", "--votes_per_minute=1000000"]
    address = files.start(
        *flags, within=lambda command: mounted(disk, "size=4400k", ["sh", "-c", script, "sh", *command])
    )
    assert files.process is not None
    inside = Path(f"/proc/{files.process.pid}/root{disk}")
    link = "/r/" + (inside / "votes.db.links.txt").read_text().split("/r/")[1].strip()
    try:
        with httpx.Client(base_url=address, timeout=300) as client:
            client.get(link)
            stored = 0
            while True:
                task = client.get("/api/tasks").json()["waiting"][0]
                vote = {"id": task["id"], "revision": 0, "answers": ANSWERS, "language": "en", "milliseconds": 1}
                answer = client.post("/api/votes", json=vote)
                if answer.status_code != 200:
                    break
                stored += 1
            assert 5 < stored < 300
            assert answer.status_code == 503
            assert "disk is full" in answer.json()["error"]
            assert client.post("/api/votes", json=vote).status_code == 503
            full.unlink()
            while (answer := client.post("/api/votes", json=vote)).status_code == 503:
                time.sleep(0.1)
            assert answer.json()["done"] == stored + 1
        for path in inside.glob("votes.db*"):
            shutil.copy(path, tmp_path / path.name)
    finally:
        files.stop()
    db = sqlite3.connect(tmp_path / "votes.db")
    assert db.execute("SELECT COUNT(*), COUNT(DISTINCT assignment) FROM votes").fetchone() == (stored + 1, stored + 1)
    assert db.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    db.close()
