"""Streams over a real RTSP server: kept open through whatever it does."""

import threading
from itertools import pairwise
from time import monotonic, monotonic_ns

import numpy as np
import pytest

from data.errors import DataError
from data.thermal import ThermalSpec
from pipelines.live.capture import Capture, NoFrameYetError, stop_all
from pipelines.live.pixels import jpeg_size
from pipelines.live.reconnect import LiveRules
from pipelines.live.sources import open_sources

GREY = ThermalSpec(unit="intensity8")
QUICK = LiveRules(bridge_s=0.6, reopen_after_s=2.0, open_within_s=4.0)
PATIENCE_S = 30.0


@pytest.fixture
def capture():
    """Opens a capture of one source; stopped at the end."""
    captures = []

    def open_one(url, sensor="rgb", rules=QUICK, **options):
        sources = open_sources({sensor: url}, GREY, None, rules, options.pop("sizes", None))
        captures.append(Capture(sources[sensor], **options))
        return captures[-1]

    yield open_one
    assert stop_all(captures, 5) == []


def take(capture, count):
    return [capture.get(PATIENCE_S) for _ in range(count)]


def until(what):
    """Wait until something is so; the time it took."""
    start, tick = monotonic(), threading.Event()
    while not what():
        assert monotonic() - start < PATIENCE_S, "not within the time"
        tick.wait(0.02)
    return monotonic() - start


def states(capture):
    """Drain a capture, and tell its state."""
    while capture.poll() is not None:
        pass
    return capture.status().state


def test_frames_come_as_they_were_sent(rtsp_server, rtsp_units, capture):
    server = rtsp_server(rgb=(rtsp_units(), 30))
    wake = threading.Event()
    live = capture(server.url("rgb").replace("://", "://me:hunter2@"), wake=wake)
    assert live.status().state == "connecting"
    frames = take(live, 40)
    assert wake.is_set()
    assert frames[0].image.shape == (96, 128, 3) and frames[0].image.dtype == np.uint8
    bar = frames[-1].image.reshape(-1, 3).astype(int)
    assert np.abs(bar[bar[:, 0] > 150].mean(axis=0) - (200, 60, 40)).max() < 12  # RGB, not BGR
    assert all(a.sequence < b.sequence and a.time_ns < b.time_ns for a, b in pairwise(frames))
    assert abs(monotonic_ns() - frames[-1].time_ns) < 5e9
    status = live.status()
    assert (status.state, status.reconnects, status.stalls, status.last_error) == ("up", 0, 0, None)
    assert 10 < status.fps < 90  # of a second or two, on a machine that may do other work
    assert status.frames >= 40 and status.age_s < 1
    assert status.name == f"rtsp://***@127.0.0.1:{server.port}/rgb"


def test_thermal_is_one_channel_of_eight_bits(rtsp_server, rtsp_units, capture):
    server = rtsp_server(thermal=(rtsp_units(colour=(220, 220, 220)), 25))
    frame = capture(server.url("thermal"), "thermal").get(PATIENCE_S)
    assert frame.image.shape == (96, 128) and frame.image.dtype == np.uint8
    assert abs(int(frame.image.max()) - (16 + 220 * 219 / 255)) < 12


def test_a_killed_server_is_seen_at_once_and_comes_back(rtsp_server, rtsp_units, capture):
    server = rtsp_server(rgb=(rtsp_units(), 30))
    live = capture(server.url("rgb"))
    take(live, 5)
    for times in range(1, 4):
        server.kill()
        assert until(lambda: states(live) == "down") < 2
        assert live.status().last_error
        server.start()
        assert until(lambda: states(live) == "up") < 3
        assert live.status().reconnects == times
    assert threading.active_count() < 10


def test_a_camera_may_be_absent_at_start(rtsp_server, rtsp_units, capture):
    server = rtsp_server(start=False, rgb=(rtsp_units(), 30))
    live = capture(server.url("rgb"))
    until(lambda: live.status().state == "down")
    assert "connection refused" in live.status().last_error
    assert not live.ended and live.poll() is None
    server.start()
    assert live.get(PATIENCE_S).sequence == 0
    assert live.status().reconnects == 0


def test_a_server_that_hangs_is_a_stall_and_then_opened_anew(rtsp_server, rtsp_units, capture):
    server = rtsp_server(rgb=(rtsp_units(), 30))
    live = capture(server.url("rgb"))
    take(live, 5)
    server.suspend()
    try:
        assert until(lambda: states(live) == "stalled") < 2
        assert live.status().stalls == 1
        until(lambda: states(live) == "down")
    finally:
        server.resume()
    until(lambda: states(live) == "up")
    assert live.status().reconnects == 1


def test_a_pause_as_of_a_shutter_is_bridged(rtsp_server, rtsp_units, capture):
    server = rtsp_server(thermal=(rtsp_units(), 30))
    live = capture(server.url("thermal"), rules=LiveRules(bridge_s=4))
    take(live, 5)
    server.tell("pause thermal")
    states(live)
    with pytest.raises(NoFrameYetError):
        live.get(0.5)
    assert live.status().state == "up"
    server.tell("resume thermal")
    take(live, 5)
    assert (live.status().stalls, live.status().reconnects) == (0, 0)


