"""The annotated picture as a stream: HLS that a player can read, RTSP servers that take it, hang, die or are absent."""

import os
import signal
import socket
import subprocess
import threading
import time
from contextlib import closing
from pathlib import Path

import av
import numpy as np
import pytest

from data.errors import DataError
from data.frame import Frame, Pair
from data.prepare import Prepared
from pipelines.live import stream_out
from pipelines.live.answer import BoxAnswer
from pipelines.live.outbox import Outbox, RetryError
from pipelines.live.stream_out import StreamSink

MS = 1_000_000
S = 60.0


def item(index):
    rgb = Frame(np.zeros((4, 4, 3), np.uint8), 10**15 + index * 40 * MS, index, "r")
    prepared = Prepared(rgb.image, rgb.image[..., 0], np.array([1, 0], np.float32), 1.0, (4, 4))
    return Pair(rgb, None), prepared, BoxAnswer(index, np.zeros((0, 6), np.float32), (4, 4))


def picture(pair, prepared, answer):
    return np.full((64, 128, 3), answer.index % 250, np.uint8)


def until(what):
    end, tick = time.monotonic() + S, threading.Event()
    while not what():
        assert time.monotonic() < end, "not within the time"
        tick.wait(0.02)


def children():
    """Processes that this one has started and that still run."""
    found = subprocess.run(["ps", "--ppid", str(os.getpid()), "-o", "args="], capture_output=True, text=True).stdout
    return [line for line in found.splitlines() if "stream_child" in line]


def pictures(path):
    """Pictures that a server has taken so far."""
    with av.open(str(path), format="h264") as container:
        return [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]


def test_hls_is_readable_and_old_segments_go(tmp_path):
    playlist = tmp_path / "page" / "live.m3u8"
    sink = StreamSink(str(playlist), picture, 40 * MS)
    for index in range(400):  # sixteen seconds
        sink.write(*item(index))
    assert "#EXTM3U" in playlist.read_text()  # while it runs
    sink.close()
    assert 2 <= len(list(playlist.parent.glob("*.ts"))) <= 10
    with av.open(str(playlist)) as container:
        frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    assert len(frames) >= 100 and frames[0].shape == (64, 128, 3)
    assert children() == []


def test_a_server_takes_the_pictures_is_killed_and_takes_them_again(rtsp_server, tmp_path):
    taken = tmp_path / "taken.h264"
    server = rtsp_server(out=taken)
    sink = StreamSink(server.url("out"), picture, 40 * MS)
    with closing(sink):
        for index in range(40):
            sink.write(*item(6 * index))
        until(lambda: taken.exists() and len(pictures(taken)) >= 38)
        first = pictures(taken)
        assert first[0].shape == (64, 128, 3)
        assert [round(float(image.mean()) / 6) for image in first[:38]] == list(range(38))  # all, and in order

        server.kill()
        with pytest.raises(RetryError, match="cannot be sent"):
            for index in range(40, 90):  # the system's buffers take some
                sink.write(*item(index))
        assert children() == []
        with pytest.raises(RetryError, match="refused"):
            sink.write(*item(90))

        taken.unlink()
        server.start()
        for index in range(100, 130):
            sink.write(*item(index))
        until(lambda: taken.exists() and len(pictures(taken)) >= 28)
        assert abs(pictures(taken)[0].mean() - 100) < 3
    assert children() == []


def test_a_server_that_is_not_there_is_to_be_tried_again_and_keeps_its_secret():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    sink = StreamSink(f"rtsp://me:s3cret@127.0.0.1:{port}/out", picture, 40 * MS)
    started = time.monotonic()
    for index in range(2):
        with pytest.raises(RetryError, match="cannot be sent") as caught:
            sink.write(*item(index))
        assert "s3cret" not in str(caught.value)
    assert time.monotonic() - started < 10
    sink.close()


