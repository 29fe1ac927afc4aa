"""SIGKILL of the arena's server at random moments, while ten raters vote."""

import random
import signal
import sqlite3
import threading
import time

import httpx
import pytest

from nami_jax.nami1k.questions import ANSWERS, AXES
from tests.support.arena import Files

RATERS = 10


class Voter(threading.Thread):
    """Votes until it is told to stop; what is not confirmed it sends again, as the page does."""

    def __init__(self, address: str, link: str, seed: int, over: threading.Event):
        super().__init__()
        self._address, self._link, self._over = address, link, over
        self._dice = random.Random(seed)
        self.confirmed: dict[tuple[str, int], tuple] = {}
        self.sent: dict[tuple[str, int], tuple] = {}
        self.again = self.asked_again = 0

    def run(self) -> None:
        with httpx.Client(base_url=self._address, timeout=20) as client:
            self._until_answered(lambda: client.get(self._link))
            said = self._until_answered(lambda: client.get("/api/tasks"))
            while said and said["waiting"] and not self._over.is_set():
                task = said["waiting"][0]
                answers = {axis: self._dice.choice(ANSWERS) for axis in AXES}
                vote = {
                    "id": task["id"],
                    "revision": task["revision"],
                    "answers": answers,
                    "language": "en",
                    "milliseconds": 1,
                }
                name = (task["id"], task["revision"])
                self.asked_again += name in self.confirmed
                self.sent[name] = tuple(answers.values())
                said = self._until_answered(lambda vote=vote: client.post("/api/votes", json=vote))
                if said:
                    self.confirmed[name] = self.sent[name]

    def _until_answered(self, ask) -> dict | None:
        while not self._over.is_set():
            try:
                response = ask()
            except httpx.TransportError:
                self.again += 1
                time.sleep(0.02)
                continue
            if response.status_code == 303:
                return {}
            assert response.status_code == 200, response.text
            return response.json()
        return None


def wait_for_votes(voters: list[Voter]) -> None:
    """Waits until every voter has another vote confirmed."""
    before = [len(voter.confirmed) for voter in voters]
    while any(len(voter.confirmed) == count for voter, count in zip(voters, before, strict=True)):
        assert all(voter.is_alive() for voter in voters)
        time.sleep(0.02)


@pytest.mark.parametrize("kills", [5, pytest.param(50, marks=pytest.mark.slow)])
def test_kills_lose_and_double_no_vote(tmp_path, kills):
    # More pairs than are voted on in that time.
    files, over, dice = (
        Files(tmp_path, prompts=500, models=2 if kills < 10 else 4),
        threading.Event(),
        random.Random(kills),
    )
    flags = [f"--raters={RATERS}", "--votes_each=100000", "--votes_per_minute=1000000"]
    address = files.start(*flags, "--port=0")
    port = address.rpartition(":")[2]
    voters = [Voter(address, link, seed, over) for seed, link in enumerate(files.links().values())]
    assert len(voters) == RATERS
    try:
        for voter in voters:
            voter.start()
        for kill in range(kills):
            if kill % 2:
                wait_for_votes(voters)  # so that there are some between the kills, on a slow machine too
            time.sleep(dice.uniform(0.05, 1.0))
            files.stop(signal.SIGKILL)
            files.start(*flags, f"--port={port}")
        wait_for_votes(voters)
    finally:
        over.set()
        for voter in voters:
            voter.join()
        files.stop()
    sent = {name: answers for voter in voters for name, answers in voter.sent.items()}
    confirmed = {name: answers for voter in voters for name, answers in voter.confirmed.items()}
    with sqlite3.connect(files.votes) as db:
        assert db.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        query = (
            f"SELECT id, revision, {', '.join(AXES)} FROM votes JOIN assignments ON assignment = assignments.sequence"
        )
        rows = db.execute(query).fetchall()
    db.close()
    stored = {row[:2]: row[2:] for row in rows}
    print(f"{len(confirmed)} votes confirmed, {len(stored)} stored; sent again {sum(v.again for v in voters)} times")
    assert len(stored) == len(rows)  # none doubled
    assert stored.items() >= confirmed.items()  # none lost
    assert not sum(voter.asked_again for voter in voters)  # for what was confirmed
    assert sent.items() >= stored.items()  # none changed
