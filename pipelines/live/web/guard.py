"""What stands before every endpoint: the Host header, the token, and headers that tell a browser to be careful."""

from collections.abc import Mapping
from urllib.parse import parse_qs

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import HTMLResponse, PlainTextResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from pipelines.live.web.access import Access
from pipelines.live.web.address import HostRule
from pipelines.live.web.page import Page

OPEN_PATHS = ("/healthz", "/readyz")
"""What probes ask for without a token; they say nothing but whether it runs."""

_HEADERS = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), microphone=(), geolocation=()",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}


class Guard:
    """ASGI middleware: refuses foreign names (400), other sites (403) and whoever has no token (401)."""

    def __init__(self, app: ASGIApp, hosts: HostRule, access: Access, login: Page) -> None:
        self._app = app
        self._hosts = hosts
        self._access = access
        self._login = login

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let one request through, or answer it."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def careful(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in _HEADERS.items():
                    headers.setdefault(name, value)
            await send(message)

        await (self._refusal(scope) or self._app)(scope, receive, careful)

    def _refusal(self, scope: Scope) -> Response | None:
        headers = Headers(scope=scope)
        if not self._hosts.allows(headers.get("host")):
            return PlainTextResponse("this name is not one of the server's (Host header)\n", 400)
        if _is_of_another_site(headers):
            return PlainTextResponse("not for other sites\n", 403)
        if scope["path"] in OPEN_PATHS:
            return None
        given = parse_qs(scope["query_string"].decode("latin-1")).get("token", [])
        if scope["path"] == "/" and given and (self._access.token is None or self._access.takes(given[-1])):
            cookie = {} if self._access.token is None else {"Set-Cookie": self._access.cookie()}
            return RedirectResponse("/", 303, cookie)
        # A wrong token is refused, also of a browser that was let in before: whoever typed it should know.
        if not given and self._access.admits(headers.get("cookie"), headers.get("authorization")):
            return None
        return self._ask(scope, headers, was_wrong=bool(given))

    def _ask(self, scope: Scope, headers: Headers, *, was_wrong: bool) -> Response:
        if scope["path"] != "/":
            refused = "token wanted: Authorization: Bearer TOKEN, or open the page first\n"
            return PlainTextResponse(refused, 401, {"WWW-Authenticate": "Bearer"})
        # After a link on another site a strict cookie stays away until the page asks for itself.
        again = '<meta http-equiv="refresh" content="0;url=/">'
        came_by_link = headers.get("sec-fetch-site") == "cross-site" and not was_wrong
        text = self._login.filled({"AGAIN": again if came_by_link else "", "WRONG": "" if was_wrong else "hidden"})
        return HTMLResponse(text, 401, {"Content-Security-Policy": self._login.policy})


def _is_of_another_site(headers: Mapping[str, str]) -> bool:
    """Whether a browser says that a page elsewhere (not the user, not a link) makes this request."""
    is_foreign = headers.get("sec-fetch-site") in ("cross-site", "same-site")
    return is_foreign and headers.get("sec-fetch-mode") != "navigate"