class Hanging:
    """A server that takes connections, answers the first ``answers`` questions as RTSP does, and then says nothing."""

    def __init__(self, answers):
        self.asked = []
        self._answers = answers
        self._socket = socket.create_server(("127.0.0.1", 0))
        self._connections = []
        self._thread = threading.Thread(target=self._accept, daemon=True)
        self._thread.start()
        self.url = f"rtsp://me:s3cret@127.0.0.1:{self._socket.getsockname()[1]}/out"

    def _accept(self):
        while True:
            try:
                connection, _ = self._socket.accept()
            except OSError:
                return
            self._connections.append(connection)
            threading.Thread(target=self._answer, args=(connection,), daemon=True).start()

    def _answer(self, connection):
        with connection.makefile("rb") as lines:
            number = 0
            while word := lines.readline():
                heads = dict(line.decode().strip().split(": ", 1) for line in iter(lines.readline, b"\r\n") if line)
                lines.read(int(heads.get("Content-Length", 0)))
                self.asked.append(word.split()[0].decode())
                number += 1
                if number <= self._answers:
                    connection.sendall(f"RTSP/1.0 200 OK\r\nCSeq: {heads['CSeq']}\r\nPublic: RECORD\r\n\r\n".encode())

    def close(self):
        self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()
        self._thread.join()
        for connection in self._connections:
            connection.shutdown(socket.SHUT_RDWR)
            connection.close()


@pytest.fixture
def gaps():
    """Seconds between the turns of a thread that only turns: how long something held the whole process up."""
    seen, ending = [], threading.Event()

    def tick():
        last = time.monotonic()
        while not ending.wait(0.01):
            last, before = time.monotonic(), last
            seen.append(last - before)

    thread = threading.Thread(target=tick)
    thread.start()
    yield seen
    ending.set()
    thread.join()


@pytest.mark.parametrize(("answers", "hangs_at"), [(0, "OPTIONS"), (1, "ANNOUNCE"), (2, "SETUP")])
def test_a_server_that_hangs_stalls_nothing_and_is_counted_and_told(gaps, answers, hangs_at, monkeypatch):
    monkeypatch.setattr(stream_out, "_PATIENCE_S", 1.5)
    with closing(Hanging(answers)) as server:
        outbox = Outbox("stream", StreamSink(server.url, picture, 40 * MS), 2)
        began = len(gaps)
        until(lambda: outbox.write(*item(len(gaps))) or outbox.status.errors >= 1)
        status = outbox.status
        assert server.asked[-1] == hangs_at
        outbox.close(deadline_s=5)
    assert status.failing and status.delivered == 0 and status.dropped > 0
    assert "timed out" in status.last_error and "s3cret" not in status.last_error
    assert len(gaps) - began > 50 and max(gaps[began:]) < 0.8  # it hung for seconds; the rest took its turns
    until(lambda: children() == [])  # the last one ends itself, though nobody waits for it


def test_a_child_that_is_stopped_is_left_in_time(tmp_path, monkeypatch):
    monkeypatch.setattr(stream_out, "_PATIENCE_S", 0.5)
    sink = StreamSink(str(tmp_path / "live.m3u8"), picture, 40 * MS)
    sink.write(*item(0))
    os.kill(sink._child._process.pid, signal.SIGSTOP)
    with pytest.raises(RetryError, match="timed out"):
        for index in range(1, 4):
            sink.write(*item(index))
    assert children() == []
    sink.write(*item(9))  # by a new one
    child = sink._child._process
    child.kill()
    with pytest.raises(RetryError, match=r"ended with code -9|broken pipe"):
        for index in range(10, 14):
            sink.write(*item(index))
    sink.close()


def test_the_child_s_command_line_tells_no_secret(rtsp_server, tmp_path):
    server = rtsp_server(out=tmp_path / "taken.h264")
    sink = StreamSink(server.url("out").replace("://", "://me:s3cret@"), picture, 40 * MS)
    sink.write(*item(0))
    pid = sink._child._process.pid
    told = Path(f"/proc/{pid}/cmdline").read_bytes() + Path(f"/proc/{pid}/environ").read_bytes()
    sink.close()
    assert b"stream_child" in told and b"s3cret" not in told


@pytest.mark.parametrize("address", ["http://x/y", "out.mp4", "rtmp://x/y"])
def test_an_address_that_is_none_is_one_line(address):
    with pytest.raises(DataError, match="give rtsp://SERVER/PATH"):
        StreamSink(address, picture)