def test_a_frozen_picture_is_a_stall_though_frames_come(rtsp_server, rtsp_units, capture):
    server = rtsp_server(thermal=(rtsp_units(colour=(220, 220, 220)), 30))
    live = capture(server.url("thermal"), "thermal", LiveRules(frozen_after_s=0.5))
    take(live, 5)
    server.tell("freeze thermal")
    until(lambda: "the very same picture" in (live.status().last_error or ""))  # a busy machine may fall silent before
    assert live.status().stalls >= 1
    server.tell("thaw thermal")
    until(lambda: states(live) == "up")


def test_garbage_for_pictures_does_no_harm(rtsp_server, rtsp_units, capture):
    server = rtsp_server(rgb=(rtsp_units(), 30))
    live = capture(server.url("rgb"))
    take(live, 5)
    server.tell("garbage rgb")
    until(lambda: states(live) != "up" or live.status().frames > 60)
    server.tell("clean rgb")
    until(lambda: states(live) == "up")
    assert {frame.image.shape for frame in take(live, 20)} == {(96, 128, 3)}


def test_another_size_after_a_reconnect_is_refused_until_it_is_right_again(rtsp_server, rtsp_units, capture):
    right, wrong = rtsp_units(), rtsp_units((64, 160))
    server = rtsp_server(rgb=(right, 30))
    live = capture(server.url("rgb"), sizes={"rgb": (96, 128)})
    take(live, 3)
    server.tell(f"play rgb {wrong}")
    until(lambda: states(live) == "down" and "160×64" in live.status().last_error)
    assert "expected 128×96" in live.status().last_error
    assert not live.ended
    server.tell(f"play rgb {right}")
    until(lambda: states(live) == "up")
    assert live.get(PATIENCE_S).size == (96, 128)


def test_another_size_at_the_start_is_an_error(rtsp_server, rtsp_units, capture):
    server = rtsp_server(rgb=(rtsp_units(), 30))
    with pytest.raises(DataError, match="frames are 128×96"):
        capture(server.url("rgb"), sizes={"rgb": (480, 640)}).get(PATIENCE_S)


def test_where_any_size_will_do_a_new_one_is_taken(rtsp_server, rtsp_units, capture):
    server = rtsp_server(rgb=(rtsp_units(), 30))
    live = capture(server.url("rgb"))
    take(live, 3)
    server.tell(f"play rgb {rtsp_units((64, 160))}")
    until(lambda: any(frame.size == (64, 160) for frame in take(live, 1)))


def test_a_path_that_is_not_there_is_told_without_the_password(rtsp_server, rtsp_units, capture):
    server = rtsp_server(rgb=(rtsp_units(), 30))
    live = capture(
        server.url("nothing").replace("://", "://me:hunter2@"), rules=LiveRules(give_up_after_s=0.5)
    )  # fmt: skip
    assert live.get(PATIENCE_S) is None
    status = live.status()
    assert live.ended and live.gave_up and status.state == "ended"
    assert "404" in status.last_error and "given up after 0.5 s" in status.last_error
    assert "hunter2" not in repr(status)


@pytest.mark.parametrize("unit", ["counts16", "celsius"])
def test_sixteen_bits_over_rtsp_are_refused_in_one_line(unit):
    with pytest.raises(DataError, match="RTSP carries 8 bits") as caught:
        open_sources({"thermal": "rtsp://me:hunter2@cam/1"}, ThermalSpec(unit=unit), None)
    assert "hunter2" not in str(caught.value) and "\n" not in str(caught.value)


def test_a_reconnect_leaves_nothing_behind(rtsp_server, rtsp_units, capture):
    from pathlib import Path

    server = rtsp_server(rgb=(rtsp_units(), 30))
    live = capture(server.url("rgb"))

    def held():
        return threading.active_count(), len(list(Path("/proc/self/fd").iterdir()))

    take(live, 3)
    before = held()
    for times in range(1, 6):
        server.tell("drop rgb")
        until(lambda times=times: states(live) == "up" and live.status().reconnects == times)
    until(lambda: held() == before)


def test_hardware_that_is_not_here_is_refused_at_once_and_never_replaced():
    from av.codec.hwaccel import hwdevices_available

    absent = [name for name in hwdevices_available() if name in ("drm", "qsv", "amf")] or ["none"]
    for name in absent:
        with pytest.raises(DataError, match=f"{name}"):
            open_sources({"rgb": f"rtsp://127.0.0.1:1/x#hwaccel={name}"}, GREY, None)


