"""The arena over HTTP: who may see what, what a vote may be, and what an answer says when something fails."""

import re
import time

import numpy as np
import pytest
from starlette.testclient import TestClient

from nami_jax.nami1k.arena_app import PAGES, Arena, make_app
from nami_jax.nami1k.prompt_set import PromptSet
from nami_jax.serving.guarding import HEADERS, POLICY
from tests.support.arena import ANSWERS, Files


@pytest.fixture
def arena(tmp_path):
    arena = Files(tmp_path).arena(votes_each=10)
    for name in ("one", "two"):
        arena.votes.add_rater(name, f"token-{name}")
    yield arena
    arena.votes.close()


def client_of(arena, token: str | None = "token-one", **limits):
    client = TestClient(make_app(arena, **limits), base_url="http://arena.test")
    if token:
        assert client.get(f"/r/{token}", follow_redirects=False).status_code == 303
    return client


def vote(task, **changes):
    form = {"id": task["id"], "revision": task["revision"], "answers": ANSWERS, "language": "en", "milliseconds": 900}
    return form | changes


def count(arena):
    return arena.votes._rows("SELECT COUNT(*) FROM votes")[0][0]


def test_a_rater_votes_to_the_end(arena):
    client = client_of(arena)
    said = client.get("/api/tasks").json()
    assert (said["done"], said["of"], len(said["waiting"])) == (0, 10, 3)
    assert client.get("/api/tasks").json() == said  # asking again gives out nothing new
    done = 0
    while said["waiting"]:
        said = client.post("/api/votes", json=vote(said["waiting"][0])).json()
        done += 1
        assert said["done"] == done
    assert (done, count(arena)) == (10, 10)


def test_a_vote_sent_twice_is_one_and_another_answer_is_a_conflict(arena):
    client = client_of(arena)
    task = client.get("/api/tasks").json()["waiting"][0]
    answers = [client.post("/api/votes", json=vote(task)) for _ in range(3)]
    assert [answer.status_code for answer in answers] == [200] * 3
    assert answers[0].json() == answers[2].json()
    changed = client.post("/api/votes", json=vote(task, answers=ANSWERS | {"overall": "tie"}))
    assert changed.status_code == 409
    assert count(arena) == 1


def test_what_comes_next_follows_the_votes_over_a_restart(arena):
    client = client_of(arena)
    for _ in range(6):
        task = client.get("/api/tasks").json()["waiting"][0]
        client.post("/api/votes", json=vote(task))
    client.post("/api/votes", json=vote(client.get("/api/answered/2").json(), answers=ANSWERS | {"overall": "right"}))
    tally = np.zeros(2)
    for assignment in arena.votes.assignments():
        revisions = arena.votes.votes_on(assignment)
        if revisions and assignment.showing.kind in ("pair", "shared"):
            winner = getattr(assignment.showing, revisions[-1].answers["overall"])
            tally[winner] += 1
    assert arena._pairing.tally.tolist() == [tally.tolist()]
    again = Arena(arena.votes, PromptSet(tuple(arena.prompts.values()), ""), arena.folders, 10)
    assert again._pairing.tally.tolist() == [tally.tolist()]


def test_undo_shows_earlier_answers_and_stores_a_revision(arena):
    client = client_of(arena)
    first, second = client.get("/api/tasks").json()["waiting"][:2]
    for task in (first, second):
        client.post("/api/votes", json=vote(task))
    assert client.get("/api/answered/1").json() == {**second, "revision": 1, "answers": ANSWERS}
    earlier = client.get("/api/answered/2").json()
    assert earlier["id"] == first["id"]
    changed = ANSWERS | {"overall": "both_bad"}
    said = client.post("/api/votes", json=vote(earlier, answers=changed)).json()
    assert said["done"] == 2
    assert client.get("/api/answered/2").json() == {**first, "revision": 2, "answers": changed}
    for back in ("3", "0", "99999999999999999999"):
        assert client.get(f"/api/answered/{back}").status_code == 404


