"""The page's server: who is let in, what it sends, and that no viewer costs more than it should."""

import json
import socket
import threading
import time
from contextlib import contextmanager
from pathlib import Path

import cv2
import httpx
import numpy as np
import pytest
from prometheus_client.parser import text_string_to_metric_families

from data.errors import DataError
from pipelines.live.web.access import Access, agreed_token
from pipelines.live.web.address import HostRule, is_loopback
from pipelines.live.web.page import Page
from pipelines.live.web.server import serve

TOKEN = "correct-horse-battery"


@pytest.fixture
def served(staged):
    """Serves the staged pipeline; keywords are those of serve."""
    servers = []

    def start(**options):
        state = options.pop("state", staged.state)
        server = serve(state, staged.classes, staged.inputs, **{"port": 0, **options})
        servers.append(server)
        return server

    yield start
    for server in servers:
        server.stop()


def client(server, **headers):
    return httpx.Client(base_url=server.url, headers=headers, timeout=10, trust_env=False)


def parts(response):
    """JPEGs of a multipart stream, with the number of their answer."""
    held = b""
    for chunk in response.iter_bytes():
        held += chunk
        while b"\r\n\r\n" in held:
            head, _, rest = held.partition(b"\r\n\r\n")
            fields = dict(line.split(b": ") for line in head.split(b"\r\n")[1:])
            length = int(fields[b"Content-Length"])
            if len(rest) < length + 2:
                break
            assert head.startswith(b"--picture\r\n") and rest[length : length + 2] == b"\r\n"
            yield int(fields[b"X-Answer"]), rest[:length]
            held = rest[length + 2 :]


@contextmanager
def watching(server, query=""):
    with client(server) as browser, browser.stream("GET", f"/stream{query}") as response:
        assert response.status_code == 200
        assert response.headers["content-type"] == "multipart/x-mixed-replace; boundary=picture"
        yield parts(response)


def until(holds, seconds=10.0):
    """Wait until something holds."""
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline, "it never came to hold"
        threading.Event().wait(0.01)


# Addresses, names and tokens


@pytest.mark.parametrize(
    ("bound", "header", "allowed"),
    [
        ("127.0.0.1", "127.0.0.1:8080", True),
        ("127.0.0.1", "LOCALHOST:8080", True),
        ("127.0.0.1", "localhost.", True),
        ("127.0.0.1", "[::1]:9", True),
        ("127.0.0.1", "evil.example:8080", False),
        ("127.0.0.1", "localhost.evil.example", False),
        ("127.0.0.1", "192.168.1.5:8080", False),
        ("127.0.0.1", "", False),
        ("127.0.0.1", None, False),
        ("127.0.0.1", "page.lan", True),
        ("0.0.0.0", "192.168.1.5:8080", True),
        ("0.0.0.0", "[fe80::1]:8080", True),
        ("0.0.0.0", "0.0.0.0.evil.example", False),
        ("0.0.0.0", f"{socket.gethostname()}:8080", True),
        ("0.0.0.0", "evil.example", False),
        ("camera-box", "camera-box:8080", True),
    ],
)
def test_names_that_a_request_may_carry(bound, header, allowed):
    assert HostRule(bound, ["page.lan"]).allows(header) is allowed


@pytest.mark.parametrize("name", ["Page.lan:8443", "page.lan.", "[fd00::1]:8443", "fd00::1", " page.lan:8443 "])
def test_an_allowed_name_may_be_written_with_its_port(name):
    rule = HostRule("127.0.0.1", [name])
    assert rule.allows("[fd00::1]:80" if "fd00" in name else "page.lan") and not rule.allows("evil.example")


def test_a_page_that_a_proxy_publishes_asks_for_a_token(served):
    server = served(hosts=iter(["page.lan:8443"]))
    assert server.announcement.endswith(f"/?token={server.token}")
    with client(server, host="page.lan:8443") as browser:
        assert browser.get("/state").status_code == 401
        assert browser.get("/state", headers={"authorization": f"Bearer {server.token}"}).status_code == 200


