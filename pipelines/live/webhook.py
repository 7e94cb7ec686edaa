"""Answers to an address of the user's own, as HTTP POST."""

import base64
import http.client
import os
import ssl
from collections.abc import Sequence
from urllib.parse import quote

from data.errors import DataError
from data.frame import Pair
from data.prepare import Prepared
from pipelines.live.answer import Answer
from pipelines.live.endpoint import read_endpoint
from pipelines.live.lines import LineWriter
from pipelines.live.outbox import Item, RetryError
from pipelines.live.redact import redact

TOKEN_VARIABLE = "RGBT_WEBHOOK_TOKEN"
_TIMEOUT_S = 5.0
_HUNG_UP = (http.client.RemoteDisconnected, ConnectionResetError, BrokenPipeError)
_AGAIN = (408, 425, 429)


class WebhookSink:
    """Posts the answers that show something: ``{"answers": [...]}``, each as JsonLinesSink writes it.

    What waits is sent together, over one connection that is kept. RetryError says that the other side is away or
    overloaded (no connection, 408, 425, 429, 5xx), so that the answers are to be handed over again; DataError that it
    does not want them.

    Args:
        address: ``http[s]://[USER:PASSWORD@]HOST[:PORT]/PATH``; the variable RGBT_WEBHOOK_TOKEN holds a bearer token.
        classes: Names of the model's classes.
        rle: Whether masks are told too.
        is_live: See LineWriter.

    Raises:
        DataError: the address is none, or the token is none that a header can hold.
    """

    most = 64
    """Answers of one request."""

    def __init__(self, address: str, classes: tuple[str, ...], rle: bool = False, *, is_live: bool = False) -> None:
        self._endpoint = read_endpoint(address, "--webhook", ("http", "https"), "https://example.org/hook")
        self._as_line = LineWriter(classes, rle, is_live=is_live)
        self._connection: http.client.HTTPConnection | None = None
        self._headers = {"Content-Type": "application/json", "User-Agent": "rgbt-live"}
        target = f"{self._endpoint.path or '/'}{'?' if self._endpoint.query else ''}{self._endpoint.query}"
        self._target = quote(target, safe="!#$%&'()*+,/:;=?@[]~")  # as browsers do: spaces and umlauts alone
        token, user = os.environ.get(TOKEN_VARIABLE, "").strip(), self._endpoint.user
        if user is not None:
            secret = base64.b64encode(f"{user}:{self._endpoint.password or ''}".encode()).decode()
            self._headers["Authorization"] = f"Basic {secret}"
        elif not token.isascii() or not token.isprintable():
            raise DataError(f"{TOKEN_VARIABLE}: a token is one line of printable ASCII characters")
        elif token:
            self._headers["Authorization"] = f"Bearer {token}"

    def write(self, pair: Pair, prepared: Prepared, answer: Answer) -> None:
        """Post one answer."""
        self.write_many([(pair, prepared, answer)])

    def write_many(self, items: Sequence[Item]) -> None:
        """Post those of the answers that show something."""
        lines = [self._as_line(pair, answer) for pair, _, answer in items if answer.count]
        if lines:
            self._post(f'{{"answers": [{", ".join(lines)}]}}'.encode())

    def close(self, *, failed: bool = False) -> None:
        """Give the connection back."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _post(self, body: bytes) -> None:
        is_fresh, name = self._connection is None, self._endpoint.name
        try:
            status, reason = self._exchange(body)
        except (OSError, http.client.HTTPException) as error:
            self.close()
            if not is_fresh and isinstance(error, _HUNG_UP):
                return self._post(body)  # the other side had closed a connection that nobody used
            text = getattr(error, "strerror", None) or str(error) or type(error).__name__
            raise RetryError(f"{name}: not delivered ({redact(text).lower()})") from None
        if status in _AGAIN or status >= 500:
            raise RetryError(f"{name}: not accepted now ({status} {reason})")
        if status >= 300:
            raise DataError(f"{name}: not accepted ({status} {reason})")
        return None

    def _exchange(self, body: bytes) -> tuple[int, str]:
        connection = self._connection = self._connection or self._open()
        connection.request("POST", self._target, body, self._headers)
        with connection.getresponse() as response:
            response.read(1 << 16)
            if response.length:  # more than anybody wants to know
                connection.close()
            return response.status, response.reason

    def _open(self) -> http.client.HTTPConnection:
        host, port = self._endpoint.host, self._endpoint.port
        if self._endpoint.scheme == "https":
            return http.client.HTTPSConnection(host, port, timeout=_TIMEOUT_S, context=ssl.create_default_context())
        return http.client.HTTPConnection(host, port, timeout=_TIMEOUT_S)
