"""Listening on an address, and serving an application there until it is stopped."""

import contextlib
import signal
import socket
import sys

import uvicorn
from starlette.types import ASGIApp

from nami_jax.config import ConfigError


def listen(host: str, port: int) -> socket.socket:
    """Returns a socket that listens; with port 0 on any that is free.

    Raises:
        ConfigError: there is no such address, or the port is taken or not allowed.
    """
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        return socket.create_server((host, port), family=family)
    except OSError as error:
        reason = f"cannot be listened on: {error.strerror}"
        raise ConfigError(f"--host = {host!r}, --port = {port}: {reason}. Set another port, or --port=0.") from error


def address_of(host: str, listening: socket.socket) -> str:
    """Returns what a browser on this machine opens, e.g. "http://127.0.0.1:8100"."""
    return f"http://{f'[{host}]' if ':' in host else host}:{listening.getsockname()[1]}"


def serve(app: ASGIApp, listening: socket.socket) -> None:
    """Serves until Ctrl-C, or SIGTERM, which then ends the program in order."""
    config = uvicorn.Config(
        app,
        log_level="warning",
        access_log=False,  # addresses may hold tokens
        server_header=False,
        http="h11",
        ws="none",
        limit_concurrency=500,
        backlog=500,
        timeout_keep_alive=30,
        timeout_graceful_shutdown=5,
        h11_max_incomplete_event_size=16 * 1024,
    )
    # uvicorn stops in order, and then sends itself the signal again: nothing would close what is open.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    with contextlib.suppress(KeyboardInterrupt):
        uvicorn.Server(config).run(sockets=[listening])