def test_others_can_reach_it_only_with_a_token():
    assert all(map(is_loopback, ("localhost", "127.0.0.1", "127.3.2.1", "::1")))
    assert not any(map(is_loopback, ("0.0.0.0", "::", "192.168.1.5", "mast.local")))
    assert agreed_token("127.0.0.1", None) is None
    assert agreed_token("127.0.0.1", None, iter(["page.lan"])) is not None
    assert agreed_token("127.0.0.1", TOKEN) == TOKEN
    first, second = (agreed_token("0.0.0.0", None) for _ in range(2))
    assert first != second and len(first) >= 32
    with pytest.raises(DataError, match="at least 8"):
        agreed_token("0.0.0.0", "short")


def test_the_cookie_outlives_a_restart_and_is_of_one_port_and_token():
    cookie = Access(TOKEN, 80).cookie()
    pair = cookie.partition(";")[0]
    assert TOKEN not in cookie and "HttpOnly" in cookie and "SameSite=Strict" in cookie
    assert Access(TOKEN, 80).admits(f"other=1; {pair}", None)
    assert not Access(TOKEN, 81).admits(pair, None)
    assert not Access(TOKEN + "x", 80).admits(pair, None)
    assert not Access(TOKEN, 80).admits("rgbt_live_80=é", "Bearer é")


@pytest.mark.parametrize("other", ['prefs={"a":1}', "_ga[1]=1", "a=b=c", "=", "nothing", 'q="x', "rgbt_live_80=old"])
def test_cookies_of_other_pages_lock_nobody_out(other):
    pair = Access(TOKEN, 80).cookie().partition(";")[0]
    assert all(Access(TOKEN, 80).admits(cookies, None) for cookies in (f"{other}; {pair}", f"{pair}; {other}"))
    assert not Access(TOKEN, 80).admits(other, None)


def test_the_token_is_exchanged_for_a_cookie(served):
    server = served(token=TOKEN)
    assert server.login_url == f"{server.url}?token={TOKEN}" and TOKEN not in server.announcement
    with client(server) as browser:
        refused = browser.get("/")
        assert refused.status_code == 401 and "Token" in refused.text
        assert browser.get("/?token=wrong-token").status_code == 401
        let_in = browser.get(f"/?token={TOKEN}")
        assert (let_in.status_code, let_in.headers["location"]) == (303, "/")
        assert let_in.headers["set-cookie"].endswith("HttpOnly; SameSite=Strict")
        assert browser.get("/").status_code == 200 and "rgbt live" in browser.get("/").text
        assert browser.get("/state").status_code == 200
        assert browser.get("/?token=wrong-token").status_code == 401  # told, although the cookie would do


@pytest.mark.parametrize("path", ["/stream", "/events", "/state", "/thermal?x=0&y=0", "/metrics", "/nowhere"])
def test_nothing_is_told_without_the_token(served, path):
    server = served(token=TOKEN)
    with client(server) as stranger, client(server, authorization=f"Bearer {TOKEN}") as friend:
        for address in (path, f"{path}{'&' if '?' in path else '?'}token={TOKEN}"):
            refused = stranger.get(address)
            assert refused.status_code == 401 and refused.headers["www-authenticate"] == "Bearer"
        with friend.stream("GET", path) as response:
            assert response.status_code == (404 if path == "/nowhere" else 200)


def test_a_new_token_is_announced_where_the_network_can_reach(served):
    server = served(host="0.0.0.0")
    assert server.announcement.endswith(f"/?token={server.token}")
    with httpx.Client(base_url=f"http://127.0.0.1:{server.url.rsplit(':')[-1]}", trust_env=False) as browser:
        assert browser.get("/").status_code == 401
        assert browser.get("/healthz").text == "ok\n"
        assert browser.head("/healthz").status_code == 200
        assert browser.get("/", headers={"host": "evil.example"}).status_code == 400


def test_other_names_and_other_sites_are_refused(served):
    with client(served()) as browser:
        for path in ("/", "/stream", "/healthz"):
            assert browser.get(path, headers={"host": "evil.example"}).status_code == 400
        for site in ("cross-site", "same-site"):
            fetched = {"sec-fetch-site": site, "sec-fetch-mode": "no-cors"}
            assert browser.get("/stream", headers=fetched).status_code == 403
            assert browser.get("/", headers={**fetched, "sec-fetch-mode": "navigate"}).status_code == 200


