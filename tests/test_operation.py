"""What a run tells while it runs: log lines, the status line, systemd's notes; and what a site's file may say."""

import io
import json
import os
import socket
import threading
from contextlib import suppress
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest

from data.errors import DataError
from data.frame import Frame, Pair
from data.prepare import Prepared
from pipelines.live.answer import BoxAnswer
from pipelines.live.arguments import read_address
from pipelines.live.log import Log
from pipelines.live.notify import Notifier
from pipelines.live.operation import Operation, summary
from pipelines.live.outbox import SinkStatus
from pipelines.live.site import Site
from pipelines.live.source_status import SourceStatus
from pipelines.live.state import Latest, LiveState
from pipelines.live.status import StatusLine

NOW = datetime(2026, 1, 2, 3, 4, 5, 678901, UTC)


class Clock:
    now = 100.0

    def __call__(self):
        return self.now


def lines(stream):
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def test_log_lines_are_json_without_credentials():
    stream = io.StringIO()
    Log(stream, now=lambda: NOW).say(
        "source", "warning", rig="gate", fps=29.97654, error="rtsp://me:pw@10.0.0.5/1: gone", more={"x": "rtsp://a:b@c"}
    )
    assert lines(stream) == [
        {
            "time": "2026-01-02T03:04:05.678Z", "level": "warning", "event": "source", "rig": "gate", "fps": 29.977,
            "error": "rtsp://***@10.0.0.5/1: gone", "more": {"x": "rtsp://***@c"},
        }
    ]  # fmt: skip


def test_log_lines_as_text_can_be_taken_apart():
    stream = io.StringIO()
    Log(stream, "text", now=lambda: NOW).say("sink", error="no broker", rig="gate", count=3, none=None)
    assert stream.getvalue() == '2026-01-02T03:04:05.678Z info sink error="no broker" rig=gate count=3 none=null\n'


def test_a_log_that_cannot_be_written_ends_nothing():
    class Full(io.StringIO):
        def write(self, text):
            raise OSError(28, "no space")

    log = Log(Full())
    log.say("one")
    log.say("two")


def everything(stream):
    """What the status line and the log write."""
    line = StatusLine(stream)
    line.say("camera down")
    line.show(lambda: "1 answer")
    line.close()
    Log(stream).say("source")


def test_a_full_disk_a_closed_pipe_and_a_closed_stream_end_nothing():
    read, write = os.pipe()
    os.close(read)
    with Path("/dev/full").open("w") as full, os.fdopen(write, "w") as nobody, Path(os.devnull).open("w") as closed:
        closed.close()
        for stream in (full, nobody, closed):
            everything(stream)


def test_a_pipe_that_nobody_reads_delays_nothing_and_lines_stay_whole():
    read, write = os.pipe()
    os.set_blocking(write, False)
    with os.fdopen(write, "w") as stream, os.fdopen(read, "rb") as reader:  # closed first, should somebody wait
        filled = 0
        with suppress(BlockingIOError):
            while True:
                filled += os.write(write, b"." * 4096)
        os.set_blocking(write, True)
        thread = threading.Thread(target=everything, args=(stream,), daemon=True)
        thread.start()
        thread.join(20)
        assert not thread.is_alive(), "it waits for a reader"
        reader.read(filled)
        Log(stream, "text", now=lambda: NOW).say("again", text="x" * 9000)
        assert reader.readline().endswith(b"x\n")


def source(state, **more):
    of = {"frames": 1, "dropped": 0, "reconnects": 0, "stalls": 0, "last_error": None, "fps": 30.0, "age_s": 0.1}
    return SourceStatus(name="cam", state=state, **{**of, **more})


