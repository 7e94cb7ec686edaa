"""The endpoints: all of them GET, none takes a path or writes anything."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Annotated, Any

from fastapi import FastAPI, HTTPException, Query
from fastapi.responses import HTMLResponse, JSONResponse, PlainTextResponse
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.responses import Response

from data.prepare import InputSpec
from pipelines.live.views import View, ViewName
from pipelines.live.web.feed import Channel, FeedResponse
from pipelines.live.web.figures import Figures, event
from pipelines.live.web.metrics import LiveCollector, metrics_text
from pipelines.live.web.page import Page
from pipelines.live.web.pictures import BOUNDARY, Pictures
from pipelines.live.web.viewed import Viewed

MOST_VIEWERS = 64
_OPACITY_STEP = 5
"""Percent: sliders that stand nearly alike share their pictures."""
_TELL_S = 0.5
_AGAIN_S = 5.0
_FULL = "too many viewers\n"
HANGS_S = 15.0
"""A loop that did not turn for so long hangs: it turns ten times a second, but waits for the model."""
_PROBED = ["GET", "HEAD"]
"""Some probes look at the head alone."""


class Board:
    """What the endpoints share of one rig: the picture thread, the figures, and the channels to the viewers."""

    def __init__(self, state: Viewed, inputs: InputSpec, classes: tuple[str, ...]) -> None:
        self.state = state
        self.views: Channel[View] = Channel(MOST_VIEWERS)
        self.events: Channel[str] = Channel(MOST_VIEWERS)
        self.figures = Figures(state, classes)
        self.pictures = Pictures(state, inputs, classes, self.views, self._publish)
        self._loop: asyncio.AbstractEventLoop | None = None

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Draw and tell for as long as the server runs."""
        self._loop = asyncio.get_running_loop()
        self.pictures.start()
        telling = asyncio.ensure_future(self._tell())
        try:
            yield
        finally:
            telling.cancel()
            await asyncio.gather(telling, return_exceptions=True)
            await asyncio.to_thread(self.pictures.stop, 1.0)

    def close(self) -> None:
        """End every stream; from any thread."""
        if self._loop is not None and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self.views.close)
            self._loop.call_soon_threadsafe(self.events.close)

    def told(self) -> dict[str, Any]:
        """The figures of now, with the ends of thermal's colours and how many look."""
        low, high = self.pictures.ends()
        return {**self.figures.now(), "scale": {"low": low, "high": high}, "viewers": self.views.size}

    async def parts(self, view: View) -> AsyncGenerator[bytes, None]:
        """One view's pictures, beginning with the one that is there."""
        with self.views.subscription(view) as box:
            part = self.pictures.made(view)
            if part is not None:
                box.put(part)
            self.pictures.look()
            async for message in box.messages(_AGAIN_S):
                yield message

    async def news(self, rigs: Mapping[str, "Board"]) -> AsyncGenerator[bytes, None]:
        """The history for the charts and the names of all rigs, and then the figures twice a second."""
        with self.events.subscription("state") as box:
            hello = {**self.figures.hello(self.pictures.thermometer.unit), "rigs": list(rigs)}
            yield b"retry: 1000\n\n" + event("hello", hello) + event("state", self.told())
            async for message in box.messages():
                yield message

    async def _tell(self) -> None:
        """Take a snapshot twice a second while somebody listens, else once, for the charts of who comes later."""
        while True:
            told = self.told()
            if self.events.keys:
                self.events.publish("state", event("state", told))
            await asyncio.sleep(_TELL_S if self.events.keys else 2 * _TELL_S)

    def _publish(self, view: View, part: bytes) -> None:
        assert self._loop is not None, "the picture thread runs inside the loop's life"
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self.views.publish, view, part)


Rig = Annotated[str | None, Query(max_length=200)]
"""Name of a rig; the first one where none is given."""


def make_app(boards: Mapping[str, Board], page: Page, stall_s: float) -> FastAPI:
    """The application for one rig or many, without what guards it."""

    @asynccontextmanager
    async def running(_: FastAPI) -> AsyncIterator[None]:
        async with AsyncExitStack() as stack:
            for board in boards.values():
                await stack.enter_async_context(board.running())
            yield

    app = FastAPI(lifespan=running, docs_url=None, redoc_url=None, openapi_url=None)
    _add_streams(app, boards, stall_s)
    _add_figures(app, boards)

    @app.get("/")
    async def index() -> Response:
        return HTMLResponse(page.text, headers={"Content-Security-Policy": page.policy})

    return app


def _board(boards: Mapping[str, Board], rig: str | None) -> Board:
    """The rig that is asked for."""
    board = boards.get(next(iter(boards)) if rig is None else rig)
    if board is None:
        raise HTTPException(404, "no rig of this name")
    return board


def _add_streams(app: FastAPI, boards: Mapping[str, Board], stall_s: float) -> None:
    @app.get("/stream")
    async def stream(
        view: Annotated[ViewName, Query()] = "all",
        opacity: Annotated[int, Query(ge=0, le=100)] = 50,
        answers: Annotated[bool, Query()] = True,
        rig: Rig = None,
    ) -> Response:
        board = _board(boards, rig)
        if board.views.is_full:
            return PlainTextResponse(_FULL, 503)
        is_mixed = view in ("all", "fused")
        chosen = View(view, round(opacity / _OPACITY_STEP) * _OPACITY_STEP if is_mixed else 0, answers)
        media_type = f"multipart/x-mixed-replace; boundary={BOUNDARY}"
        return FeedResponse(lambda: board.parts(chosen), media_type, stall_s)

    @app.get("/events")
    async def events(rig: Rig = None) -> Response:
        board = _board(boards, rig)
        if board.events.is_full:
            return PlainTextResponse(_FULL, 503)
        return FeedResponse(lambda: board.news(boards), "text/event-stream", stall_s)


def _add_figures(app: FastAPI, boards: Mapping[str, Board]) -> None:
    metrics = metrics_text(
        LiveCollector(
            {name: board.state for name, board in boards.items()},
            lambda name: boards[name].views.size,
            lambda name: boards[name].pictures.encoded,
        )
    )

    @app.get("/thermal")
    async def thermal(
        x: Annotated[float, Query(ge=0, le=1)], y: Annotated[float, Query(ge=0, le=1)], rig: Rig = None
    ) -> Response:
        board = _board(boards, rig)
        latest, thermometer = board.state.latest, board.pictures.thermometer
        reading = None if latest is None else thermometer.at(latest, x, y)
        value = None if reading is None or reading.value is None else round(reading.value, 2)
        return JSONResponse({"value": value, "unit": thermometer.unit})

    @app.get("/state")
    async def state(rig: Rig = None) -> Response:
        return JSONResponse(_board(boards, rig).told())

    @app.api_route("/healthz", methods=_PROBED)
    async def healthz() -> Response:
        silent = [silent_s for board in boards.values() if (silent_s := board.state.silent_s) is not None]
        if silent and min(silent) > HANGS_S:  # one loop turns for all rigs
            return PlainTextResponse(f"the loop hangs: it has not turned for {min(silent):.0f} s\n", 503)
        return PlainTextResponse("ok\n")

    @app.api_route("/readyz", methods=_PROBED)
    async def readyz() -> Response:
        is_ready = all(board.state.snapshot()["ready"] for board in boards.values())
        return PlainTextResponse("ready\n" if is_ready else "no answer of late\n", 200 if is_ready else 503)

    @app.get("/metrics")
    def told_to_prometheus() -> Response:
        return Response(metrics(), media_type=CONTENT_TYPE_LATEST)
