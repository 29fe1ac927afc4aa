"""Security headers for every answer, errors too."""

from collections.abc import MutableMapping
from typing import Any

from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Receive, Scope, Send

POLICY = (  # for pages that keep scripts and styles in files of their own
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; base-uri 'none'; "
    "form-action 'none'; frame-ancestors 'none'"
)
HEADERS = {
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
    "Referrer-Policy": "no-referrer",  # the first page's address holds a token
    "X-Content-Type-Options": "nosniff",
    "X-Robots-Tag": "noindex",
}


class SecurityHeaders:
    """Adds `HEADERS` and a policy to each answer, and `Cache-Control: no-store` unless it says otherwise."""

    def __init__(self, app: ASGIApp, policy: str = POLICY):
        """Takes the application, and what its pages may load and run (Content-Security-Policy)."""
        self._app, self._headers = app, HEADERS | {"Content-Security-Policy": policy}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers one request."""

        async def guarded(message: MutableMapping[str, Any]) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in self._headers.items():
                    headers[name] = value
                headers.setdefault("Cache-Control", "no-store")
            await send(message)

        await self._app(scope, receive, guarded)
