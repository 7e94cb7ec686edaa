"""The page's server: uvicorn in a thread of its own, so that the pipeline goes on whatever a browser does."""

import logging
import socket
import threading
from collections.abc import Iterable, Mapping, Sequence

import uvicorn

from data.errors import DataError
from data.prepare import InputSpec
from pipelines.live.web.access import Access, agreed_token
from pipelines.live.web.address import HostRule, listen, shown_host
from pipelines.live.web.app import Board, make_app
from pipelines.live.web.guard import Guard
from pipelines.live.web.page import Page
from pipelines.live.web.viewed import Viewed

_LOG = logging.getLogger(__name__)
_MOST_CONNECTIONS = 256
_START_S = 10.0
STALL_S = 10.0
"""A viewer that takes nothing for so long is dropped."""


class Server:
    """A page that is being served; made by ``serve``."""

    def __init__(
        self, boards: Sequence[Board], uvicorn_server: uvicorn.Server, listener: socket.socket, url: str
    ) -> None:
        self.url = url
        """Address without a token."""
        self.token: str | None = None
        """What a viewer must know; None where only this machine can reach the page."""
        self.is_token_new = False
        """Whether the token was made here, so that it has to be told."""
        self._boards = boards
        self._server = uvicorn_server
        self._listener = listener
        self._thread = threading.Thread(target=self._run, name="page server", daemon=True)

    @property
    def login_url(self) -> str:
        """The address that lets a browser in."""
        return self.url if self.token is None else f"{self.url}?token={self.token}"

    @property
    def announcement(self) -> str:
        """One line for the terminal; with the token only where the user does not know it yet."""
        return f"page: {self.login_url if self.is_token_new else self.url}"

    @property
    def viewers(self) -> int:
        """Streams of pictures that are open."""
        return sum(board.views.size for board in self._boards)

    @property
    def pictures(self) -> int:
        """Pictures encoded since the start."""
        return sum(board.pictures.encoded for board in self._boards)

    def start(self) -> None:
        """Serve, and return when requests are answered; DataError where they never are."""
        self._thread.start()
        waited = threading.Event()
        for _ in range(round(_START_S / 0.01)):
            if self._server.started or not self._thread.is_alive():
                break
            waited.wait(0.01)
        if not self._server.started:
            self.stop()
            raise DataError(f"--serve: the page at {self.url} did not start within {_START_S:g} s")

    def stop(self, deadline_s: float = 3.0) -> None:
        """End every stream and the server; asking twice does no harm."""
        for board in self._boards:
            board.close()
        self._server.should_exit = True
        self._thread.join(deadline_s)
        if self._thread.is_alive():
            _LOG.warning("the page's server did not end within %g s; its thread was left behind", deadline_s)
        self._listener.close()

    def _run(self) -> None:
        self._server.run(sockets=[self._listener])


def serve(
    state: Viewed | Mapping[str, Viewed],
    classes: Sequence[str],
    inputs: InputSpec,
    host: str = "127.0.0.1",
    port: int = 8080,
    token: str | None = None,
    *,
    hosts: Iterable[str] = (),
    stall_s: float = STALL_S,
) -> Server:
    """Serve the page of a running pipeline in a thread of its own.

    Args:
        state: What is shown, of one rig, or of each by its name; asked from the page's threads.
        classes: Names of the model's classes.
        inputs: What the model takes; says what thermal's numbers mean.
        host: Where to listen; anything but this machine alone asks viewers for a token, as ``hosts`` does.
        port: 0 takes a free one.
        token: What viewers must know; None: nothing on this machine alone, else a new one (``server.announcement``).
        hosts: Further names under which the page may be asked for, as of a proxy before it.
        stall_s: A viewer that takes nothing for so long is dropped.

    Raises:
        DataError: the address is taken or unknown, the token is too short, or the server does not start.
    """
    hosts = tuple(hosts)
    agreed = agreed_token(host, token, hosts)
    listener = listen(host, port, stall_s)
    port = listener.getsockname()[1]
    states = state if isinstance(state, Mapping) else {"live": state}
    boards = {name: Board(one, inputs, tuple(classes)) for name, one in states.items()}
    app = make_app(boards, Page.read("page.html"), stall_s)
    guarded = Guard(app, HostRule(host, hosts), Access(agreed, port), Page.read("login.html"))
    config = uvicorn.Config(
        guarded,
        http="h11",
        ws="none",
        log_config=None,
        log_level="warning",
        access_log=False,  # addresses may carry the token
        server_header=False,
        proxy_headers=False,
        limit_concurrency=_MOST_CONNECTIONS,
        timeout_keep_alive=5,
        timeout_graceful_shutdown=1,
    )
    server = Server(tuple(boards.values()), uvicorn.Server(config), listener, f"http://{shown_host(host)}:{port}/")
    server.token, server.is_token_new = agreed, agreed is not None and token is None
    server.start()
    return server