def state_with(sources, name="gate", clock=None, sinks=lambda: {"mqtt": asdict(SinkStatus(queued=1))}):
    state = LiveState(name, clock or Clock())
    state.watch(lambda: sources, sinks)
    rgb = Frame(np.zeros((2, 2, 3), np.uint8), 0, 0, "r")
    prepared = Prepared(rgb.image, rgb.image[..., 0], np.array([1, 0], np.float32), 1.0, (2, 2))
    latest = Latest(Pair(rgb, None), prepared, BoxAnswer(0, np.zeros((0, 6), np.float32), (2, 2)))
    state.answered(latest, {"infer": 0.01}, 0.02, {"pairs": 0, "rgb_alone": 1, "rgb_dropped": 4})
    return state


def test_changes_of_a_source_are_told_once_and_a_summary_each_minute():
    stream, clock, sources = io.StringIO(), Clock(), {"rgb": source("up"), "thermal": source("connecting")}
    people = io.StringIO()
    operation = Operation(StatusLine(people), Log(stream), clock=clock)
    states = [state_with(sources)]
    operation.begin(states)
    for second in range(130):
        clock.now = 100.0 + second
        if second == 10:
            sources["rgb"] = source("down", last_error="lost")
        operation.turn(states)
    operation.stopping(states)
    operation.end("stop", states)
    said = lines(stream)
    changes = [
        (line["sensor"], line["state"], line["level"], line["error"]) for line in said if line["event"] == "source"
    ]
    assert changes == [
        ("rgb", "up", "info", None), ("thermal", "connecting", "info", None), ("rgb", "down", "warning", "lost"),
    ]  # fmt: skip
    assert people.getvalue().splitlines().count("rgbt: rgb down: lost") == 1
    sums = [line for line in said if line["event"] == "summary"]
    assert len(sums) == 3
    assert sums[0]["sinks"] == {"mqtt": {"queued": 1, "dropped": 0, "errors": 0, "last_error": None}}
    assert (said[0]["event"], said[-1]["event"], said[-1]["by"]) == ("started", "stopped", "stop")


def test_another_reason_for_the_same_state_is_told_too():
    people, log, clock, sources = io.StringIO(), io.StringIO(), Clock(), {"rgb": source("down", last_error="lost")}
    operation, states = Operation(StatusLine(people), Log(log), clock=clock), [state_with(sources)]
    for error in ("lost", "lost", "refused"):
        sources["rgb"] = source("down", last_error=error)
        operation.turn(states)
        clock.now += 1
    assert people.getvalue() == "rgbt: rgb down: lost\nrgbt: rgb down: refused\n"
    assert [line["error"] for line in lines(log) if line["event"] == "source"] == ["lost", "refused"]


def test_a_sink_in_trouble_is_told_of_when_it_begins_and_when_it_is_over():
    log, people, clock, now = io.StringIO(), io.StringIO(), Clock(), {"mqtt": SinkStatus()}
    operation = Operation(StatusLine(people), Log(log), clock=clock)
    states = [state_with({}, clock=clock, sinks=lambda: {name: asdict(of) for name, of in now.items()})]
    operation.begin(states)
    errors = dropped = 0
    for second in range(40):
        clock.now = 100.0 + second
        is_bad = 5 <= second < 20 or second in (22, 30)  # 22: it comes and goes
        errors, dropped = errors + is_bad, dropped + 2 * is_bad
        now["mqtt"] = SinkStatus(0, second, dropped, errors, "no broker" if errors else None, is_bad)
        operation.turn(states)
    told = [line for line in people.getvalue().splitlines() if line.startswith("rgbt:")]
    assert told == [
        "rgbt: mqtt failing: no broker", "rgbt: mqtt works again; 32 answers were lost",
        "rgbt: mqtt failing: no broker", "rgbt: mqtt works again; 2 answers were lost",
    ]  # fmt: skip
    said = [line for line in lines(log) if line["event"] == "sink"]
    assert [(line["what"], line["level"]) for line in said] == [("failing", "error"), ("works again", "info")] * 2
    assert said[0]["why"] == "no broker" and said[1]["lost"] == 32


