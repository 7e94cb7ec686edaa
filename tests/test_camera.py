"""USB cameras and GStreamer pipelines, on a double of OpenCV's capture; synthetic cameras."""

import cv2
import numpy as np
import pytest

from data.errors import DataError
from data.prepare import InputSpec
from data.rig import Rig
from data.thermal import ThermalSpec
from pipelines.live import camera as cameras
from pipelines.live.camera import Camera, CameraAddress, ask_for
from pipelines.live.capture import Capture
from pipelines.live.reconnect import LiveRules, LostError
from pipelines.live.sources import SOURCES, kind_of, open_sources, wanted_sizes
from pipelines.live.synthetic import Pictures, Scene

GREY, COUNTS = ThermalSpec(unit="intensity8"), ThermalSpec(unit="counts16")


class Device:
    """As a UVC camera: gives 8-bit BGR, unless it was asked for Y16 unconverted."""

    def __init__(self, image, formats=("YUYV", "Y16 "), frames=3):
        self.image, self.formats, self.left = image, formats, frames
        self.settings = {cv2.CAP_PROP_FOURCC: cv2.VideoWriter.fourcc(*formats[0]), cv2.CAP_PROP_FPS: 25.0}
        self.released = False

    def isOpened(self):
        return not self.released

    def set(self, name, value):
        if name == cv2.CAP_PROP_FOURCC and int(value).to_bytes(4, "little").decode() not in self.formats:
            return False
        self.settings[name] = value
        return True

    def get(self, name):
        return self.settings.get(name, 0.0)

    def grab(self):
        self.left -= 1
        return self.left >= 0

    def retrieve(self):
        if self.image.dtype == np.uint16 and self.settings.get(cv2.CAP_PROP_CONVERT_RGB) != 0:
            grey = (self.image >> 8).astype(np.uint8)
            return True, np.repeat(grey[..., None], 3, axis=2)
        return True, self.image.copy()

    def release(self):
        self.released = True


RAW = np.arange(20000, 20000 + 48 * 64, dtype=np.uint16).reshape(48, 64)
BGR = np.full((48, 64, 3), (10, 20, 200), np.uint8)


def opened(image, text="usb:0", sensor="thermal", spec=COUNTS, **options):
    device, address = Device(image, **options), CameraAddress.parse(text)
    ask_for(device, address, is_raw=address.format == "Y16")
    return Camera(text, sensor, spec, lambda: device), device


def test_sixteen_bits_stay_sixteen_bits():
    camera, device = opened(RAW, "usb:0?format=Y16&size=64x48&fps=25")
    frame = camera.read()
    assert frame.image.dtype == np.uint16
    assert np.array_equal(frame.image, RAW)
    assert camera.period_ns == 40_000_000
    assert device.settings[cv2.CAP_PROP_FRAME_WIDTH] == 64 and device.settings[cv2.CAP_PROP_FRAME_HEIGHT] == 48
    camera.close()
    assert device.released


def test_sixteen_bits_become_degrees_where_the_bundle_says_how():
    spec = ThermalSpec(unit="celsius", stored="centikelvin")
    camera, _ = opened(RAW + 9000, "usb:0?format=Y16", spec=spec)
    assert camera.read().image[0, 0] == pytest.approx(290.00 - 273.15, abs=1e-3)


def test_rgb_is_rgb_and_thermal_of_eight_bits_is_grey():
    assert opened(BGR, sensor="rgb")[0].read().image[0, 0].tolist() == [200, 20, 10]
    grey = np.full((48, 64, 3), 77, np.uint8)
    image = opened(grey, spec=GREY)[0].read().image
    assert image.shape == (48, 64) and image.dtype == np.uint8 and image[0, 0] == 77


@pytest.mark.parametrize(
    ("image", "text", "sensor", "spec", "says"),
    [
        (RAW, "usb:0", "thermal", COUNTS, r"ask for it with \?format=Y16"),
        (RAW, "usb:0?format=Y16", "thermal", GREY, "uint16 of 16 bits, but the bundle takes unit 'intensity8'"),
        (RAW, "usb:0?format=Y16", "thermal", ThermalSpec(unit="celsius"), "unit 'celsius'"),
        (RAW, "usb:0?format=Y16", "rgb", COUNTS, "are --rgb and --thermal swapped"),
        (BGR, "usb:0", "thermal", GREY, "false-colour"),
    ],
)
def test_another_depth_is_refused_when_opened_and_the_camera_let_go(image, text, sensor, spec, says):
    device = Device(image)
    address = CameraAddress.parse(text)
    ask_for(device, address, is_raw=address.format == "Y16")
    with pytest.raises(DataError, match=says) as caught:
        Camera(text, sensor, spec, lambda: device)
    assert not isinstance(caught.value, LostError) and "\n" not in str(caught.value)
    assert device.released


