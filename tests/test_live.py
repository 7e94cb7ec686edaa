import json
import os
import signal
import subprocess
import sys
import threading
import time
import weakref
from pathlib import Path

import av
import cv2
import numpy as np
import pytest

from data.errors import DataError
from data.frame import Frame
from data.prepare import InputSpec
from data.rig import Rig
from data.thermal import ThermalSpec
from pipelines.cli import main
from pipelines.live.run import LiveSettings, pairing_rules, run_live
from pipelines.live.sinks import CollectingSink
from pipelines.live.sources import ScriptedSource
from pipelines.live.stats import Histogram, LiveStats
from pipelines.live.status import StatusLine, counted

MS = 1_000_000
INPUTS = InputSpec(rgb_size=(48, 64), thermal_size=(30, 40), thermal=ThermalSpec(unit="counts16"))
CANVAS = InputSpec(rgb_size=(64, 64), thermal_size=(64, 64), letterbox=True, thermal=ThermalSpec(unit="counts16"))


class EchoModel:
    """A double of a Session: one box that says what it was given."""

    def __init__(self):
        self.present = []

    def run(self, rgb, thermal, present):
        assert rgb.dtype == np.uint8 and thermal.dtype == np.uint16 and present.dtype == np.float32
        assert rgb.shape[0] == thermal.shape[0] == present.shape[0] == 1
        self.present.append(present[0].tolist())
        level = float(rgb.max()), float(thermal.max())
        return {"boxes": np.array([[[*level, 4, 5, 0.9, 0], [0, 0, 0, 0, 0, 0]]], np.float32)}


def rgb_frames(times_ms, size=(48, 64)):
    return [Frame(np.full((*size, 3), n, np.uint8), t * MS, n, "rgb") for n, t in enumerate(times_ms)]


def thermal_frames(times_ms, size=(30, 40)):
    return [Frame(np.full(size, 1000 + n, np.uint16), t * MS, n, "thermal") for n, t in enumerate(times_ms)]


def play(rgb_ms, thermal_ms, model=None, rig=None, sinks=None, inputs=INPUTS, stop=None, period=40 * MS, **settings):
    """Run live on scripted frames; return the report and what the first sink was given."""
    sources = {}
    if rgb_ms is not None:
        sources["rgb"] = ScriptedSource(rgb_frames(rgb_ms), period_ns=period)
    if thermal_ms is not None:
        sources["thermal"] = ScriptedSource(thermal_frames(thermal_ms), period_ns=period)
    sinks = sinks or [CollectingSink()]
    report = run_live(model or EchoModel(), inputs, sources, rig or Rig(), sinks, LiveSettings(**settings), stop=stop)
    assert all(source.closed for source in sources.values())
    return report, sinks[0]


def test_every_pair_is_answered_in_order_from_its_own_frames():
    report, sink = play(range(0, 400, 40), range(3, 403, 40))
    assert [a.index for a in sink.answers] == list(range(10))
    assert [a.boxes[0, :2].tolist() for a in sink.answers] == [[n, 1000 + n] for n in range(10)]
    assert sink.closed and not sink.failed
    assert (report.ended_by, report.counts["pairs"], report.stats.answers) == ("end", 10, 10)
    assert report.stats.skew_ms.percentile(50) == pytest.approx(3, rel=0.02)
    assert report.warnings() == []
    json.dumps(report.as_dict())


def test_a_lone_frame_is_answered_with_present_saying_so():
    model = EchoModel()
    report, sink = play([0, 40, 120], [0, 80, 120], model)
    assert model.present == [[1, 1], [1, 0], [0, 1], [1, 1]]
    assert [a.boxes[0, :2].tolist() for a in sink.answers] == [[0, 1000], [1, 0], [0, 1001], [2, 1002]]
    assert (report.counts["rgb_alone"], report.counts["thermal_alone"]) == (1, 1)


@pytest.mark.parametrize(("rgb", "thermal", "present"), [([0, 40], None, [1, 0]), (None, [0, 40], [0, 1])])
def test_one_source_is_enough(rgb, thermal, present):
    model = EchoModel()
    report, _ = play(rgb, thermal, model)
    assert model.present == [present] * 2
    assert report.warnings() == []


