"""Serves the blind arena: `python -m nami_jax.nami1k serve --images A/ --images B/ --votes votes.db --raters 5`.

Makes a personal link for each rater. Two pictures of a prompt are shown side by side, and five questions are asked
about them. Stop it with Ctrl-C and start it again as you like; a vote is stored before the next pair is shown. Only one
server at a time writes a votes file. Put a web server with HTTPS before it if raters come over a network (--address).
"""

import contextlib
import os
import secrets
import sys
from collections.abc import Sequence
from pathlib import Path

from absl import flags

from nami_jax.config import ConfigError, require
from nami_jax.nami1k.arena_app import Arena, make_app
from nami_jax.nami1k.picture_folders import read_folders
from nami_jax.nami1k.prompt_set import read_prompts
from nami_jax.nami1k.votes_file import VotesFile, open_votes
from nami_jax.serving.listening import address_of, listen, serve


def define_flags() -> None:
    """Defines the command's flags."""
    flags.DEFINE_multi_string("images", [], "a model's folder of ID.png, or NAME=FOLDER; once for each model")
    flags.DEFINE_string("votes", None, "file of the votes; made if it is not there", required=True)
    flags.DEFINE_string("prompts", None, "file of prompts; without it the thousand of NAMI-1K")
    flags.DEFINE_integer("raters", 1, "how many raters there are in all", lower_bound=1, upper_bound=1000)
    flags.DEFINE_integer("votes_each", 200, "pairs that a rater is asked about", lower_bound=1, upper_bound=100_000)
    flags.DEFINE_list("renew", [], "raters who get a new link, by name; their old one is void")
    flags.DEFINE_string("host", "127.0.0.1", "address to listen on")
    flags.DEFINE_integer("port", 8100, "port to listen on; 0: any that is free", lower_bound=0, upper_bound=65535)
    flags.DEFINE_string("address", None, "what links begin with, if not http://HOST:PORT")
    flags.DEFINE_float("votes_per_minute", 120, "that one rater may send", lower_bound=1, upper_bound=1e6)


def main(argv: list[str]) -> None:
    """Opens everything, prints the links, and serves until it is stopped."""
    del argv
    args = flags.FLAGS
    prompts = read_prompts(None if args.prompts is None else Path(args.prompts))
    folders = read_folders(args.images, [prompt.id for prompt in prompts.prompts])
    models = {folder.name: folder.digest for folder in folders}
    with contextlib.closing(open_votes(Path(args.votes), prompts.digest, models)) as votes:
        listening = listen(args.host, args.port)
        address = args.address or address_of(args.host, listening)
        _give_links(votes, args.raters, args.renew, address.rstrip("/"))
        arena = Arena(votes, prompts, folders, args.votes_each)
        pairs = len(folders) * (len(folders) - 1) // 2 * len(prompts.prompts)
        print(
            f"{len(folders)} models, {len(prompts.prompts)} prompts: {pairs} pairs. Serving on {address}",
            flush=True,
        )
        serve(make_app(arena, args.votes_per_minute), listening)


def _give_links(votes: VotesFile, count: int, renew: Sequence[str], address: str) -> None:
    """Adds raters up to `count` and renews links; writes the new ones to a file that only the owner may read."""
    people = {rater.name: rater for rater in votes.raters() if rater.simulated is None}
    for name in renew:
        require(
            name in people,
            field="--renew",
            value=name,
            rule="no rater is called so",
            remedy=f"There are: {', '.join(people) or 'none yet'}",
        )
    path, links = votes.path.with_name(f"{votes.path.name}.links.txt"), []
    try:
        file = os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600), "a")
    except OSError as error:
        raise ConfigError(f"{path}: cannot be written: {error.strerror}. Links are kept there.") from error
    with file:
        for name in [*renew, *(f"rater-{i + 1:02}" for i in range(len(people), count))]:
            token = secrets.token_urlsafe(24)
            line = f"{name}  {address}/r/{token}"
            print(line, file=file, flush=True)  # first: a link that is lost would be a rater without one
            if name in people:
                votes.renew_token(people[name], token)
            else:
                votes.add_rater(name, token)
            links.append(line)
    if sys.stdout.isatty():  # a log keeps no token
        print(*links, sep="\n")
    print(f"Raters: {len(people) + len(links) - len(renew)}. Their links are in {path}, which only you can read.")