def test_a_sink_that_loses_answers_without_an_error_does_not_keep_up():
    people, clock, now = io.StringIO(), Clock(), {"video": SinkStatus(queued=8)}
    operation = Operation(StatusLine(people), clock=clock)
    states = [state_with({}, clock=clock, sinks=lambda: {name: asdict(of) for name, of in now.items()})]
    for second in range(3):
        clock.now = 100.0 + second
        now["video"] = SinkStatus(queued=8, dropped=second)
        operation.turn(states)
    assert people.getvalue() == "rgbt: video failing: it does not keep up, answers are lost\n"


def test_rigs_are_named_where_there_are_several():
    people = io.StringIO()
    operation = Operation(StatusLine(people))
    operation.begin([state_with({}), state_with({}, "yard")])
    operation.give_up("gate", "rgb", "given up", "thermal")
    operation.give_up("yard", "rgb", "given up", None)
    operation.refuse("yard", "thermal", "8 bits")
    assert people.getvalue().splitlines() == [
        "rgbt: gate rgb: given up; the run goes on with thermal",
        "rgbt: yard rgb: given up; the rig has ended",
        "rgbt: yard thermal refused: 8 bits",
    ]


def test_the_last_summary_has_the_rate_of_the_run_and_not_of_its_end():
    log, clock = io.StringIO(), Clock()
    states, operation = [state_with({}, clock=clock)], Operation(log=Log(log), clock=clock)
    for _ in range(60):
        clock.now += 0.1
        states[0].answered(states[0].latest, {}, None, {})
    operation.stopping(states)
    clock.now += 4.0  # sinks take their time to close
    operation.end("stop", states)
    last = [line for line in lines(log) if line["event"] == "summary"][-1]
    assert last["rate"] == pytest.approx(10, rel=0.05)


def test_the_status_line_says_what_is_not_up():
    said = state_with({"rgb": source("up"), "thermal": source("down")}).snapshot()
    assert summary(said, with_name=True) == (
        "gate: 1 answers, 5.0/s, latency 20 ms (99 %: 20): 0 pairs, 1 RGB alone, 0 thermal alone, 4 frames dropped, "
        "thermal down"
    )


@pytest.fixture
def systemd(tmp_path, monkeypatch):
    """A socket such as systemd listens at; its name must be short."""
    monkeypatch.chdir(tmp_path)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        name = f"@rgbt-test-{id(tmp_path)}"
        listener.bind("\0" + name[1:])
        listener.setblocking(False)
        yield name, listener


def test_systemd_hears_that_the_service_is_ready_alive_and_stopping(systemd):
    name, listener = systemd
    clock = Clock()
    notifier = Notifier({"NOTIFY_SOCKET": name, "WATCHDOG_USEC": "2000000"}, clock)
    notifier.ready("running")
    for tenth in range(25):
        clock.now = 100 + tenth / 10
        notifier.alive(lambda: "30/s")
    notifier.stopping()
    heard = [listener.recv(1000).decode() for _ in range(5)]
    assert heard == ["READY=1\nSTATUS=running", *["STATUS=30/s\nWATCHDOG=1"] * 3, "STOPPING=1"]
    listener.close()
    notifier.stopping()  # nobody hears it, and nothing happens
    notifier.close()


def test_without_systemd_nothing_is_sent():
    notifier = Notifier({})
    notifier.ready("x")
    notifier.alive(lambda: pytest.fail("nobody asks"))
    notifier.close()


def test_a_watchdog_that_is_meant_for_another_process_is_left_alone(systemd):
    name, listener = systemd
    notifier = Notifier({"NOTIFY_SOCKET": name, "WATCHDOG_USEC": "2000000", "WATCHDOG_PID": "1"})
    notifier.alive(lambda: "x")
    assert listener.recv(100) == b"STATUS=x"
    notifier.close()