def test_the_rig_s_time_offset_is_applied():
    report, _ = play(range(0, 400, 40), range(0, 400, 40), rig=Rig(time_offset_ms=80))
    assert report.counts["pairs"] == 8
    assert report.stats.skew_ms.percentile(99) == 0


def test_recordings_that_never_meet_are_pointed_out():
    report, _ = play([0, 40], [9000, 9040])
    assert "time_offset_ms" in report.warnings()[0]


def test_boxes_of_a_lone_thermal_frame_are_in_pixels_of_the_rgb_frame_before_it():
    boxes = np.array([[[16, 16, 32, 32, 0.9, 0]]], np.float32)

    class Fixed:
        def run(self, rgb, thermal, present):
            return {"boxes": boxes}

    _, sink = play([0], [0, 40], Fixed(), inputs=CANVAS)
    assert [a.size for a in sink.answers] == [(48, 64), (48, 64)]
    np.testing.assert_allclose(sink.answers[1].boxes, sink.answers[0].boxes)
    _, sink = play(None, [0], Fixed(), inputs=CANVAS, rig=Rig(rotate=90))
    assert sink.answers[0].size == (40, 30)  # RGB was never seen: the upright thermal frame


def test_limit_and_score():
    report, sink = play(range(0, 400, 40), None, limit=3, score=0.95)
    assert (report.ended_by, len(sink.answers)) == ("limit", 3)
    assert all(len(a.boxes) == 0 for a in sink.answers)


def test_stop_ends_after_the_pair_in_hand():
    stop = threading.Event()

    class Stopping(CollectingSink):
        def write(self, pair, prepared, answer):
            super().write(pair, prepared, answer)
            if answer.index == 2:
                stop.set()

    report, sink = play(range(0, 4000, 40), range(0, 4000, 40), sinks=[Stopping()], stop=stop)
    assert (report.ended_by, len(sink.answers), sink.closed) == ("stop", 3, True)


def test_a_failing_sink_closes_everything_and_leaves_no_thread():
    before = threading.active_count()
    other = CollectingSink()
    with pytest.raises(DataError, match="answer 2 refused"):
        play(range(0, 4000, 40), range(0, 4000, 40), sinks=[CollectingSink(fail_at=2), other])
    assert other.closed and other.failed
    assert threading.active_count() == before


def test_an_error_of_a_source_ends_the_run_after_its_frames():
    source = ScriptedSource(rgb_frames([0, 40]), period_ns=40 * MS, error=DataError("the card was pulled"))
    sink = CollectingSink()
    with pytest.raises(DataError, match="the card was pulled"):
        run_live(EchoModel(), INPUTS, {"rgb": source}, Rig(), [sink])
    assert (len(sink.answers), sink.closed, source.closed) == (2, True, True)


def test_a_frame_of_another_size_is_named():
    source = ScriptedSource(rgb_frames([0], size=(10, 20)), name="cam")
    with pytest.raises(DataError, match=r"rgb frame 0: RGB frame is 20×10 \(width×height\), expected 64×48"):
        run_live(EchoModel(), INPUTS, {"rgb": source}, Rig(), [])


def test_frames_do_not_pile_up_in_memory():
    made = [[], []]

    def watched(number, shape, dtype):
        for count in range(300):
            image = np.zeros(shape, dtype)
            made[number].append(weakref.ref(image))
            yield Frame(image, count * 40 * MS, count, "camera")

    class Watching(CollectingSink):
        most = 0

        def write(self, pair, prepared, answer):
            alive = sum(reference() is not None for references in made for reference in references)
            self.most = max(self.most, alive)

    sources = {
        "rgb": ScriptedSource(watched(0, (48, 64, 3), np.uint8), period_ns=40 * MS),
        "thermal": ScriptedSource(watched(1, (30, 40), np.uint16), period_ns=40 * MS),
    }
    sink = Watching()
    report = run_live(EchoModel(), INPUTS, sources, Rig(), [sink])
    assert report.counts["pairs"] == 300
    assert sink.most <= 20  # four wait for each sensor, one is in each reader's hand, two in the pairer, one in work


