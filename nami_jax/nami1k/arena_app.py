"""The arena as a web application: personal links, what a rater is shown, pictures, and votes.

A link `/r/TOKEN` sets a cookie and goes on to the page, which asks for everything else. Each assignment is written to
the votes file before it is shown, and a vote names it: so a vote sent twice is one vote, and one whose answer got lost
can be sent again.
"""

import hashlib
import json
import sqlite3
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import pydantic
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, RedirectResponse, Response
from starlette.routing import Route

from nami_jax.files.disk import is_full
from nami_jax.nami1k.allowances import Allowances
from nami_jax.nami1k.pairing import Pairing, rebuilt
from nami_jax.nami1k.picture_files import noised
from nami_jax.nami1k.picture_folders import PictureFolder
from nami_jax.nami1k.prompt_set import PromptSet
from nami_jax.nami1k.questions import AXES, Answer, Axis
from nami_jax.nami1k.showings import SIDES, Assignment
from nami_jax.nami1k.votes_file import Rater, Vote, VoteConflictError, VotesFile
from nami_jax.serving.guarding import SecurityHeaders

PAGES = Path(__file__).with_name("pages")
KINDS_OF_PAGE = {"arena.css": "text/css", "arena.js": "text/javascript", "arena.svg": "image/svg+xml"}
AHEAD = 3  # assignments that a rater's page knows, to have their pictures ready
MOST_BODY = 4096  # bytes
A_DAY = 86400  # seconds
STRANGER = "This page needs your personal link. Open the link that you were sent, or ask for it again."
TOO_FAST = "That was too fast. Wait a moment, and go on."
DISK = (
    "The vote could not be stored: the server's disk is full. Earlier votes are safe. Tell whoever sent you the link."
)
NOT_WRITTEN = "The server could not write its votes file. Earlier votes are safe. Send it again in a moment."
NO_PICTURE = "A picture is not in its folder any more. Tell whoever sent you the link."


class VoteForm(pydantic.BaseModel, extra="forbid", strict=True):
    """What the page sends as a vote."""

    id: Annotated[str, pydantic.Field(max_length=64)]
    revision: Annotated[int, pydantic.Field(ge=0, le=1000)]
    answers: dict[Axis, Answer]
    language: Literal["en", "zh"]
    milliseconds: Annotated[int, pydantic.Field(ge=0, le=1000 * A_DAY)]

    @pydantic.model_validator(mode="after")
    def _answers_all(self) -> "VoteForm":
        if len(self.answers) != len(AXES):
            raise ValueError("every question needs an answer")
        return self


class Arena:
    """What the application does, without the web: who sees what, and what becomes of an answer."""

    def __init__(self, votes: VotesFile, prompts: PromptSet, folders: Sequence[PictureFolder], votes_each: int):
        """Takes an open votes file, what it is on, and how many votes a rater is asked for."""
        self.votes, self.folders, self.votes_each = votes, folders, votes_each
        self.prompts = {prompt.id: prompt for prompt in prompts.prompts}
        self._turn, self._drawing = threading.Lock(), threading.Lock()
        pairing = Pairing(tuple(self.prompts), len(folders), votes.seed)
        self._pairing = rebuilt(pairing, votes.assignments(), votes.final_answers("overall"))

    def tasks(self, rater: Rater) -> dict[str, Any]:
        """Returns what a rater's page shows next and how far they are; gives out what is missing."""
        with self._turn:
            waiting = self.votes.unanswered(rater.rater)
            given, done = self.votes.places(rater.rater)
            ended = False
            while len(waiting) < AHEAD and given < self.votes_each and not ended:
                showing = self._pairing.next(rater.rater, given)
                if showing is None:
                    ended = True
                    continue
                try:
                    assignment = self.votes.assign(rater.rater, given, showing)
                except sqlite3.OperationalError:
                    if waiting:  # enough to go on with
                        break
                    raise
                self._pairing.add(assignment)
                waiting.append(assignment)
                given += 1
        of = given if ended else max(self.votes_each, given)
        return {"done": done, "of": of, "waiting": [self._task(assignment) for assignment in waiting]}

    def answered(self, rater: Rater, back: int) -> dict[str, Any] | None:
        """Returns the `back`th last assignment that a rater voted on, with the answers, to correct them."""
        assignment = self.votes.answered(rater.rater, back)
        return None if assignment is None else self._task(assignment)

    def vote(self, rater: Rater, form: VoteForm) -> bool:
        """Stores a vote and returns whether there is such an assignment; see `VotesFile.store`."""
        with self._turn:
            assignment = self.votes.find(rater.rater, form.id)
            if assignment is None:
                return False
            before = self.votes.votes_on(assignment)
            if self.votes.store(assignment, form.revision, Vote(form.answers, form.language, form.milliseconds)):
                if before:
                    self._pairing.add_answer(assignment.showing, before[-1].answers["overall"], -1)
                self._pairing.add_answer(assignment.showing, form.answers["overall"])
        return True

    def picture(self, rater: Rater, name: str, side: str) -> bytes | None:
        """Returns the picture on one side of a rater's assignment as PNG, or None if it is not theirs."""
        assignment = self.votes.find(rater.rater, name)
        if assignment is None:
            return None
        showing = assignment.showing
        folder = self.folders[showing.left if side == "left" else showing.right]
        if showing.spoiled != side:
            return folder.read(showing.prompt)
        if showing.kind == "other_prompt":
            return folder.read(str(showing.other_prompt))
        with self._drawing:  # one at a time: a decoded picture may take 200 MB
            return noised(folder.read(showing.prompt), assignment.sequence)

    def _task(self, assignment: Assignment) -> dict[str, Any]:
        prompt, revisions = self.prompts[assignment.showing.prompt], self.votes.votes_on(assignment)
        answers = dict(revisions[-1].answers) if revisions else None
        return {"id": assignment.id, "revision": len(revisions), "prompt": prompt.texts(), "answers": answers}