def test_a_site_names_its_rigs_and_its_paths_start_beside_it(tmp_path):
    path = tmp_path / "site.yaml"
    path.write_text(
        "bundle: edge\nserve: 0.0.0.0:8080\nrigs:\n  gate: {rgb: 'rtsp://a/1', thermal: 'rtsp://a/2', rig: gate.yaml}\n"
        "  yard: {thermal: 'usb:0?format=Y16', jsonl: yard.jsonl, max_wait: 200, score: 0.5}\n"
    )
    site = Site.load(path)
    assert (site.bundle, site.serve, list(site.rigs)) == (tmp_path / "edge", "0.0.0.0:8080", ["gate", "yard"])
    assert (site.rigs["gate"].rig, site.rigs["yard"].jsonl) == (tmp_path / "gate.yaml", tmp_path / "yard.jsonl")
    assert (site.rigs["yard"].max_wait, site.rigs["gate"].score) == (200, 0.3)


@pytest.mark.parametrize(
    ("field", "given", "kept"),
    [
        ("rgb", "day.mp4", "{}/day.mp4"),
        ("thermal", "night/thermal.mkv", "{}/night/thermal.mkv"),
        ("rgb", "/elsewhere/day.mp4", "/elsewhere/day.mp4"),
        ("mqtt", "mqtts://me:p=w@b/a?qos=1&ca=own%20ca.pem", "mqtts://me:p=w@b/a?qos=1&ca={}/own%20ca.pem"),
        ("mqtt", "mqtts://b/a?ca=/etc/ca.pem&qos=1", "mqtts://b/a?ca=/etc/ca.pem&qos=1"),
        ("mqtt", "mqtts://me:${PW}@b/a?ca=${CA}", "mqtts://me:${PW}@b/a?ca=${CA}"),
        *(("rgb", text, text) for text in ("usb:0", "/dev/video1", "synthetic:", "gst:a ! b", "rtsp://h/1")),
    ],
)
def test_recordings_and_certificates_of_a_site_lie_beside_it_too(tmp_path, field, given, kept):
    path = tmp_path / "site.yaml"
    path.write_text(
        f"rigs: {{gate: {{rgb: 'synthetic:', {field}: '{given}'}}}}\n".replace("rgb: 'synthetic:', rgb:", "rgb:")
    )
    assert getattr(Site.load(path).rigs["gate"], field) == kept.replace("{}", str(tmp_path))


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("rigs: {}", "rigs"),
        ("rigs: {gate: {}}", "give rgb, thermal or both"),
        ("rigs: {gate: {rgb: x, nope: 1}}", "nope"),
        ("rigs: {gate: {rgb: x, score: 2}}", "score"),
        ("rigs: {gate: {rgb: x, max_wait: .inf}}", "max_wait"),
    ],
)
def test_a_mistake_in_a_site_is_one_line(tmp_path, text, says):
    path = tmp_path / "site.yaml"
    path.write_text(text)
    with pytest.raises(DataError, match=says) as caught:
        Site.load(path)
    assert "\n" not in str(caught.value) and "site.yaml" in str(caught.value)


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("127.0.0.1:8080", ("127.0.0.1", 8080)), ("0.0.0.0:80", ("0.0.0.0", 80)), ("8081", ("127.0.0.1", 8081)),
        (":9000", ("127.0.0.1", 9000)), ("rig.local", ("rig.local", 8080)), ("[::1]:80", ("::1", 80)),
        ("::1", ("::1", 8080)), ("[::]", ("::", 8080)), ("host:0", ("host", 0)),
    ],
)  # fmt: skip
def test_addresses_of_the_page(text, address):
    assert read_address(text) == address


@pytest.mark.parametrize("text", ["host:x", "host:99999", ":-1"])
def test_an_address_that_is_none_is_one_line(text):
    with pytest.raises(DataError, match="give HOST:PORT"):
        read_address(text)