@pytest.mark.parametrize(
    "changes",
    [
        {"answers": {}},
        {"answers": ANSWERS | {"overall": "maybe"}},
        {"answers": ANSWERS | {"taste": "left"}},
        {"revision": -1},
        {"revision": "0"},
        {"revision": 10**30},
        {"language": "de"},
        {"milliseconds": -1},
        {"milliseconds": 1e300},
        {"id": "x" * 65},
        {"more": 1},
    ],
)
def test_what_is_no_vote_is_refused(arena, changes):
    client = client_of(arena)
    task = client.get("/api/tasks").json()["waiting"][0]
    answer = client.post("/api/votes", json=vote(task, **changes))
    assert answer.status_code == 422
    assert "no vote" in answer.json()["error"]
    assert count(arena) == 0


def test_bodies_and_kinds_of_content_are_bounded(arena):
    client = client_of(arena)
    task = client.get("/api/tasks").json()["waiting"][0]
    as_json = {"Content-Type": "application/json"}
    assert client.post("/api/votes", content=b"{" * 5000, headers=as_json).status_code == 413
    assert client.post("/api/votes", data=vote(task)).status_code == 415  # what a form of another site could send
    assert client.post("/api/votes", content=b"\xff", headers=as_json).status_code == 422
    assert client.get("/api/votes").status_code == 405


def test_nothing_is_shown_without_a_link(arena):
    client, name = client_of(arena, token=None), client_of(arena).get("/api/tasks").json()["waiting"][0]["id"]
    for path in ("/", "/api/tasks", "/api/answered/1", f"/image/{name}/left", "/r/wrong", f"/r/{'x' * 65}"):
        assert client.get(path, follow_redirects=False).status_code == 401, path
    assert client.post("/api/votes", json={}).status_code == 401
    assert "personal link" in client.get("/").text


def test_a_rater_sees_and_votes_on_his_own_assignments_alone(arena):
    one, two = client_of(arena), client_of(arena, "token-two")
    task = one.get("/api/tasks").json()["waiting"][0]
    assert one.get(f"/image/{task['id']}/left").status_code == 200
    assert two.get(f"/image/{task['id']}/left").status_code == 404
    assert two.post("/api/votes", json=vote(task)).status_code == 404
    assert count(arena) == 0


@pytest.mark.parametrize(
    "path",
    [
        "/image/{id}/above",
        "/image/../../etc/passwd",
        "/image/{id}/left/../right.png",
        "/image/%2e%2e%2f%2e%2e%2fetc%2fpasswd/left",
        "/pages/arena.html",
        "/pages/..%2fserve.py",
        "/pages/%2e%2e/serve.py",
    ],
)
def test_paths_that_were_not_given_are_not_found(arena, path):
    client = client_of(arena)
    task = client.get("/api/tasks").json()["waiting"][0]
    assert client.get(path.format(**task)).status_code == 404


def test_pictures_are_those_of_the_assignment_without_notes(arena):
    client = client_of(arena)
    for _ in range(10):
        task = client.get("/api/tasks").json()["waiting"][0]
        showing = arena.votes.find(1, task["id"]).showing
        for side, model in (("left", showing.left), ("right", showing.right)):
            got = client.get(f"/image/{task['id']}/{side}")
            assert got.headers["content-type"] == "image/png"
            assert "last-modified" not in got.headers
            assert b"model" not in got.content
            own = arena.folders[model].read(showing.prompt)
            if showing.spoiled == side:
                assert got.content != own
            else:
                assert got.content == own
        client.post("/api/votes", json=vote(task))
    assert arena.votes.places(1) == (10, 10)


def test_every_answer_has_the_security_headers(arena):
    client = client_of(arena)
    name = client.get("/api/tasks").json()["waiting"][0]["id"]
    for path in ("/", "/pages/arena.js", "/api/tasks", f"/image/{name}/left", "/nothing", "/r/wrong"):
        headers = client.get(path, follow_redirects=False).headers
        assert {name: headers.get(name) for name in HEADERS} == HEADERS, path
        assert headers["Content-Security-Policy"] == POLICY, path
    assert "default-src 'none'" in POLICY
    assert "unsafe" not in POLICY


