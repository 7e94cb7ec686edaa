"""Answers by HTTP POST to a server of the test's own."""

import http.server
import json
import queue
import socket
import threading

import numpy as np
import pytest

from data.errors import DataError
from data.frame import Frame, Pair
from data.prepare import Prepared
from pipelines.live.answer import BoxAnswer
from pipelines.live.outbox import Outbox, RetryError
from pipelines.live.webhook import WebhookSink

S = 20.0


def item(index, found=1):
    rgb = Frame(np.zeros((4, 4, 3), np.uint8), index * 10**6, index, "r")
    prepared = Prepared(rgb.image, np.zeros((4, 4), np.uint8), np.array([1, 0], np.float32), 1.0, (4, 4))
    return Pair(rgb, None), prepared, BoxAnswer(index, np.tile([[1, 2, 3, 4, 0.5, 0]], (found, 1)), (4, 4))


class Hook:
    """Answers with the codes that it was given, then 200; keeps what was posted."""

    def __init__(self):
        self.codes, self.heard = [], queue.Queue()
        hook = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self):
                body = self.rfile.read(int(self.headers["Content-Length"]))
                code = hook.codes.pop(0) if hook.codes else 200
                if code == 0:  # hang up without an answer
                    self.close_connection = True
                    return
                hook.heard.put((code, self.path, dict(self.headers), json.loads(body)))
                self.send_response(code)
                self.send_header("Content-Length", "2")
                self.end_headers()
                self.wfile.write(b"ok")

            def log_message(self, *_):
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.address = f"127.0.0.1:{self.server.server_address[1]}"
        self.thread = threading.Thread(target=self.server.serve_forever, args=(0.01,))
        self.thread.start()


@pytest.fixture
def hook():
    made = Hook()
    yield made
    made.server.shutdown()
    made.thread.join(S)
    made.server.server_close()


def test_what_shows_something_is_posted(hook):
    outbox = Outbox("webhook", WebhookSink(f"http://{hook.address}/in?a=1", ("person",)), depth=32)
    for index in range(3):
        outbox.write(*item(index, found=index != 1))
    outbox.close(deadline_s=S)
    posted = [hook.heard.get(timeout=S) for _ in range(hook.heard.qsize())]
    assert [answer["index"] for *_, body in posted for answer in body["answers"]] == [0, 2]
    _, path, headers, body = posted[0]
    assert (path, headers["Content-Type"]) == ("/in?a=1", "application/json")
    assert body["answers"][0]["boxes"][0]["class"] == "person"
    assert outbox.status.delivered == 3 and outbox.status.dropped == 0


@pytest.mark.parametrize("code", [0, 429, 500, 503])
def test_a_server_in_trouble_is_asked_again(hook, code):
    hook.codes = [code, code]
    outbox = Outbox("webhook", WebhookSink(f"http://{hook.address}/", ("person",)))
    outbox.write(*item(0))
    outbox.close(deadline_s=S)
    assert (outbox.status.delivered, outbox.status.errors, outbox.status.dropped) == (1, 2, 0)


@pytest.mark.parametrize("code", [301, 401, 404])
def test_a_server_that_does_not_want_it_is_not_asked_again(hook, code):
    hook.codes = [code]
    sink = WebhookSink(f"http://{hook.address}/", ("person",))
    with pytest.raises(DataError, match=f"not accepted .{code}") as caught:
        sink.write(*item(0))
    assert not isinstance(caught.value, RetryError)
    sink.close()


def test_a_connection_that_the_other_side_closed_meanwhile_is_opened_anew(hook):
    sink = WebhookSink(f"http://{hook.address}/", ("person",))
    sink.write(*item(0))
    hook.codes = [0]
    sink.write(*item(1))
    assert [hook.heard.get(timeout=S)[3]["answers"][0]["index"] for _ in range(2)] == [0, 1]
    sink.close()


def test_nobody_there_is_to_be_tried_again_and_secrets_stay_secret():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    sink = WebhookSink(f"http://me:s3cret@127.0.0.1:{port}/?token=t0ken", ("person",))
    with pytest.raises(RetryError) as caught:
        sink.write(*item(0))
    assert "refused" in str(caught.value) and "s3cret" not in str(caught.value) and "t0ken" not in str(caught.value)


def test_secrets_travel_in_the_header(hook, monkeypatch):
    for user, sent, token in (("", "Bearer abc", " abc\r\n"), ("me:pw@", "Basic bWU6cHc=", "abc")):
        monkeypatch.setenv("RGBT_WEBHOOK_TOKEN", token)
        sink = WebhookSink(f"http://{user}{hook.address}/", ("person",))
        sink.write(*item(0))
        sink.close()
        assert hook.heard.get(timeout=S)[2]["Authorization"] == sent


@pytest.mark.parametrize("token", ["s3cret\r\nX: 1", "s3cret\x1b", "s3cretü"])
def test_a_token_that_no_header_holds_is_refused_and_not_quoted(monkeypatch, token):
    monkeypatch.setenv("RGBT_WEBHOOK_TOKEN", token)
    with pytest.raises(DataError, match="RGBT_WEBHOOK_TOKEN: a token") as caught:
        WebhookSink("http://127.0.0.1:1/", ("person",))
    assert "s3cret" not in str(caught.value)


def test_spaces_and_umlauts_of_an_address_are_encoded(hook):
    sink = WebhookSink(f"http://{hook.address}/tür 1?token=a b%20'c", ("person",))
    sink.write(*item(0))
    sink.close()
    assert hook.heard.get(timeout=S)[1] == "/t%C3%BCr%201?token=a%20b%20'c"


@pytest.mark.parametrize("address", ["ftp://x/y", "https:///y", "nothing"])
def test_an_address_that_is_none_is_one_line(address):
    with pytest.raises(DataError, match="give an address such as https://"):
        WebhookSink(address, ("person",))