def test_histogram_percentiles_are_within_one_percent_and_bounded():
    values = np.random.default_rng(0).lognormal(2, 1, 20000)
    histogram = Histogram()
    for value in values:
        histogram.add(float(value))
    for percent in (50, 95, 99):
        assert histogram.percentile(percent) == pytest.approx(np.percentile(values, percent), rel=0.011)
    assert histogram.largest == values.max()
    assert len(histogram._bins) < 1000
    zeros = Histogram()
    assert zeros.percentile(50) is None
    zeros.add(0.0)
    assert zeros.as_dict() == {"p50": 0.0, "p95": 0.0, "p99": 0.0, "max": 0.0}


def test_stats_before_the_first_answer_are_json():
    assert json.loads(json.dumps(LiveStats().as_dict()))["skew_ms"]["p50"] is None


class Terminal:
    """A text stream that keeps what it is given."""

    def __init__(self, is_terminal):
        self.text = ""
        self.is_terminal = is_terminal

    def isatty(self):
        return self.is_terminal

    def write(self, text):
        self.text += text

    def flush(self):
        pass


def test_status_line_rewrites_itself_on_a_terminal_and_is_rare_in_a_log(monkeypatch):
    now = [0.0]
    monkeypatch.setattr("pipelines.live.status.monotonic", lambda: now[0])
    for is_terminal, lines in ((True, 8), (False, 1)):
        now[0] = 0.0
        stream = Terminal(is_terminal)
        line = StatusLine(stream)
        for tick in range(160):
            now[0] = tick / 16 + 0.5
            line.show(lambda tick=tick: f"{tick} answers")
        line.close()
        assert stream.text.count("answers") >= lines
        assert ("\r" in stream.text) is is_terminal
        assert stream.text.endswith("\n")
    assert counted({"pairs": 40, "rgb_alone": 10, "thermal_dropped": 2}) == (
        "40 pairs, 10 RGB alone, 0 thermal alone, 2 frames dropped"
    )


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Five pairs of pictures of the tiny bundle's sizes."""
    root = tmp_path_factory.mktemp("pictures")
    rng = np.random.default_rng(0)
    for name in ("visible", "infrared"):
        (root / name).mkdir()
    for number in range(5):
        cv2.imwrite(str(root / "visible" / f"{number}.png"), rng.integers(0, 255, (48, 64, 3), np.uint8))
        warm = rng.integers(21000, 23000, (30, 40)).astype(np.uint16)
        cv2.imwrite(str(root / "infrared" / f"{number}.png"), warm)
    return {"rgb": str(root / "visible"), "thermal": str(root / "infrared")}


def live(bundle, folders, *more):
    return ["live", str(bundle), "--rgb", folders["rgb"], "--thermal", folders["thermal"], *map(str, more)]


def test_the_command_writes_what_it_says(tiny_bundle, folders, tmp_path, capsys):
    jsonl, video = tmp_path / "out.jsonl", tmp_path / "out.mkv"
    assert main(live(tiny_bundle, folders, "--fps", 10, "--jsonl", jsonl, "--save", video, "--json")) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["counts"] == {
        "pairs": 5, "rgb_alone": 0, "thermal_alone": 0,
        "rgb_dropped": 0, "thermal_dropped": 0, "rgb_late": 0, "thermal_late": 0,
    }  # fmt: skip
    assert (report["provider"], report["jsonl"], report["video"]) == ("cpu", str(jsonl), str(video))
    assert report["pairs_per_s"] > 0
    lines = [json.loads(line) for line in jsonl.read_text().splitlines()]
    assert [line["time_ns"] for line in lines] == [n * 100 * MS for n in range(5)]
    with av.open(str(video)) as container:
        assert sum(1 for _ in container.decode(video=0)) == 5