def test_after_a_link_elsewhere_the_page_asks_again_by_itself(served):
    with client(served(token=TOKEN)) as browser:
        came = {"sec-fetch-site": "cross-site", "sec-fetch-mode": "navigate"}
        assert 'http-equiv="refresh"' in browser.get("/", headers=came).text
        assert 'http-equiv="refresh"' not in browser.get("/", headers={"sec-fetch-site": "same-origin"}).text


@pytest.mark.parametrize("path", ["/", "/healthz", "/state", "/nowhere"])
def test_every_answer_tells_the_browser_to_be_careful(served, path):
    with client(served()) as browser:
        headers = browser.get(path).headers
        assert headers["cache-control"] == "no-store" and headers["x-content-type-options"] == "nosniff"
        assert headers["cross-origin-resource-policy"] == "same-origin" and headers["x-frame-options"] == "DENY"
        assert headers["referrer-policy"] == "no-referrer" and "server" not in headers
        policy = headers["content-security-policy"]
        assert "default-src 'none'" in policy and "frame-ancestors 'none'" in policy and "unsafe" not in policy
        for method in ("POST", "PUT", "DELETE", "PATCH"):
            assert browser.request(method, path).status_code in (404, 405)


@pytest.mark.parametrize("name", ["page.html", "login.html"])
def test_pages_name_no_other_place(name):
    text = Page.read(name).text.replace("http://www.w3.org/2000/svg", "")
    assert "http:" not in text and "https:" not in text and 'src="//' not in text
    assert "style=" not in text and "innerHTML" not in text and " onclick" not in text


# Figures


def test_health_readiness_and_state(served, staged):
    with client(served()) as browser:
        assert browser.get("/healthz").status_code == 200
        assert browser.get("/readyz").status_code == 503
        assert browser.get("/state").json()["seen"] is None
        staged.give()
        assert browser.get("/readyz").status_code == 200
        told = browser.get("/state").json()
        assert told["seen"] == ["1 × person"] and told["answers"] == 1
        assert told["sources"]["rgb"]["state"] == "up" and told["sinks"]["mqtt"]["dropped"] == 1
        assert browser.get("/docs").status_code == browser.get("/openapi.json").status_code == 404


def test_thermal_is_read_under_the_pointer(served, staged):
    with client(served()) as browser:
        assert browser.get("/thermal?x=0.5&y=0.5").json() == {"value": None, "unit": "°C"}
        staged.give()
        assert browser.get("/thermal?x=0.5&y=0.5").json()["value"] == pytest.approx(20, abs=0.1)
        assert browser.get("/thermal?x=1&y=1").json()["value"] == pytest.approx(40)
        assert browser.get("/thermal?x=0.01&y=0.01").json()["value"] is None
        for wrong in ("x=1.2&y=0", "x=-1&y=0", "x=a&y=0", "x=nan&y=0", "y=0"):
            assert browser.get(f"/thermal?{wrong}").status_code == 422


def test_metrics_are_prometheus_text_in_base_units(served, staged):
    for _ in range(3):
        staged.give()
    staged.modes["thermal"] = "down"
    with client(served()) as browser:
        text = browser.get("/metrics").text
    samples = {
        (sample.name, *sorted(label for label in sample.labels.items() if label[0] != "rig")): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }
    answers = {key[1][1]: value for key, value in samples.items() if key[0] == "rgbt_live_answers_total"}
    assert answers == {"both": 3, "rgb": 0, "thermal": 0}
    assert samples["rgbt_live_frames_dropped_total", ("sensor", "rgb")] == 3
    assert samples["rgbt_live_latency_seconds", ("quantile", "0.5")] == pytest.approx(0.021, rel=0.02)
    assert samples["rgbt_live_stage_seconds", ("quantile", "0.99"), ("stage", "infer")] == pytest.approx(
        0.011, rel=0.02
    )
    assert samples["rgbt_live_source_state", ("sensor", "thermal"), ("state", "down")] == 1
    assert samples["rgbt_live_source_state", ("sensor", "thermal"), ("state", "up")] == 0
    assert samples["rgbt_live_source_reconnects_total", ("sensor", "rgb")] == 2
    assert samples["rgbt_live_sink_dropped_total", ("sink", "mqtt")] == 1
    assert samples["rgbt_live_frames_refused_total", ("sensor", "rgb")] == 0
    assert samples["rgbt_live_page_viewers",] == 0
    assert samples["process_resident_memory_bytes",] > 1e6
    assert "rtsp" not in text