def test_a_format_that_the_camera_has_not_is_read_back():
    with pytest.raises(DataError, match="gives YUYV frames, not Y16"):
        opened(BGR, "usb:0?format=Y16", formats=("YUYV",))


def test_frames_that_stop_are_a_loss():
    camera, _ = opened(RAW, "usb:0?format=Y16", frames=2)
    camera.read()
    camera.read()
    with pytest.raises(LostError, match="gives no frame"):
        camera.read()


def test_an_unplugged_camera_is_waited_for(monkeypatch):
    devices = iter([LostError("/dev/video7: no such camera"), Device(BGR, frames=2), Device(BGR, frames=99)])

    def open_camera(_):
        device = next(devices)
        if isinstance(device, Exception):
            raise device
        return device

    monkeypatch.setattr("pipelines.live.sources.open_camera", open_camera)
    source = open_sources({"rgb": "usb:7"}, GREY, None, LiveRules(every_frame=True, frozen_after_s=None))["rgb"]
    capture = Capture(source)
    assert [capture.get(20).sequence for _ in range(5)] == list(range(5))
    assert capture.status().reconnects == 1
    assert capture.stop(5)


@pytest.mark.parametrize(
    "text", ["usb:x", "usb:0?format=TOOLONG", "usb:0?size=640", "usb:0?fps=fast", "usb:0?brightness=9"]
)
def test_what_no_camera_is_called_is_one_line(text):
    with pytest.raises(DataError, match=r"such as usb:0\?format=Y16") as caught:
        open_sources({"rgb": text}, GREY, None)
    assert "\n" not in str(caught.value)


def test_a_camera_that_is_not_there_is_a_loss():
    with pytest.raises(LostError, match="/dev/video99: no such camera"):
        cameras.open_camera(CameraAddress.parse("usb:99"))


def test_gstreamer_is_refused_where_opencv_has_none():
    if cv2.CAP_GSTREAMER in cv2.videoio_registry.getBackends():
        assert cameras.gstreamer_pipeline("gst:videotestsrc").endswith("sync=false")
        return
    with pytest.raises(DataError, match="needs an OpenCV with GStreamer") as caught:
        open_sources({"rgb": "gst:rtspsrc location=rtsp://me:hunter2@cam/1 ! decodebin ! appsink"}, GREY, None)
    assert "hunter2" not in str(caught.value)


def test_a_pipeline_keeps_the_latest_frame(monkeypatch):
    monkeypatch.setattr(cv2.videoio_registry, "getBackends", lambda: [cv2.CAP_GSTREAMER])
    monkeypatch.setenv("PW", "a b")
    assert cameras.gstreamer_pipeline("gst: x pw=${PW}") == "x pw=a b ! appsink drop=true max-buffers=2 sync=false"
    assert cameras.gstreamer_pipeline("gst:x ! appsink") == "x ! appsink"
    with pytest.raises(DataError, match="needs a pipeline"):
        cameras.gstreamer_pipeline("gst:")


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("rtsp://cam/1", "stream"), ("RTSPS://cam/1", "stream"), ("http://cam/mjpeg", "stream"), ("usb:0", "camera"),
        ("/dev/video0?format=Y16", "camera"), ("gst:rtspsrc location=rtsp://cam ! appsink", "gstreamer"),
        ("synthetic:", "synthetic"),
    ],
)  # fmt: skip
def test_kinds_are_told_by_how_they_begin(text, kind):
    assert kind_of(text) == kind
    assert kind in SOURCES


def test_a_recording_beside_a_camera_is_refused(tmp_path):
    with pytest.raises(DataError, match="two clocks"):
        open_sources({"rgb": "synthetic:", "thermal": str(tmp_path)}, GREY, None)


@pytest.mark.parametrize(("unit", "dtype"), [("counts16", "uint16"), ("intensity8", "uint8"), ("celsius", "float32")])
def test_synthetic_cameras_show_one_moment_at_one_time(unit, dtype):
    sizes = {"rgb": (48, 64), "thermal": (32, 40)}
    text = "synthetic:?fps=60&seconds=1&seed=3"
    sources = open_sources({"rgb": text, "thermal": text}, ThermalSpec(unit=unit), None, None, sizes)
    frames = {sensor: [source.read() for _ in range(4)] for sensor, source in sources.items()}
    assert frames["rgb"][0].image.shape == (48, 64, 3)
    assert frames["thermal"][0].image.shape == (32, 40) and frames["thermal"][0].image.dtype == dtype
    step = sources["rgb"].period_ns
    assert step == 16_666_667
    apart = {(a.time_ns - b.time_ns) % step for a in frames["rgb"] for b in frames["thermal"]}
    assert apart == {0}
    for source in sources.values():
        source.close()