def test_the_command_speaks_to_people_too(tiny_bundle, folders, capsys):
    assert main(live(tiny_bundle, folders, "--limit", 2)) == 0
    said = capsys.readouterr().out
    assert said.startswith("2 answers, ")
    assert "inference" in said and "skew 0.0 ms" in said


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"--rgb": "nope.mp4"}, "nope.mp4: no such file or folder"),
        ({"--thermal": "nope"}, "nope: no such file or folder"),
        ({"--rig": "nope.yaml"}, "nope.yaml: no such file"),
        ({"--fps": "0"}, "--fps 0"),
        ({"--fps": "nan"}, "--fps nan"),
        ({"--fps": "inf"}, "--fps inf"),
        ({"--fps": "1e-300"}, "--fps 1e-300"),
        ({"--engine": "nope"}, "unknown engine 'nope'"),
    ],
)
def test_a_mistake_is_one_line_and_nothing_is_written(
    tiny_bundle, folders, tmp_path, monkeypatch, capsys, change, says
):
    monkeypatch.chdir(tmp_path)
    options = {"--rgb": folders["rgb"], "--thermal": folders["thermal"], "--jsonl": "out.jsonl", **change}
    words = [word for name, value in options.items() if value is not None for word in (name, value)]
    assert main(["live", str(tiny_bundle), *words]) == 1
    error = capsys.readouterr().err
    assert says in error
    assert error.count("\n") == 1 and error.startswith("rgbt: error: ")
    assert list(tmp_path.iterdir()) == []


def test_swapped_folders_are_one_line(tiny_bundle, folders, capsys):
    assert main(["live", str(tiny_bundle), "--rgb", folders["thermal"], "--thermal", folders["rgb"]]) == 1
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and "0.png" in error