def test_pixels_tell_whether_hardware_decoded(rtsp_server, rtsp_units):
    """What FFmpeg decodes on the CPU after all is refused, whatever PyAV says of itself."""
    from pipelines.live.stream import Stream, StreamAddress

    server = rtsp_server(rgb=(rtsp_units(), 30))
    stream = Stream(StreamAddress.parse(server.url("rgb")), "rgb", GREY, QUICK)
    stream._hwaccel = "cuda"  # as if it had been asked for, and replaced silently
    with pytest.raises(DataError, match="cuda does not decode this stream"):
        stream.read()
    stream.close()


@pytest.fixture
def mjpeg():
    """Address of a camera that sends JPEG pictures over HTTP, 25 a second, and the pictures' number so far."""
    import http.server
    import itertools

    import cv2

    sent, ending = itertools.count(), threading.Event()

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200)
            self.send_header("Content-Type", "multipart/x-mixed-replace; boundary=frame")
            self.end_headers()
            try:
                while not ending.wait(0.04):
                    image = np.full((64, 96, 3), (0, 0, next(sent) % 200 + 50), np.uint8)
                    jpeg = cv2.imencode(".jpg", image)[1].tobytes()
                    head = f"--frame\r\nContent-Type: image/jpeg\r\nContent-Length: {len(jpeg)}\r\n\r\n"
                    self.wfile.write(head.encode() + jpeg + b"\r\n")
            except OSError:
                return

        def log_message(self, *_):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    yield f"http://me:hunter2@127.0.0.1:{server.server_port}/video.mjpg?pwd=hunter2"
    ending.set()
    server.shutdown()
    server.server_close()
    thread.join()


def test_pictures_over_http(mjpeg, capture):
    live = capture(mjpeg)
    frames = take(live, 10)
    assert frames[0].image.shape == (64, 96, 3)
    assert frames[0].image[0, 0, 0] > 40 > frames[0].image[0, 0, 2]
    assert frames[-1].time_ns - frames[0].time_ns > 0.2e9  # as they come, not as FFmpeg numbers them
    assert "hunter2" not in repr(live.status()) + frames[0].source


def test_eight_bits_over_http_are_refused_for_a_bundle_of_counts(mjpeg):
    source = open_sources({"thermal": mjpeg}, ThermalSpec(unit="counts16"), None)["thermal"]
    with pytest.raises(DataError, match="the bundle takes unit 'counts16'") as caught:
        source.read()
    source.close()
    assert "hunter2" not in str(caught.value) and "\n" not in str(caught.value)


def test_pictures_without_measure_are_refused_in_one_line(mjpeg, capture, monkeypatch):
    for module in ("pixels", "stream"):
        monkeypatch.setattr(f"pipelines.live.{module}.MAX_PIXELS", 64 * 96 - 1)
    live = capture(mjpeg)
    with pytest.raises(DataError, match="96×64 is more than 0 megapixels") as caught:
        live.get(PATIENCE_S)
    assert "hunter2" not in str(caught.value) and "\n" not in str(caught.value)


def test_pictures_that_grow_without_measure_are_refused_too(rtsp_server, rtsp_units, capture, monkeypatch):
    for module in ("pixels", "stream"):
        monkeypatch.setattr(f"pipelines.live.{module}.MAX_PIXELS", 96 * 128)
    right = rtsp_units()
    server = rtsp_server(rgb=(right, 30))
    live = capture(server.url("rgb"))
    take(live, 3)
    server.tell(f"play rgb {rtsp_units((128, 160))}")
    until(lambda: states(live) == "down" and "160×128 is more than" in live.status().last_error)
    server.tell(f"play rgb {right}")
    until(lambda: states(live) == "up")


@pytest.mark.parametrize("size", [(64, 96), (1, 1), (40, 5000)])
def test_the_size_of_a_jpeg_is_read_without_decoding(size):
    import cv2

    coded = cv2.imencode(".jpg", np.zeros((*size, 3), np.uint8))[1].tobytes()
    assert jpeg_size(coded) == size[::-1]
    assert jpeg_size(coded[:20]) == jpeg_size(b"") == jpeg_size(b"\xff\xd8\x00" * 9) == (0, 0)


def test_a_password_of_any_characters_opens_and_is_shown_nowhere(
    rtsp_server, rtsp_units, capture, monkeypatch, tmp_path
):
    password = "hunter2@/#?:%41&!"
    server = rtsp_server(rgb=(rtsp_units(), 30))
    server.tell(f"lock rgb admin {password}")
    monkeypatch.setenv("CAMERA_PASSWORD", password)
    (tmp_path / "secret").write_text(password + "\n")
    place = server.url("rgb").removeprefix("rtsp://")
    for secret in ("${CAMERA_PASSWORD}", f"${{file:{tmp_path}/secret}}"):
        live = capture(f"rtsp://admin:{secret}@{place}")
        live.get(PATIENCE_S)
        assert "hunter2" not in repr(live.status())
    wrong = capture(f"rtsp://admin:hunter3@{place}")
    until(lambda: wrong.status().state == "down")
    assert "401" in wrong.status().last_error or "unauthorized" in wrong.status().last_error
    assert "hunter" not in repr(wrong.status())