def test_events_begin_with_the_history_and_go_on(served, staged):
    staged.give()
    with client(served()) as browser, browser.stream("GET", "/events") as response:
        assert response.headers["content-type"].startswith("text/event-stream")
        told = []
        for line in response.iter_lines():
            if line.startswith("event:"):
                name = line.removeprefix("event: ")
            elif line.startswith("data:"):
                told.append((name, json.loads(line.removeprefix("data: "))))
                staged.give()
            if len(told) == 4:
                break
    assert [name for name, _ in told] == ["hello", "state", "state", "state"]
    hello, states = told[0][1], [told for _, told in told[1:]]
    assert hello["unit"] == "°C" and len(hello["columns"]) == len(states[0]["row"])
    # The pairing wait is the stage "pair"; "wait" is that of the loop for a pair.
    assert states[0]["row"][hello["columns"].index("pair_p50")] == pytest.approx(4, rel=0.02)
    answers = [state["answers"] for state in states]
    assert answers == sorted(answers) and answers[-1] > answers[0]


def test_many_rigs_share_one_page(staged, served):
    staged.give()
    empty = type(staged)()
    server = served(state={"north gate": staged.state, "süd": empty.state})
    with client(server) as browser:
        assert browser.get("/readyz").status_code == 503
        assert browser.get("/state").json()["answers"] == 1
        assert browser.get("/state?rig=s%C3%BCd").json()["answers"] == 0
        for path in ("/state?rig=west", "/stream?rig=west", "/events?rig=west", "/thermal?x=0&y=0&rig=west"):
            assert browser.get(path).status_code == 404
        text = browser.get("/metrics").text
        assert 'rgbt_live_answers_total{present="both",rig="north gate"} 1.0' in text
        assert 'rgbt_live_answers_total{present="both",rig="süd"} 0.0' in text
        assert text.count("# TYPE rgbt_live_answers_total counter") == 1
        empty.give()
        assert browser.get("/readyz").status_code == 200
        with browser.stream("GET", "/events?rig=north gate") as response:
            hello = next(line for line in response.iter_lines() if line.startswith("data:"))
            assert json.loads(hello.removeprefix("data:"))["rigs"] == ["north gate", "süd"]
    with watching(server, "?rig=süd") as pictures:
        assert next(pictures)[0] == 0


# Pictures


def test_a_stream_shows_every_view_and_moves(served, staged):
    server = served()
    staged.give()
    for view, width in (("all", 960), ("fused", 640), ("rgb", 640), ("thermal", 640)):
        with watching(server, f"?view={view}&opacity=40&answers=false") as pictures:
            index, first = next(pictures)
            staged.give()
            after, second = next((after, jpeg) for after, jpeg in pictures if after > index)
        images = [cv2.imdecode(np.frombuffer(jpeg, np.uint8), cv2.IMREAD_COLOR) for jpeg in (first, second)]
        assert images[0].shape == (480, width, 3) and after == index + 1
        is_moved = np.abs(images[0].astype(int) - images[1]).max() > 60
        assert is_moved == (view != "thermal")


@pytest.mark.parametrize("query", ["view=../etc", "view=both", "opacity=101", "opacity=x", "answers=perhaps"])
def test_a_view_that_is_none_is_refused(served, query):
    with client(served()) as browser:
        assert browser.get(f"/stream?{query}").status_code == 422


def test_nothing_is_encoded_while_nobody_looks(served, staged):
    server = served()
    for _ in range(5):
        staged.give()
    assert server.pictures == 0
    with watching(server) as pictures:
        next(pictures)
        assert server.viewers == 1
    until(lambda: server.viewers == 0)
    encoded = server.pictures
    with client(server) as browser:
        for _ in range(5):
            staged.give()
            browser.get("/state")
    assert server.pictures == encoded <= 2