def test_a_truncated_picture_ends_the_run_and_the_answers_before_it_stay(tiny_bundle, folders, tmp_path, capsys):
    broken = tmp_path / "visible"
    broken.mkdir()
    for path in sorted(Path(folders["rgb"]).iterdir()):
        raw = path.read_bytes()
        (broken / path.name).write_bytes(raw[: len(raw) // 2] if path.name == "3.png" else raw)
    jsonl = tmp_path / "out.jsonl"
    assert main(live(tiny_bundle, {**folders, "rgb": str(broken)}, "--jsonl", jsonl)) == 1
    error = capsys.readouterr().err
    assert "3.png" in error and "truncated" in error and error.count("\n") == 1
    assert len(jsonl.read_text().splitlines()) == 3


def test_a_run_that_fails_before_its_first_answer_leaves_what_lay_there(tiny_bundle, folders, tmp_path, capsys):
    jsonl, video = tmp_path / "out.jsonl", tmp_path / "out.mkv"
    swapped = {"rgb": folders["thermal"], "thermal": folders["rgb"]}
    assert main(live(tiny_bundle, swapped, "--jsonl", jsonl, "--save", video)) == 1
    assert list(tmp_path.iterdir()) == []
    jsonl.write_text("the answers of yesterday\n")
    video.write_bytes(b"the video of yesterday")
    assert main(live(tiny_bundle, swapped, "--jsonl", jsonl, "--save", video)) == 1
    assert jsonl.read_text() == "the answers of yesterday\n"
    assert video.read_bytes() == b"the video of yesterday"
    assert main(live(tiny_bundle, folders, "--jsonl", jsonl, "--limit", 1)) == 0
    assert json.loads(jsonl.read_text())["index"] == 0
    assert capsys.readouterr().err.count("\n") == 2


def test_recordings_without_a_frame_leave_empty_json_lines_and_no_video(tiny_bundle, tmp_path, capsys):
    empty, jsonl, video = tmp_path / "empty.avi", tmp_path / "out.jsonl", tmp_path / "out.mkv"
    with av.open(str(empty), "w") as container:
        stream = container.add_stream("ffv1", rate=25)
        stream.width, stream.height, stream.pix_fmt = 40, 30, "gray16le"
        container.start_encoding()
    jsonl.write_text("the answers of yesterday\n")
    call = ["live", str(tiny_bundle), "--thermal", str(empty), "--jsonl", str(jsonl), "--save", str(video)]
    assert main(call) == 0
    assert (jsonl.read_text(), video.exists()) == ("", False)
    assert f"wrote {jsonl}\n" in (said := capsys.readouterr().out)
    assert str(video) not in said


def test_full_disk_is_one_line(tiny_bundle, folders, capsys):
    assert main(live(tiny_bundle, folders, "--jsonl", "/dev/full", "--score", 0)) == 1
    error = capsys.readouterr().err
    assert "no space left on device" in error and error.count("\n") == 1


def test_pairs_of_the_synthetic_recording_are_the_true_ones(synthetic_video):
    from pipelines.live.capture import Capture, stop_all
    from pipelines.live.pairing import Pairer, pair_frames
    from pipelines.live.sources import open_sources

    truth = json.loads((synthetic_video / "truth.json").read_text())
    arguments = {"rgb": str(synthetic_video / "rgb.mp4"), "thermal": str(synthetic_video / "thermal.mkv")}
    sources = open_sources(arguments, INPUTS.thermal, None)
    rules = pairing_rules(sources, Rig.load(synthetic_video / "rig.yaml"), LiveSettings())
    captures = {sensor: Capture(source) for sensor, source in sources.items()}
    met = [
        (p.rgb.sequence, p.thermal.sequence)
        for p in pair_frames(lambda sensor: captures[sensor].get(10), Pairer(rules))
        if p.rgb and p.thermal
    ]
    assert stop_all(list(captures.values())) == []
    nearest = {frame["index"]: frame["thermal_index"] for frame in truth["frames"]}
    assert len(met) >= 22  # of 25 thermal frames in the second, two lie before the first RGB frame or after the last
    assert all(nearest[rgb] == thermal for rgb, thermal in met)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_run_in_order(tiny_bundle, tmp_path, number):
    """A run of minutes; it is told to end as soon as its first answer lies on the disk."""
    for name, picture in (("v", np.zeros((48, 64, 3), np.uint8)), ("t", np.full((30, 40), 22000, np.uint16))):
        (tmp_path / name).mkdir()
        cv2.imwrite(str(tmp_path / name / "0.png"), picture)
        for copy in range(1, 20000):
            os.link(tmp_path / name / "0.png", tmp_path / name / f"{copy}.png")
    jsonl, video = tmp_path / "out.jsonl", tmp_path / "out.mkv"
    options = ["--rgb", tmp_path / "v", "--thermal", tmp_path / "t", "--jsonl", jsonl, "--save", video, "--json"]
    command = [sys.executable, "-m", "pipelines.cli", "live", str(tiny_bundle), *map(str, options)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        deadline = time.monotonic() + 30
        while not (jsonl.exists() and jsonl.stat().st_size) and time.monotonic() < deadline:
            os.sched_yield()
        process.send_signal(number)
        told, errors = process.communicate(timeout=30)
    assert process.returncode == 0, errors
    report = json.loads(told)
    assert report["ended_by"] == "stop"
    lines = jsonl.read_text().splitlines()
    assert 1 <= len(lines) == report["answers"] < 20000
    with av.open(str(video)) as container:
        assert sum(1 for _ in container.decode(video=0)) == len(lines)


@pytest.mark.parametrize(
    ("rgb_ms", "thermal_ms", "held"), [(33, 111, "thermal"), (100, 33, "rgb"), (40, 40, "thermal")]
)
def test_hold_holds_the_slower_sensor(rgb_ms, thermal_ms, held):
    sources = {
        "rgb": ScriptedSource([], period_ns=rgb_ms * MS),
        "thermal": ScriptedSource([], period_ns=thermal_ms * MS),
    }
    rules = pairing_rules(sources, Rig(), LiveSettings(hold=True))
    assert rules.hold == held
    assert rules.max_skew_ns == (max(rgb_ms, thermal_ms) * MS) // 2 + MS
    assert pairing_rules(sources, Rig(), LiveSettings(max_skew_ns=5)).max_skew_ns == 5
    assert pairing_rules(sources, Rig(), LiveSettings()).hold is None