class _Web:
    """The routes."""

    def __init__(self, arena: Arena, votes_per_minute: float):
        self._arena = arena
        self._cookie = "arena_" + hashlib.sha256(arena.votes.seed.encode()).hexdigest()[:8]  # one for each arena
        self._calls = Allowances(per_second=votes_per_minute / 60, burst=max(10.0, votes_per_minute / 4))
        self._loads = Allowances(per_second=votes_per_minute / 6, burst=max(60.0, votes_per_minute))
        self._strangers = Allowances(per_second=0.5, burst=20)

    def routes(self) -> list[Route]:
        return [
            Route("/", self.page),
            Route("/r/{token}", self.enter),
            Route("/pages/{name}", self.file),
            Route("/api/tasks", self.tasks),
            Route("/api/answered/{back:int}", self.answered),
            Route("/api/votes", self.vote, methods=["POST"]),
            Route("/image/{name}/{side}", self.image),
        ]

    def _rater(self, request: Request) -> Rater:
        token = request.cookies.get(self._cookie, "")
        rater = self._arena.votes.rater_of(token) if 0 < len(token) <= 64 else None
        if rater is None:
            self._admit(self._strangers, request.client.host if request.client else "")
            raise HTTPException(401, STRANGER)
        return rater

    def _admit(self, allowances: Allowances, who: str | int) -> None:
        if not allowances.admit(who):
            raise HTTPException(429, TOO_FAST, {"Retry-After": "5"})

    def enter(self, request: Request) -> Response:
        token = request.path_params["token"]
        if len(token) > 64 or self._arena.votes.rater_of(token) is None:
            self._admit(self._strangers, request.client.host if request.client else "")
            raise HTTPException(401, STRANGER)
        response = RedirectResponse("/", 303)
        secure = request.url.scheme == "https"
        response.set_cookie(self._cookie, token, 90 * A_DAY, httponly=True, samesite="lax", secure=secure)
        return response

    def page(self, request: Request) -> Response:
        self._rater(request)
        return Response((PAGES / "arena.html").read_bytes(), media_type="text/html")

    def file(self, request: Request) -> Response:
        name = request.path_params["name"]
        if name not in KINDS_OF_PAGE:
            raise HTTPException(404)
        return Response((PAGES / name).read_bytes(), media_type=KINDS_OF_PAGE[name])

    def tasks(self, request: Request) -> Response:
        rater = self._rater(request)
        self._admit(self._loads, rater.rater)
        return JSONResponse(self._arena.tasks(rater))

    def answered(self, request: Request) -> Response:
        rater, back = self._rater(request), request.path_params["back"]
        self._admit(self._loads, rater.rater)
        task = self._arena.answered(rater, back) if 1 <= back <= 10**6 else None
        if task is None:
            raise HTTPException(404, "There is nothing before this.")
        return JSONResponse(task)

    def image(self, request: Request) -> Response:
        rater, side = self._rater(request), request.path_params["side"]
        self._admit(self._loads, rater.rater)
        png = self._arena.picture(rater, request.path_params["name"], side) if side in SIDES else None
        if png is None:
            raise HTTPException(404, "There is no such picture.")
        return Response(png, media_type="image/png", headers={"Cache-Control": f"private, max-age={A_DAY}, immutable"})

    async def vote(self, request: Request) -> Response:
        rater = await run_in_threadpool(self._rater, request)
        self._admit(self._calls, rater.rater)
        if request.headers.get("content-type", "").partition(";")[0] != "application/json":
            raise HTTPException(415, "A vote is sent as JSON.")
        body = b""
        async for part in request.stream():
            body += part
            if len(body) > MOST_BODY:
                raise HTTPException(413, "A vote is smaller than this.")
        try:
            form = VoteForm.model_validate_json(body)
        except pydantic.ValidationError as error:
            raise HTTPException(422, "This is no vote: each question needs one of the four answers.") from error
        return await run_in_threadpool(self._store, rater, form)

    def _store(self, rater: Rater, form: VoteForm) -> Response:
        try:
            if not self._arena.vote(rater, form):
                raise HTTPException(404, "There is no such pair.")
        except VoteConflictError as error:
            raise HTTPException(409, "This pair has other answers already, perhaps from another window.") from error
        return JSONResponse(self._arena.tasks(rater))


def _say(request: Request, status: int, text: str, headers: Mapping[str, str] | None = None) -> Response:
    if request.url.path.startswith("/api/"):
        return Response(json.dumps({"error": text}), status, headers, "application/json")
    return PlainTextResponse(text, status, headers)


def _refused(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    return _say(request, error.status_code, error.detail, error.headers)


def _not_written(request: Request, error: Exception) -> Response:
    return _say(request, 503, DISK if is_full(error) or "disk is full" in str(error) else NOT_WRITTEN)


def _no_picture(request: Request, error: Exception) -> Response:
    del error  # it names the file
    return _say(request, 503, NO_PICTURE)


def make_app(arena: Arena, votes_per_minute: float = 120) -> Starlette:
    """Returns the application.

    Args:
        arena: what it serves.
        votes_per_minute: that a rater may send in the long run; pictures and the rest may be asked for ten times as
            often.
    """
    return Starlette(
        routes=_Web(arena, votes_per_minute).routes(),
        middleware=[Middleware(SecurityHeaders)],
        exception_handlers={
            HTTPException: _refused,
            sqlite3.OperationalError: _not_written,
            OSError: _no_picture,
        },
    )
