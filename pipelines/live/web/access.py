"""Who may look: a token, exchanged for a cookie."""

import hashlib
import hmac
import secrets
from collections.abc import Iterable

from pipelines.live.usage import UsageError
from pipelines.live.web.address import is_loopback

_SHORTEST = 8
_AGE_S = 30 * 24 * 3600


class Access:
    """Compares tokens in constant time, and makes the cookie that stands for one.

    The cookie is derived from the token (and does not tell it): a browser that was let in stays so when the
    pipeline is restarted with the same token.

    Args:
        token: The secret; None lets everybody in.
        port: Cookies are shared by all ports of a host, so that it is part of the cookie's name.
    """

    def __init__(self, token: str | None, port: int) -> None:
        self.token = token
        self._cookie = f"rgbt_live_{port}"
        self._value = "" if token is None else hmac.new(token.encode(), b"rgbt live page", hashlib.sha256).hexdigest()

    def takes(self, token: str) -> bool:
        """Whether this is the token."""
        return self.token is not None and hmac.compare_digest(token.encode(), self.token.encode())

    def admits(self, cookies: str | None, authorization: str | None) -> bool:
        """Whether a request's Cookie or Authorization header (``Bearer TOKEN``) lets it in."""
        if self.token is None:
            return True
        scheme, _, given = (authorization or "").partition(" ")
        if scheme.lower() == "bearer" and self.takes(given.strip()):
            return True
        # Not http.cookies, which reads none where other pages of the host keep one that it does not understand.
        pairs = (pair.partition("=") for pair in (cookies or "").split(";"))
        values = [value.strip().encode() for name, _, value in pairs if name.strip() == self._cookie]
        return any(hmac.compare_digest(value, self._value.encode()) for value in values)

    def cookie(self) -> str:
        """The Set-Cookie header for a browser that showed the token."""
        return f"{self._cookie}={self._value}; Path=/; Max-Age={_AGE_S}; HttpOnly; SameSite=Strict"


def agreed_token(host: str, token: str | None, hosts: Iterable[str] = ()) -> str | None:
    """The token that a server asks for: the given one, or a new one where others can reach it.

    Args:
        host: What it is bound to.
        token: None: none is given.
        hosts: Further names of it; where there are any, something passes on to it what others ask for.

    Raises:
        UsageError: the given one is too short.
    """
    if token is None:
        return None if is_loopback(host) and not list(hosts) else secrets.token_urlsafe(24)
    if len(token) < _SHORTEST or not token.isascii() or not token.isprintable():
        raise UsageError(
            f"--token: give at least {_SHORTEST} printable ASCII characters, or leave it out for a new one"
        )
    return token
