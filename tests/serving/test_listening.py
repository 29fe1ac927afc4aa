"""Addresses to listen on."""

import socket

import pytest

from nami_jax.config import ConfigError
from nami_jax.serving.listening import address_of, listen


def test_an_address_is_what_a_browser_opens():
    with listen("127.0.0.1", 0) as listening:
        port = listening.getsockname()[1]
        assert port > 0
        assert address_of("127.0.0.1", listening) == f"http://127.0.0.1:{port}"
        assert address_of("::1", listening) == f"http://[::1]:{port}"
        socket.create_connection(("127.0.0.1", port)).close()


def test_a_port_that_is_taken_says_so_with_a_remedy():
    with listen("127.0.0.1", 0) as listening:
        port = listening.getsockname()[1]
        with pytest.raises(
            ConfigError, match=f"--port = {port}: cannot be listened on: .* Set another port, or --port=0"
        ):
            listen("127.0.0.1", port)


def test_a_host_that_does_not_exist_says_so():
    with pytest.raises(ConfigError, match=r"--host = '256\.0\.0\.1', --port = 0: cannot be listened on"):
        listen("256.0.0.1", 0)