def test_the_cookie_is_out_of_reach_of_scripts_and_other_sites(arena):
    client = client_of(arena, token=None)
    plain = client.get("/r/token-one", follow_redirects=False).headers["set-cookie"].lower()
    assert "httponly" in plain
    assert "samesite=lax" in plain
    assert "secure" not in plain
    behind = TestClient(make_app(arena), base_url="https://arena.test")
    assert "; secure" in behind.get("/r/token-one", follow_redirects=False).headers["set-cookie"].lower()


def test_votes_and_guesses_of_tokens_are_limited(arena):
    client = client_of(arena, votes_per_minute=1)
    task = client.get("/api/tasks").json()["waiting"][0]
    answers = [client.post("/api/votes", json=vote(task)) for _ in range(12)]
    assert [answer.status_code for answer in answers] == [200] * 10 + [429] * 2
    assert answers[-1].headers["retry-after"] == "5"
    assert "too fast" in answers[-1].json()["error"]
    stranger = client_of(arena, token=None)
    assert [stranger.get(f"/r/guess{i}").status_code for i in range(22)][-1] == 429


def test_a_full_disk_answers_503_in_plain_words_and_keeps_what_is_stored(arena):
    client = client_of(arena, votes_per_minute=1e5)
    task = client.get("/api/tasks").json()["waiting"][0]
    db = arena.votes._connection
    db.execute(f"PRAGMA max_page_count = {db.execute('PRAGMA page_count').fetchone()[0]}")
    revision = 0
    while (answer := client.post("/api/votes", json=vote(task, revision=revision))).status_code == 200:
        revision += 1
    assert answer.status_code == 503
    assert "disk is full" in answer.json()["error"]
    assert count(arena) == revision > 0
    db.execute("PRAGMA max_page_count = 1000000")
    assert client.post("/api/votes", json=vote(task, revision=revision)).status_code == 200
    assert count(arena) == revision + 1


def test_a_picture_that_is_gone_answers_503_without_its_path(arena):
    client = client_of(arena)
    task = client.get("/api/tasks").json()["waiting"][0]
    for folder in arena.folders:
        for path in folder.folder.iterdir():
            path.unlink()
    answer = client.get(f"/image/{task['id']}/left")
    assert answer.status_code == 503
    assert str(arena.folders[0].folder) not in answer.text


def test_a_clock_that_jumps_does_no_harm(arena, monkeypatch):
    client = client_of(arena)
    said = client.get("/api/tasks").json()
    order = [task["id"] for task in said["waiting"]]
    cookie = "; ".join(f"{name}={value}" for name, value in client.cookies.items())
    client.headers["Cookie"] = cookie  # the client's own would end with the time
    moments = [time.gmtime(now) for now in (2e9, 0.0, 1e9)]
    for moment in moments:
        monkeypatch.setattr(time, "gmtime", lambda moment=moment: moment)
        said = client.post("/api/votes", json=vote(said["waiting"][0])).json()
    assert [client.get(f"/api/answered/{back}").json()["id"] for back in (3, 2, 1)] == order
    assert said["done"] == 3
    assert arena.votes._rows("SELECT at FROM votes ORDER BY sequence")[1][0].startswith("1970")


def test_the_page_asks_for_its_own_files_alone_and_names_only_what_it_has():
    page, script, style = ((PAGES / name).read_text() for name in ("arena.html", "arena.js", "arena.css"))
    assert not re.findall(
        r"https?:|//\w+\.|@import|url\(|<style|style=|\son\w+=|innerHTML|eval\(", page + script + style
    )
    named = re.findall(r'\bat\("([\w-]+)"\)', script)
    assert set(named) <= set(re.findall(r'id="([\w-]+)"', page))
    texts = re.findall(r"^  (?:en|zh): \{(.*?)^  \},", script, flags=re.DOTALL | re.MULTILINE)
    keys = [set(re.findall(r"^    (?:.*?, )?(\w+): ", text, flags=re.MULTILINE)) for text in texts]
    assert len(texts) == 2
    assert keys[0] == keys[1]