def test_a_synthetic_camera_has_its_scene_before_it_is_opened(monkeypatch):
    sizes = {"rgb": (48, 64), "thermal": (32, 40)}
    text = "synthetic:?fps=30&seconds=1"
    sources = open_sources({"rgb": text, "thermal": text}, ThermalSpec(unit="counts16"), None, None, sizes)

    def stage(*arguments, **options):
        raise AssertionError("made while it is opened")

    monkeypatch.setattr("data.synthetic.video.stage", stage)
    for sensor, source in sources.items():
        assert source.read().size == sizes[sensor]
        source.close()


def views(unit="counts16", sensor="thermal", count=12, **options):
    staged = Scene({"rgb": (48, 64), "thermal": (32, 40)}).stage(seconds=2, seed=5)
    return Pictures(staged, sensor, unit, 6, count, 5, **options)


@pytest.mark.parametrize(
    ("sensor", "unit"),
    [("rgb", "counts16"), ("thermal", "counts16"), ("thermal", "intensity8"), ("thermal", "celsius")],
)
def test_a_synthetic_picture_is_the_same_whenever_it_is_drawn(sensor, unit):
    kept, drawn = views(unit, sensor), views(unit, sensor, keep_bytes=0)
    first = [kept[number].copy() for number in range(12)]
    assert all(np.array_equal(drawn[number + 12 * turn], first[number]) for number in (7, 0, 11) for turn in (0, 1, 5))
    assert all(np.array_equal(kept[number], first[number]) for number in range(12))
    assert len({image.tobytes() for image in first}) == 12  # they move


def test_a_synthetic_camera_keeps_no_more_than_it_may(monkeypatch):
    one = views()[0].nbytes
    pictures = views(count=14400, keep_bytes=5 * one + 1)
    for number in range(40):
        _ = pictures[number]
        assert pictures.kept_bytes <= 5 * one
    drawn = []
    draw = Pictures._draw
    monkeypatch.setattr(Pictures, "_draw", lambda self, number: drawn.append(number) or draw(self, number))
    for number in range(14398, 14407):  # over the end: what was kept is not drawn again
        _ = pictures[number]
    assert drawn == [14398, 14399, 5, 6]


def test_a_large_scene_gives_its_first_picture_without_drawing_the_others(monkeypatch):
    drawn = []
    draw = Pictures._draw
    monkeypatch.setattr(Pictures, "_draw", lambda self, number: drawn.append(number) or draw(self, number))
    text = "synthetic:?fps=120&seconds=120"
    source = open_sources({"rgb": text}, COUNTS, None, None, {"rgb": (48, 64)})["rgb"]
    assert drawn == []
    source.read()
    assert len(drawn) == 1
    source.close()


def test_synthetic_degrees_are_those_of_the_scene():
    degrees, grey = views("celsius")[3], views("intensity8")[3]
    assert -40 < degrees.min() < degrees.max() < 120
    order = np.argsort(degrees, axis=None)
    assert (np.diff(grey.reshape(-1)[order].astype(int)) >= 0).all()
    assert np.ptp(grey) > 100


def test_a_synthetic_camera_with_a_wrong_option_is_one_line():
    with pytest.raises(DataError, match=r"synthetic:\?fps=30"):
        open_sources({"rgb": "synthetic:?fps=fast"}, GREY, None)


def test_wanted_sizes_are_those_of_the_rig_or_the_bundle():
    inputs = InputSpec(rgb_size=(48, 64), thermal_size=(30, 40), thermal=COUNTS)
    canvas = InputSpec(rgb_size=(64, 64), thermal_size=(64, 64), letterbox=True, thermal=COUNTS)
    assert wanted_sizes(inputs, Rig()) == {"rgb": (48, 64), "thermal": (30, 40)}
    assert wanted_sizes(inputs, Rig(rotate=90)) == {"rgb": (48, 64), "thermal": (40, 30)}
    assert wanted_sizes(canvas, Rig()) == {"rgb": None, "thermal": None}
    assert wanted_sizes(canvas, Rig(rgb_size=(480, 640), thermal_size=(120, 160))) == {
        "rgb": (480, 640), "thermal": (120, 160),
    }  # fmt: skip