def test_twenty_viewers_cost_the_encoding_of_one(served, staged):
    server = served()
    staged.give()
    seen, ready = [], threading.Barrier(21)

    def look(opacity):
        with watching(server, f"?view=fused&opacity={opacity}") as pictures:
            shown = [next(pictures)[0]]
            ready.wait(20)
            for index, _ in pictures:
                shown.append(index)
                if index >= 10:
                    break
            seen.append(shown)

    viewers = [threading.Thread(target=look, args=(50 + number % 2,)) for number in range(20)]
    for viewer in viewers:
        viewer.start()
    ready.wait(20)
    assert server.viewers == 20
    while any(viewer.is_alive() for viewer in viewers):
        staged.give()
        threading.Event().wait(0.03)
    assert len(seen) == 20
    assert all(shown == sorted(shown) for shown in seen)  # one may be sent again while nothing new comes
    assert server.pictures <= staged.given


def test_a_viewer_that_never_reads_holds_nobody_up_and_is_dropped(served, staged):
    server = served(stall_s=1.0)
    staged.give()
    port = int(server.url.rstrip("/").rsplit(":")[-1])
    with socket.socket() as deaf, watching(server) as pictures:
        deaf.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)  # before it connects, or the system makes it larger
        deaf.connect(("127.0.0.1", port))
        deaf.sendall(b"GET /stream HTTP/1.1\r\nHost: localhost\r\n\r\n")
        until(lambda: server.viewers == 2)
        next(pictures)
        longest, deadline = 0.0, time.monotonic() + 20
        while server.viewers == 2:
            assert time.monotonic() < deadline
            started = time.perf_counter()
            staged.give()
            longest = max(longest, time.perf_counter() - started)
            next(pictures)
        staged.give()
        next(pictures)
        assert longest < 0.5


def test_a_stopped_pipeline_still_shows_its_last_picture(served, staged):
    server = served()
    staged.give()
    for _ in range(2):
        with watching(server) as pictures:
            assert next(pictures)[0] == 0


# Beginning and end


def test_stopping_ends_every_stream_at_once(served, staged):
    server = served()
    staged.give()
    before = {thread.name for thread in threading.enumerate()}
    assert {"page server", "page pictures"} <= before
    with watching(server) as pictures, client(server) as browser, browser.stream("GET", "/events") as events:
        next(pictures)
        lines = events.iter_lines()
        next(lines)
        started = time.monotonic()
        server.stop()
        assert time.monotonic() - started < 3
        assert list(pictures) is not None
        assert list(lines) is not None
    assert not {"page server", "page pictures"} & {thread.name for thread in threading.enumerate()}
    with pytest.raises(httpx.ConnectError):
        httpx.get(server.url, trust_env=False)
    server.stop()


def test_a_taken_port_is_one_line(served):
    port = int(served().url.rstrip("/").rsplit(":")[-1])
    with pytest.raises(DataError, match=f"127.0.0.1:{port}: Address already in use; give another port"):
        served(port=port)
    with pytest.raises(DataError, match=r"nowhere\.invalid"):
        served(host="nowhere.invalid", token=TOKEN)


def test_more_viewers_than_there_is_room_for_are_turned_away(served, staged, monkeypatch):
    monkeypatch.setattr("pipelines.live.web.app.MOST_VIEWERS", 1)
    server = served()
    staged.give()
    with watching(server) as pictures, client(server) as browser:
        next(pictures)
        assert browser.get("/stream").status_code == 503


def test_a_picture_that_cannot_be_drawn_ends_nothing(served, staged, monkeypatch):
    from pipelines.live.web import pictures as module

    server = served()
    staged.give()
    whole = module.Scene

    def broken(*_):
        raise cv2.error("no such size")

    with watching(server) as pictures:
        next(pictures)
        monkeypatch.setattr(module, "Scene", broken)
        staged.give()
        threading.Event().wait(0.1)
        monkeypatch.setattr(module, "Scene", whole)
        staged.give()
        assert next(pictures)[0] >= 1


def test_viewers_that_come_and_go_leave_nothing_behind(served, staged):
    server = served()
    staged.give()

    def visit():
        with watching(server) as pictures, client(server) as browser, browser.stream("GET", "/events") as events:
            next(pictures)
            next(events.iter_lines())
        until(lambda: server.viewers == 0)

    def held():
        return threading.active_count(), len(list(Path("/proc/self/fd").iterdir()))

    for _ in range(3):
        visit()
    before = held()
    for _ in range(12):
        visit()
    until(lambda: held() <= before)
