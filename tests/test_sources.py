import threading
from fractions import Fraction

import av
import cv2
import numpy as np
import pytest

from data.errors import DataError
from data.frame import Frame
from data.images import read_thermal, write_image
from data.thermal import Planck, ThermalSpec
from pipelines.live.capture import Capture, NoFrameYetError, stop_all
from pipelines.live.sources import ScriptedSource, kind_of, open_sources

COUNTS = ThermalSpec(unit="counts16")
GREY = ThermalSpec(unit="intensity8")


def write_video(path, images, given, codec="ffv1", stored=None, rate=30, pts=None, tag=0):
    """Encode images of PyAV format ``given``; ``pts`` are times in ms."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=rate, options={"qp": "0"} if codec == "libx264" else {"level": "3"})
        stream.height, stream.width = images[0].shape[:2]
        stream.pix_fmt = stored or given
        stream.codec_context.color_range = tag
        if pts is not None:
            stream.codec_context.time_base = Fraction(1, 1000)
        for number, image in enumerate(images):
            frame = av.VideoFrame.from_ndarray(image, format=given)
            frame.pts = number if pts is None else pts[number]
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def counts(n=4, dtype=np.uint16, top=40000):
    rng = np.random.default_rng(n)
    return [rng.integers(0, top, (48, 64), dtype=dtype) for _ in range(n)]


def colours(n=4):
    rng = np.random.default_rng(n)
    return [cv2.GaussianBlur(rng.integers(0, 255, (48, 64, 3), dtype=np.uint8), (9, 9), 3) for _ in range(n)]


def read_all(source):
    frames = []
    while (frame := source.read()) is not None:
        frames.append(frame)
    source.close()
    return frames


def open_one(path, sensor="thermal", spec=COUNTS, fps=None):
    return open_sources({sensor: str(path)}, spec, fps)[sensor]


@pytest.mark.parametrize(("fmt", "top"), [("gray16le", 65535), ("gray10le", 1023), ("gray12le", 4095)])
def test_thermal_video_keeps_raw_counts(tmp_path, fmt, top):
    images = counts(top=top)
    frames = read_all(open_one(write_video(tmp_path / "t.mkv", images, fmt)))
    assert len(frames) == 4
    for frame, image in zip(frames, images, strict=True):
        assert frame.image.dtype == np.uint16
        assert np.array_equal(frame.image, image)


def test_counts_survive_though_the_decoder_has_gone_on(tmp_path):
    images = counts(30)
    source = open_one(write_video(tmp_path / "t.mkv", images, "gray16le"))
    kept = read_all(source)
    assert all(np.array_equal(f.image, i) for f, i in zip(kept, images, strict=True))


def test_rgb_video_has_every_frame_with_its_time(tmp_path):
    images = colours(12)
    path = write_video(tmp_path / "r.mp4", images, "rgb24", "libx264", "yuv444p", rate=25)
    source = open_one(path, "rgb")
    assert source.period_ns == 40_000_000
    frames = read_all(source)
    assert [f.sequence for f in frames] == list(range(12))
    assert [f.time_ns for f in frames] == [n * 40_000_000 for n in range(12)]
    assert frames[0].source == str(path)
    worst = max(np.abs(f.image.astype(int) - i).max() for f, i in zip(frames, images, strict=True))
    assert worst <= 6  # colour transform of a lossless stream


def test_uneven_presentation_times_are_kept(tmp_path):
    path = write_video(tmp_path / "t.mkv", counts(4), "gray16le", pts=[0, 40, 95, 400])
    assert [f.time_ns for f in read_all(open_one(path))] == [0, 40_000_000, 95_000_000, 400_000_000]


LIMITED = [16 + value * 219 / 255 for value in range(0, 256, 4)]
FULL = list(range(0, 256, 4))


@pytest.mark.parametrize(
    ("codec", "stored", "tag", "expected"),
    [
        ("ffv1", "gray", 0, FULL),
        ("ffv1", "bgr0", 0, FULL),
        ("libx264", "yuv420p", 0, LIMITED),  # as stored: nobody said that the range is limited
        ("libx264", "yuv420p", 1, FULL),  # somebody did
        ("libx264", "yuvj420p", 2, FULL),
    ],
)
def test_eight_bit_thermal_is_one_channel_however_it_is_stored(tmp_path, codec, stored, tag, expected):
    ramp = np.tile(np.arange(0, 256, 4, dtype=np.uint8), (48, 1))
    given = np.repeat(ramp[..., None], 3, axis=2)
    path = write_video(tmp_path / "t.mkv", [given] * 2, "rgb24", codec, stored, tag=tag)
    frame = read_all(open_one(path, spec=GREY))[0]
    assert frame.image.shape == (48, 64)
    assert frame.image.dtype == np.uint8
    assert np.abs(frame.image.astype(int) - expected).max() <= 3


@pytest.mark.parametrize(
    ("images", "given", "sensor", "spec", "says"),
    [
        (counts(2), "gray16le", "thermal", GREY, "gray16le (16 bits, 1 channels), but the bundle takes"),
        (counts(2, np.uint8, 255), "gray", "thermal", COUNTS, "the bundle takes unit 'counts16'"),
        (counts(2), "gray16le", "thermal", ThermalSpec(unit="celsius"), "unit 'celsius'"),
        (counts(2), "gray16le", "rgb", COUNTS, "are --rgb and --thermal swapped?"),
    ],
)  # fmt: skip
def test_another_depth_than_the_bundle_takes_is_refused_when_opened(tmp_path, images, given, sensor, spec, says):
    path = write_video(tmp_path / "x.mkv", images, given)
    with pytest.raises(DataError) as caught:
        open_one(path, sensor, spec)
    assert says in str(caught.value)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_false_colour_video_is_refused(tmp_path):
    images = [cv2.applyColorMap(i.astype(np.uint8), cv2.COLORMAP_JET) for i in counts(2, top=255)]
    source = open_one(write_video(tmp_path / "t.mkv", images, "rgb24", "libx264", "yuv420p"), spec=GREY)
    with pytest.raises(DataError, match="false-colour"):
        source.read()
    source.close()


def test_missing_and_unreadable_files_are_one_line(tmp_path):
    (tmp_path / "text.mkv").write_text("no video")
    (tmp_path / "empty").mkdir()
    for text, says in (
        ("nope.mkv", "no such file or folder"),
        ("text.mkv", "not a video that can be read"),
        ("empty", "holds no picture"),
    ):
        with pytest.raises(DataError, match=says) as caught:
            open_one(tmp_path / text, "rgb")
        assert "\n" not in str(caught.value)
    with pytest.raises(DataError, match="no source"):
        open_sources({}, COUNTS, None)


def test_an_address_is_refused_without_its_password():
    with pytest.raises(DataError, match="ftp://…") as caught:
        kind_of("ftp://user:secret@host/stream")
    assert "secret" not in str(caught.value)


def test_pictures_without_measure_are_refused_when_opened_and_later_on(tmp_path, monkeypatch):
    monkeypatch.setattr("pipelines.live.pixels.MAX_PIXELS", 10_000)
    large = write_video(tmp_path / "large.mkv", [np.zeros((128, 128, 3), np.uint8)] * 2, "rgb24", "libx264", "yuv420p")
    with pytest.raises(DataError, match="128×128 is more than 0 megapixels"):
        open_one(large, "rgb")
    growing = tmp_path / "growing.mjpeg"
    sizes = [(64, 64), (64, 64), (512, 512)]
    growing.write_bytes(b"".join(cv2.imencode(".jpg", np.zeros((*size, 3), np.uint8))[1].tobytes() for size in sizes))
    with pytest.raises(DataError, match=r"growing.mjpeg: frame \d cannot be decoded"):
        read_all(open_one(growing, "rgb"))


def test_damaged_video_is_one_line(tmp_path):
    path = write_video(tmp_path / "t.mkv", counts(6), "gray16le")
    raw = bytearray(path.read_bytes())
    raw[len(raw) // 2 : len(raw) // 2 + 4000] = b"\xff" * 4000
    path.write_bytes(raw)
    source = open_one(path)
    try:
        frames = read_all(source)
        assert len(frames) < 6  # the container lost the place
    except DataError as error:
        assert "cannot be decoded" in str(error) and "\n" not in str(error)


@pytest.fixture
def folders(tmp_path):
    """Two folders with pictures 8…12; RGB lacks 9, thermal lacks 11."""
    rgb, thermal = tmp_path / "visible", tmp_path / "infrared"
    rgb.mkdir()
    thermal.mkdir()
    for number in range(8, 13):
        if number != 9:
            cv2.imwrite(str(rgb / f"f{number}.png"), np.full((4, 6, 3), (0, 0, number), np.uint8))
        if number != 11:
            cv2.imwrite(str(thermal / f"f{number}.png"), np.full((4, 6), 1000 + number, np.uint16))
    return {"rgb": str(rgb), "thermal": str(thermal)}


def test_a_missing_picture_is_a_missing_frame_and_no_later_one_moves(folders):
    sources = open_sources(folders, COUNTS, 25)
    rgb, thermal = read_all(sources["rgb"]), read_all(sources["thermal"])
    assert [f.sequence for f in rgb] == [0, 2, 3, 4]  # natural order: f8 before f10
    assert [f.sequence for f in thermal] == [0, 1, 2, 4]
    assert [f.time_ns for f in rgb] == [n * 40_000_000 for n in (0, 2, 3, 4)]
    assert [int(f.image[0, 0, 0]) for f in rgb] == [8, 10, 11, 12]  # red comes first
    assert [int(f.image[0, 0]) for f in thermal] == [1008, 1009, 1010, 1012]


def test_names_may_differ_by_what_is_common_to_a_folder(tmp_path):
    for folder, name in (("a", "FLIR_{:02d}_RGB"), ("b", "FLIR_{:02d}_Preview")):
        (tmp_path / folder).mkdir()
        for number in range(4):
            if (folder, number) != ("b", 1):
                cv2.imwrite(str(tmp_path / folder / f"{name.format(number)}.png"), np.full((2, 2), number, np.uint8))
    sources = open_sources({"rgb": str(tmp_path / "a"), "thermal": str(tmp_path / "b")}, GREY, 10)
    assert [f.sequence for f in read_all(sources["thermal"])] == [0, 2, 3]


def test_folders_without_a_common_name_are_refused(tmp_path):
    for folder, names in (("a", ("day1", "night1")), ("b", ("day2", "night2"))):
        (tmp_path / folder).mkdir()
        for name in names:
            cv2.imwrite(str(tmp_path / folder / f"{name}.png"), np.zeros((2, 2), np.uint8))
    with pytest.raises(DataError, match="give partners the same name"):
        open_sources({"rgb": str(tmp_path / "a"), "thermal": str(tmp_path / "b")}, GREY, 10)


def test_a_folder_beside_a_video_needs_a_rate(folders, tmp_path):
    video = write_video(tmp_path / "t.mkv", counts(2), "gray16le")
    with pytest.raises(DataError, match="--fps"):
        open_sources({"rgb": folders["rgb"], "thermal": str(video)}, COUNTS, None)
    with pytest.raises(DataError, match="--fps -1"):
        open_one(folders["rgb"], "rgb", fps=-1)


def scripted(n, **options):
    return ScriptedSource([Frame(np.zeros((1, 1), np.uint8), k, k, "s") for k in range(n)], **options)


def drain(capture):
    numbers = []
    while (frame := capture.get(5)) is not None:
        numbers.append(frame.sequence)
    return numbers


def test_ordered_capture_loses_nothing_and_holds_little():
    source = scripted(200)
    capture = Capture(source, depth=3)
    assert drain(capture) == list(range(200))
    assert capture.dropped == 0
    assert capture.stop()
    assert source.closed


def test_ordered_capture_waits_while_its_queue_is_full():
    read = []

    class Counting(ScriptedSource):
        def read(self):
            frame = super().read()
            read.append(frame)
            return frame

    source = Counting([Frame(np.zeros((1, 1), np.uint8), k, k, "s") for k in range(50)])
    capture = Capture(source, depth=3)
    assert capture.get(5).sequence == 0
    assert len(read) <= 5  # the one taken, three in waiting, one in the reader's hand
    assert capture.stop()
    assert len(read) < 50
    assert source.closed


def test_latest_capture_keeps_the_newest_frames():
    gate = threading.Event()

    class Gated(ScriptedSource):
        def read(self):
            frame = super().read()
            if frame is None:
                gate.set()
            return frame

    frames = [Frame(np.zeros((1, 1), np.uint8), k, k, "s") for k in range(50)]
    capture = Capture(Gated(frames, policy="latest"), depth=2)
    assert gate.wait(5)
    assert drain(capture) == [48, 49]
    assert capture.dropped == 48


def test_an_error_of_the_source_reaches_the_main_thread_after_its_frames():
    capture = Capture(scripted(2, error=DataError("the cable was pulled")))
    assert [capture.get(5).sequence, capture.get(5).sequence] == [0, 1]
    with pytest.raises(DataError, match="the cable was pulled"):
        capture.get(5)
    assert capture.stop()


def test_a_hanging_read_does_not_hold_up_the_end():
    release = threading.Event()

    class Hanging(ScriptedSource):
        def read(self):
            release.wait(30)
            return None

    capture = Capture(Hanging([], name="dead camera"))
    with pytest.raises(NoFrameYetError):
        capture.get(0.01)
    assert stop_all([capture], deadline_s=0.05) == ["dead camera"]
    release.set()
    assert capture.stop()


def test_no_thread_stays_behind():
    before = threading.active_count()
    captures = [Capture(scripted(100), depth=2) for _ in range(20)]
    assert threading.active_count() > before
    assert stop_all(captures) == []
    assert threading.active_count() == before


def test_video_of_counts_becomes_celsius_as_files_do(tmp_path):
    planck = Planck(r1=17368.8, r2=0.0188158, b=1442.4, f=1, o=-1550)
    frames = [(4000 + image // 8).astype(np.uint16) for image in counts(2)]
    path = write_video(tmp_path / "t.mkv", frames, "gray16le")
    for given in ({"planck": planck}, {"stored": "decikelvin"}):
        spec = ThermalSpec(unit="celsius", **given)
        read = read_all(open_one(path, spec=spec))
        for frame, stored in zip(read, frames, strict=True):
            assert frame.image.dtype == np.float32
            assert np.array_equal(frame.image, spec.convert(stored, "frame"))
    write_image(tmp_path / "1.png", frames[0])
    assert np.array_equal(read_thermal(tmp_path / "1.png", spec), read[0].image)
