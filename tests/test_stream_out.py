"""The annotated picture as a stream: HLS that a player can read, and an RTSP server that is not there."""

import socket
import threading
import time

import av
import numpy as np
import pytest

from data.errors import DataError
from data.frame import Frame, Pair
from data.prepare import Prepared
from pipelines.live.answer import BoxAnswer
from pipelines.live.outbox import RetryError
from pipelines.live.stream_out import StreamSink

MS = 1_000_000


def item(index):
    rgb = Frame(np.zeros((4, 4, 3), np.uint8), 10**15 + index * 40 * MS, index, "r")
    prepared = Prepared(rgb.image, rgb.image[..., 0], np.array([1, 0], np.float32), 1.0, (4, 4))
    return Pair(rgb, None), prepared, BoxAnswer(index, np.zeros((0, 6), np.float32), (4, 4))


def picture(pair, prepared, answer):
    return np.full((64, 128, 3), answer.index % 250, np.uint8)


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


def test_a_server_that_hangs_stalls_nothing_but_the_stream():
    gaps, ending = [], threading.Event()

    def tick():
        last = time.monotonic()
        while not ending.wait(0.01):
            last, before = time.monotonic(), last
            gaps.append(last - before)

    other = threading.Thread(target=tick)
    with socket.create_server(("127.0.0.1", 0)) as silent:  # takes connections, and says nothing
        sink = StreamSink(f"rtsp://127.0.0.1:{silent.getsockname()[1]}/out", picture, 40 * MS)
        other.start()
        started = time.monotonic()
        with pytest.raises(RetryError, match="timed out"):
            sink.write(*item(0))
        assert 1 < time.monotonic() - started < 4
        ending.set()
        other.join()
        sink.close()
    assert len(gaps) > 20 and max(gaps) < 0.8


@pytest.mark.parametrize("address", ["http://x/y", "out.mp4", "rtmp://x/y"])
def test_an_address_that_is_none_is_one_line(address):
    with pytest.raises(DataError, match="give rtsp://SERVER/PATH"):
        StreamSink(address, picture)
