import csv
import io
import json
import os
import signal
import subprocess
import sys
import textwrap
import threading

import av
import numpy as np
import pytest

from data.errors import DataError
from data.frame import Frame, Pair
from data.prepare import InputSpec, Preparer
from data.rig import Rig
from data.thermal import ThermalSpec
from pipelines.live import lines as lines_module
from pipelines.live import sinks as sinks_module
from pipelines.live import window as window_module
from pipelines.live.answer import BoxAnswer, LabelAnswer, MapAnswer, read_answer, run_lengths
from pipelines.live.draw import COLOURS, Composer, draw_boxes, draw_map, false_colour
from pipelines.live.operation import Operation
from pipelines.live.outbox import statuses
from pipelines.live.sinks import SINKS, CsvSink, JsonLinesSink, VideoSink
from pipelines.live.state import LiveState
from pipelines.live.status import StatusLine
from pipelines.live.window import WindowSink, windows_missing
from pipelines.live.windows import window_system

CLASSES = ("person", "car")
INPUTS = InputSpec(rgb_size=(64, 96), thermal_size=(32, 48), thermal=ThermalSpec(unit="counts16"))
CANVAS = InputSpec(rgb_size=(64, 64), thermal_size=(64, 64), letterbox=True, thermal=ThermalSpec(unit="counts16"))
MS = 1_000_000


def pair(index=0, rgb=True, thermal=True, skew_ms=4):
    rng = np.random.default_rng(index)
    time = index * 40 * MS
    return Pair(
        Frame(rng.integers(0, 255, (64, 96, 3), np.uint8), time, index, "r") if rgb else None,
        Frame(rng.integers(1000, 9000, (32, 48), np.uint16), time + skew_ms * MS, index + 5, "t") if thermal else None,
    )


def prepare(shown, inputs=INPUTS):
    images = [None if frame is None else frame.image for frame in (shown.rgb, shown.thermal)]
    return Preparer(inputs, Rig())(*images, rgb_size=(64, 96))


def answer(index=0, boxes=((10, 20, 40, 50, 0.9, 1),)):
    return BoxAnswer(index, np.array(boxes, np.float32).reshape(-1, 6), (64, 96))


def write(sink, index, **options):
    shown = pair(index, **options)
    sink.write(shown, prepare(shown), answer(index))


def frames_of(path):
    with av.open(str(path)) as container:
        return [(frame.pts * frame.time_base, frame.to_ndarray(format="rgb24")) for frame in container.decode(video=0)]


def test_answer_keeps_objects_above_the_score_in_delivered_pixels():
    slots = np.zeros((1, 5, 6), np.float32)
    slots[0, :3] = [[8, 8, 16, 24, 0.9, 1], [0, 0, 4, 4, 0.31, 0], [0, 0, 4, 4, 0.29, 0]]
    prepared = prepare(pair(), CANVAS)
    assert prepared.scale == pytest.approx(64 / 96)
    kept = read_answer({"boxes": slots}, prepared, (64, 96), 7, 0.3)
    np.testing.assert_allclose(kept.boxes, [[12, 12, 24, 36, 0.9, 1], [0, 0, 6, 6, 0.31, 0]], atol=1e-5)
    assert len(read_answer({"boxes": slots}, prepared, (64, 96), 7, 0.0).boxes) == 3  # empty slots never
    assert slots[0, 0, 0] == 8, "the engine's own array was changed"


def test_json_lines_say_everything_and_are_flushed(tmp_path):
    path = tmp_path / "new" / "out.jsonl"
    sink = JsonLinesSink(path, CLASSES)
    assert not path.exists()
    write(sink, 0)
    write(sink, 1, thermal=False)
    lines = [json.loads(line) for line in path.read_text().splitlines()]  # before close: a kill loses nothing
    sink.close()
    assert lines[0] == {
        "index": 0,
        "time_ns": 4 * MS,
        "skew_ms": 4.0,
        "present": [1, 1],
        "frames": [0, 5],
        "boxes": [{"box": [10.0, 20.0, 40.0, 50.0], "score": 0.9, "class": "car"}],
    }
    assert (lines[1]["skew_ms"], lines[1]["present"], lines[1]["frames"]) == (None, [1, 0], [1, None])


def test_every_line_is_in_the_file_though_the_system_takes_it_in_pieces(tmp_path, monkeypatch):
    class Slow(lines_module.FileIO):
        def write(self, content):
            return super().write(content[:7])

    monkeypatch.setattr(lines_module, "FileIO", Slow)
    sink = JsonLinesSink(tmp_path / "out.jsonl", CLASSES)
    write(sink, 0)
    sink.close()
    assert json.loads((tmp_path / "out.jsonl").read_text())["frames"] == [0, 5]


def test_lines_go_on_after_a_disk_was_full_and_the_error_says_what_the_file_holds(tmp_path, monkeypatch):
    class Disk(lines_module.FileIO):
        room = 10

        def write(self, content):
            if not Disk.room:
                raise OSError(28, "No space left on device")
            taken = super().write(content[: Disk.room])
            Disk.room -= taken
            return taken

    path = tmp_path / "out.jsonl"
    monkeypatch.setattr(lines_module, "FileIO", Disk)
    sink = JsonLinesSink(path, CLASSES)
    for index, room, held in ((0, 10, "no answer of this run"), (2, 99, "1 answer"), (3, 5, "1 answer")):
        Disk.room = room
        with pytest.raises(DataError, match=rf"out.jsonl: cannot be written \(no space.*\); it holds {held}$"):
            write(sink, index)
        Disk.room = 10**6
        if index != 2:
            write(sink, index + 1)
    sink.close()
    assert [json.loads(line)["index"] for line in path.read_text().splitlines()] == [1, 4]


def test_a_run_without_answers_leaves_empty_json_lines(tmp_path):
    JsonLinesSink(tmp_path / "out.jsonl", CLASSES).close(failed=True)
    assert list(tmp_path.iterdir()) == []
    JsonLinesSink(tmp_path / "out.jsonl", CLASSES).close()
    assert (tmp_path / "out.jsonl").read_text() == ""


def test_video_shows_both_sensors_at_their_capture_times(tmp_path):
    path = tmp_path / "out.mkv"
    sink = VideoSink(path, Composer(INPUTS, CLASSES), 40 * MS)
    for index in (0, 1, 4):
        write(sink, index)
    sink.close()
    shown = frames_of(path)
    assert [round(float(time), 3) for time, _ in shown] == [0.0, 0.04, 0.16]
    assert shown[0][1].shape == (360, 1080, 3)


def test_video_is_readable_after_a_kill(tmp_path):
    path = tmp_path / "out.mkv"
    script = f"""
        import os, signal, sys
        import numpy as np
        from pathlib import Path
        from data.frame import Frame, Pair
        from pipelines.live.answer import BoxAnswer
        from pipelines.live.sinks import VideoSink
        noise = np.random.default_rng(0)
        sink = VideoSink(Path({str(path)!r}), lambda *_: noise.integers(0, 255, (64, 192, 3), np.uint8), 40_000_000)
        for index in range(100):
            frame = Frame(np.zeros((2, 2, 3), np.uint8), index * 40_000_000, index, "r")
            sink.write(Pair(frame, None), None, BoxAnswer(index, np.zeros((0, 6), np.float32), (2, 2)))
        os.kill(os.getpid(), signal.SIGKILL)
    """
    killed = subprocess.run([sys.executable, "-c", textwrap.dedent(script)], capture_output=True, check=False)
    assert killed.returncode == -signal.SIGKILL, killed.stderr.decode()
    assert len(frames_of(path)) >= 75  # four seconds were written; the last one may be lost


@pytest.mark.parametrize("kind", ["jsonl", "video"])
def test_full_disk_is_one_line_and_what_was_written_stays_readable(tmp_path, kind):
    path = tmp_path / {"jsonl": "out.jsonl", "video": "out.mkv"}[kind]
    script = f"""
        import resource, sys
        import numpy as np
        from pathlib import Path
        from data.errors import DataError
        from data.frame import Frame, Pair
        from pipelines.live.answer import BoxAnswer
        from pipelines.live.sinks import JsonLinesSink, VideoSink
        noise = np.random.default_rng(0)
        path = Path({str(path)!r})
        draw = lambda *_: noise.integers(0, 255, (64, 192, 3), np.uint8)
        sink = VideoSink(path, draw) if {kind!r} == "video" else JsonLinesSink(path, ("person",))
        resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 200_000))  # as a full disk: the write fails
        boxes = np.tile(np.array([1, 2, 3, 4, 0.5, 0], np.float32), (50, 1))
        try:
            for index in range(2000):
                frame = Frame(np.zeros((2, 2, 3), np.uint8), index * 40_000_000, index, "r")
                sink.write(Pair(frame, None), None, BoxAnswer(index, boxes, (2, 2)))
        except DataError as error:
            print(error)
        try:
            sink.close()
        except DataError as error:
            print("again:", error)
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(script)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    first = done.stdout.splitlines()[0]
    assert first.startswith(f"{path}: cannot be written (file too large); it holds ")
    told = int(first.partition("it holds ")[2].split()[0])
    if kind == "video":
        assert first.endswith("answers, the last second perhaps not")
        assert told - 25 <= len(frames_of(path)) <= told and told > 30
    else:
        lines = path.read_text().splitlines()
        assert len(lines) == told > 20
        assert all(json.loads(line)["boxes"] for line in lines), "half a line was left"


@pytest.mark.parametrize("kind", ["jsonl", "video"])
def test_a_place_that_cannot_be_written_is_refused_before_the_run(tmp_path, kind):
    make = {
        "jsonl": lambda path: JsonLinesSink(path, CLASSES),
        "video": lambda path: VideoSink(path, Composer(INPUTS, CLASSES)),
    }[kind]
    (tmp_path / "file").write_text("")
    (tmp_path / "folder.mkv").mkdir()
    for path, says in ((tmp_path / "file" / "out.mkv", "cannot be made"), (tmp_path / "folder.mkv", "is a folder")):
        with pytest.raises(DataError, match=says) as caught:
            make(path)
        assert "\n" not in str(caught.value)
    if os.geteuid() != 0:  # root writes everywhere
        locked = tmp_path / "locked"
        locked.mkdir(mode=0o500)
        with pytest.raises(DataError, match="permission"):
            make(locked / "out.mkv")


def test_video_needs_a_name_that_says_matroska(tmp_path):
    with pytest.raises(DataError, match=r"name it out\.mkv"):
        VideoSink(tmp_path / "out.mp4", Composer(INPUTS, CLASSES))


@pytest.mark.parametrize(
    ("build", "window"),
    [
        ("  GUI:                           QT5\n", "QT5"),
        ("  GUI: NONE\n", None),
        ("  GUI:   \n", None),
        ("", None),
    ],
)
def test_window_system_is_read_from_the_build_information(build, window):
    assert window_system(build) == window


def test_window_needs_windows_and_a_desktop(monkeypatch):
    compose = Composer(INPUTS, CLASSES)
    monkeypatch.setattr(window_module.cv2, "getBuildInformation", lambda: "  GUI:   NONE\n")
    with pytest.raises(DataError, match="without windows"):
        WindowSink(compose, threading.Event())
    monkeypatch.setattr(window_module.cv2, "getBuildInformation", lambda: "  GUI:   QT5\n")
    monkeypatch.delenv("DISPLAY", raising=False)
    monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)
    monkeypatch.setattr(window_module.sys, "platform", "linux")
    with pytest.raises(DataError, match="no desktop"):
        WindowSink(compose, threading.Event())
    monkeypatch.setenv("DISPLAY", ":0")
    assert windows_missing() is None


@pytest.mark.parametrize(
    ("key", "visible", "stops"), [(-1, 1, False), (ord("q"), 1, True), (27, 1, True), (-1, 0, True)]
)
def test_window_ends_the_run_on_q_escape_or_closing(monkeypatch, key, visible, stops):
    monkeypatch.setattr(window_module, "windows_missing", lambda: None)
    calls = []
    for name, result in (("namedWindow", None), ("imshow", None), ("waitKey", key), ("destroyWindow", None)):
        monkeypatch.setattr(
            window_module.cv2, name, lambda *args, name=name, result=result: (calls.append(name), result)[1]
        )
    monkeypatch.setattr(window_module.cv2, "getWindowProperty", lambda *_: visible)
    stop = threading.Event()
    sink = WindowSink(Composer(INPUTS, CLASSES), stop)
    write(sink, 0)
    write(sink, 1)
    sink.close()
    assert stop.is_set() is stops
    assert calls.count("imshow") == 2
    assert calls[-1] == "destroyWindow"


def test_what_opencv_cannot_show_is_counted_and_ends_nothing(monkeypatch):
    monkeypatch.setattr(window_module, "windows_missing", lambda: None)
    is_well, stop, people = threading.Event(), threading.Event(), io.StringIO()

    def show(*_):
        if not is_well.is_set():
            raise window_module.cv2.error("imshow: null window")

    for name, does in (("namedWindow", show), ("imshow", show), ("destroyWindow", show)):
        monkeypatch.setattr(window_module.cv2, name, does)
    monkeypatch.setattr(window_module.cv2, "waitKey", lambda _: -1)
    sink, state = WindowSink(Composer(INPUTS, CLASSES), stop), LiveState()
    operation = Operation(StatusLine(people))
    state.watch(dict, lambda: statuses([sink]))
    for index in range(3):
        write(sink, index)
        operation._tell_sinks(state.snapshot(), index)
    said = people.getvalue()
    assert said.count("\n") == 1 and "window failing: --show: OpenCV cannot show it" in said and "null window" in said
    assert (sink.status.dropped, sink.status.delivered, sink.status.failing) == (3, 0, True)
    is_well.set()
    write(sink, 3)
    assert (sink.status.delivered, sink.status.failing) == (1, False)
    is_well.clear()
    sink.close()
    assert not stop.is_set()


def test_every_kind_of_sink_is_listed():
    assert set(SINKS) == {"video", "jsonl", "csv", "window", "mqtt", "webhook", "stream"}


@pytest.mark.parametrize("inputs", [INPUTS, CANVAS])
def test_boxes_lie_at_the_same_place_on_both_sensors(inputs):
    shown = Pair(
        Frame(np.zeros((64, 96, 3), np.uint8), 0, 0, "r"), Frame(np.full((32, 48), 2000, np.uint16), 0, 0, "t")
    )
    picture = Composer(inputs, CLASSES)(shown, prepare(shown, inputs), answer(boxes=[(10, 30, 60, 55, 0.9, 1)]))
    assert picture.shape == (360, 1080, 3)
    left, right = picture[:, :540], picture[:, 540:]
    for view in (left, right):
        coloured = np.argwhere((view == COLOURS[1]).all(axis=2))
        assert abs(coloured[:, 1].min() - 10 * 360 / 64) <= 2
        assert abs(coloured[:, 0].max() - 55 * 360 / 64) <= 2


def test_absent_sensor_has_its_own_panel():
    for options in ({"rgb": False}, {"thermal": False}):
        shown = pair(**options)
        picture = Composer(INPUTS, CLASSES)(shown, prepare(shown), answer())
        assert picture.shape == (360, 1080, 3)


def test_one_answer_is_drawn_once_and_pictures_keep_their_size():
    compose = Composer(INPUTS, CLASSES)
    shown, given = pair(), answer()
    assert compose(shown, prepare(shown), given) is compose(shown, prepare(shown), given)
    big = Pair(Frame(np.zeros((128, 192, 3), np.uint8), 0, 1, "r"), None)
    later = BoxAnswer(1, np.zeros((0, 6), np.float32), (128, 192))
    assert compose(big, prepare(shown), later).shape == (360, 1080, 3)


def test_frames_of_another_shape_than_the_first_are_not_stretched():
    compose = Composer(CANVAS, CLASSES)
    compose(pair(), prepare(pair(), CANVAS), answer())
    tall = Pair(Frame(np.full((96, 64, 3), 200, np.uint8), 0, 1, "r"), None)
    boxes = np.array([[0, 0, 64, 96, 0.9, 1]], np.float32)
    picture = compose(tall, Preparer(CANVAS, Rig())(tall.rgb.image, None), BoxAnswer(1, boxes, (96, 64)))
    assert picture.shape == (360, 1080, 3)
    bright = np.argwhere((picture[:, :540] == 200).all(axis=2))
    assert abs(bright[:, 1].min() - 150) <= 4 and abs(bright[:, 1].max() - 389) <= 4
    assert not picture[:, :148].any() and not picture[:, 392:688].any()
    assert (picture[:, 150:154] == COLOURS[1]).all(axis=2).any()


def test_tall_frames_are_shown_at_a_height_that_a_video_can_hold():
    image = np.zeros((1024, 1281, 3), np.uint8)
    inputs = InputSpec(rgb_size=(1024, 1281), thermal_size=(32, 48), thermal=ThermalSpec(unit="counts16"))
    shown = Pair(Frame(image, 0, 0, "r"), None)
    prepared = Preparer(inputs, Rig())(image, None)
    picture = Composer(inputs, CLASSES)(shown, prepared, BoxAnswer(0, np.zeros((0, 6), np.float32), (1024, 1281)))
    assert picture.shape == (540, 1352, 3)


def test_false_colour_spans_the_valid_range_and_blacks_out_the_rest():
    thermal = np.array([[0, 1000, 1500, 2000]], np.uint16)
    coloured = false_colour(thermal, invalid=0).astype(int)
    assert coloured[0, 0].tolist() == [0, 0, 0]
    brightness = coloured.sum(axis=2)[0]
    assert brightness[1] < brightness[2] < brightness[3]
    flat = false_colour(np.full((3, 3), 7.5, np.float32), invalid=-1000.0)
    assert np.ptp(flat.reshape(-1, 3), axis=0).max() == 0


def test_labels_stay_inside_the_picture():
    image = np.zeros((40, 120, 3), np.uint8)
    draw_boxes(image, np.array([[2, 0, 50, 30, 0.5, 0]], np.float32), CLASSES)
    assert image.any()


def test_a_label_at_the_right_edge_is_as_whole_as_any():
    inside, edge = (np.zeros((60, 200, 3), np.uint8) for _ in range(2))
    for image, left in ((inside, 20), (edge, 185)):
        draw_boxes(image, np.array([[left, 30, left + 10, 50, 0.5, 0]], np.float32), CLASSES)
    tags = [np.count_nonzero((image[:26] == COLOURS[0]).all(axis=2)) for image in (inside, edge)]
    assert tags[0] == tags[1] > 100


def test_of_boxes_that_overlap_the_surest_lies_on_top():
    boxes = np.array([[20, 30, 80, 50, 0.9, 0], [24, 30, 84, 50, 0.4, 1]], np.float32)
    both, surest = (np.zeros((60, 200, 3), np.uint8) for _ in range(2))
    draw_boxes(both, boxes, CLASSES)
    draw_boxes(surest, boxes[:1], CLASSES)
    own = (surest == COLOURS[0]).all(axis=2)
    assert (both[own] == COLOURS[0]).all()


def halves(shape=(64, 96)):
    """A class map whose left half is background, its right half person, the last row car; and confidences."""
    class_map, confidence = np.zeros(shape, np.uint8), np.full(shape, 0.5, np.float32)
    class_map[:, shape[1] // 2 :], confidence[:, shape[1] // 2 :] = 1, 0.75
    class_map[-1], confidence[-1] = 2, 1
    return class_map, confidence


def answered(outputs, inputs=INPUTS, index=3):
    return read_answer(
        {name: array[None] for name, array in outputs.items()}, prepare(pair(), inputs), (64, 96), index, 0.3
    )


def lines_of(tmp_path, answer, **options):
    """What JSON lines and CSV say of one answer."""
    shown = pair()
    sinks = [JsonLinesSink(tmp_path / "out.jsonl", CLASSES, **options), CsvSink(tmp_path / "out.csv", CLASSES)]
    for sink in sinks:
        sink.write(shown, prepare(shown), answer)
        sink.close()
    with (tmp_path / "out.csv").open(newline="") as file:
        return json.loads((tmp_path / "out.jsonl").read_text()), list(csv.DictReader(file))


def test_a_class_map_is_told_as_shares_and_confidences(tmp_path):
    class_map, confidence = halves()
    answer = answered({"class_map": class_map, "confidence": confidence})
    assert isinstance(answer, MapAnswer) and answer.count == 2
    line, rows = lines_of(tmp_path, answer)
    assert line["index"] == 3 and "masks" not in line
    assert line["classes"] == {
        "background": {"share": pytest.approx(63 / 128, abs=1e-6), "confidence": 0.5},
        "person": {"share": pytest.approx(63 / 128, abs=1e-6), "confidence": 0.75},
        "car": {"share": 0.015625, "confidence": 1.0},
    }
    assert [row["class"] for row in rows] == ["background", "person", "car"]
    assert list(rows[0]) == ["index", "time_ns", "class", "share", "confidence"] and rows[2]["share"] == "0.015625"


def test_masks_as_run_lengths_that_coco_tools_can_read(tmp_path):
    coco = pytest.importorskip("faster_coco_eval.core.mask")
    class_map, confidence = halves()
    line, _ = lines_of(tmp_path, answered({"class_map": class_map, "confidence": confidence}), rle=True)
    assert list(line["masks"]) == ["person", "car"]
    for index, mask in enumerate(line["masks"].values(), 1):
        decoded = coco.decode(coco.frPyObjects(mask, *mask["size"]))
        assert np.array_equal(decoded.astype(bool), class_map == index)


@pytest.mark.parametrize(
    ("mask", "runs"),
    [
        ([[0, 0], [0, 0]], [4]),
        ([[1, 1], [1, 1]], [0, 4]),
        ([[1, 0], [0, 1]], [0, 1, 2, 1]),
        ([[0, 1], [1, 0]], [1, 2, 1]),
    ],
)
def test_run_lengths_go_down_the_columns_and_begin_with_zeros(mask, runs):
    assert run_lengths(np.array(mask, bool)) == runs


def test_a_class_map_on_a_canvas_is_cut_to_the_frame():
    class_map, confidence = np.full((64, 64), 2, np.uint8), np.ones((64, 64), np.float32)
    class_map[:43] = 1  # 64×96 on 64×64 takes 43 rows
    answer = answered({"class_map": class_map, "confidence": confidence}, CANVAS)
    assert answer.class_map.shape == (43, 64) and (answer.class_map == 1).all()


def test_a_label_is_told_with_every_probability(tmp_path):
    answer = answered({"probabilities": np.array([0.25, 0.75], np.float32)})
    assert isinstance(answer, LabelAnswer) and answer.count == 1
    line, rows = lines_of(tmp_path, answer)
    told = {key: line[key] for key in ("class", "probability", "probabilities")}
    assert told == {"class": "car", "probability": 0.75, "probabilities": {"person": 0.25, "car": 0.75}}
    assert rows == [{
        "index": "3", "time_ns": str(4 * MS), "class": "car", "probability": "0.75",
        "probability of person": "0.25", "probability of car": "0.75",
    }]  # fmt: skip


def test_a_table_has_one_header_and_a_row_for_each_object(tmp_path):
    sink = CsvSink(tmp_path / "out.csv", CLASSES)
    for index, boxes in enumerate(([(1, 2, 3, 4, 0.5, 0)] * 2, [], [(1, 2, 3, 4.5, 0.25, 1)])):
        shown = pair(index)
        sink.write(shown, prepare(shown), answer(index, boxes))
    sink.close()
    lines = (tmp_path / "out.csv").read_text().splitlines()
    assert lines[0] == "index,time_ns,class,score,x1,y1,x2,y2"
    assert [line.split(",")[0] for line in lines[1:]] == ["0", "0", "2"]
    assert lines[3] == f"2,{84 * MS},car,0.25,1.0,2.0,3.0,4.5"


def test_a_table_of_a_run_that_found_nothing_has_its_header(tmp_path):
    sink = CsvSink(tmp_path / "out.csv", CLASSES)
    for index in range(2):
        sink.write(pair(index), prepare(pair(index)), answer(index, []))
    sink.close()
    assert (tmp_path / "out.csv").read_text() == "index,time_ns,class,score,x1,y1,x2,y2\n"


@pytest.mark.parametrize("inputs", [INPUTS, CANVAS])
def test_a_class_map_tints_both_sensors_at_its_place_and_leaves_the_background(inputs):
    shown = Pair(
        Frame(np.full((64, 96, 3), 40, np.uint8), 0, 0, "r"), Frame(np.full((32, 48), 2000, np.uint16), 0, 0, "t")
    )
    class_map = np.zeros((64, 96) if inputs is INPUTS else (43, 64), np.uint8)
    class_map[:, class_map.shape[1] // 2 :] = 1
    picture = Composer(inputs, CLASSES)(shown, prepare(shown, inputs), MapAnswer(0, class_map, class_map, (64, 96)))
    left, right = picture[100:, :540].astype(int), picture[100:, 540:].astype(int)
    assert (left[:, :260] == 40).all()
    assert np.abs(left[:, 280:] - (0.55 * 40 + 0.45 * np.array(COLOURS[0]))).max() <= 1
    assert (right[:, :260].max(axis=2) < 10).all() and (right[:, 280:].max(axis=2) > 50).all()


def test_pixels_that_nobody_judged_are_not_tinted():
    image = np.full((40, 60, 3), 9, np.uint8)
    draw_map(image, np.full((20, 30), 255, np.uint8), CLASSES)
    assert (image == 9).all()


def test_a_label_stands_in_a_corner_of_both_panels():
    shown = pair()
    given = LabelAnswer(0, np.array([0.1, 0.9], np.float32), (64, 96))
    picture = Composer(INPUTS, CLASSES)(shown, prepare(shown), given)
    for view in (picture[:40, :200], picture[:40, 540:740]):
        assert (view == COLOURS[1]).all(axis=2).sum() > 300


class Full:
    """A stream's double: the disk is full."""

    def encode(self, picture):
        raise OSError(28, "No space left on device")


@pytest.fixture
def camera_video(tmp_path, monkeypatch):
    """Makes the sink of a camera's video on a clock of its own; files of today lie at its place where asked for."""
    now, noise = [1000.0], np.random.default_rng(0)
    monkeypatch.setattr(sinks_module, "monotonic", lambda: now[0])

    def make(opened=None):
        return VideoSink(
            tmp_path / "out.mkv", lambda *_: noise.integers(0, 255, (64, 192, 3), np.uint8), 40 * MS,
            in_parts=True, opened=opened,
        )  # fmt: skip

    return make, now


def test_a_camera_s_video_goes_on_in_a_new_file_after_a_failure(tmp_path, camera_video):
    make, now = camera_video
    path, sink = tmp_path / "out.mkv", make()
    for index in range(60):
        write(sink, index)
    (tmp_path / "out.2.mkv").write_bytes(b"of yesterday")
    sink._stream = Full()
    with pytest.raises(DataError, match=r"out.mkv: .* \(no space left on device\); it holds 60 answers"):
        write(sink, 60)
    now[0] += 1
    for index in range(61, 70):
        write(sink, index)
    sink._stream = Full()
    with pytest.raises(DataError, match=r"out.3.mkv: .*; it holds 9 answers"):
        write(sink, 70)
    sink.close()
    assert len(frames_of(path)) >= 30 and len(frames_of(tmp_path / "out.3.mkv")) == 9
    assert (tmp_path / "out.2.mkv").read_bytes() == b"of yesterday"


def test_a_camera_s_video_never_replaces_what_was_recorded_before(tmp_path, camera_video):
    make, _ = camera_video
    opened = []
    for _ in range(3):  # as a service that is started again
        sink = make(opened.append)
        write(sink, 0)
        sink.close()
    assert opened == [tmp_path / name for name in ("out.mkv", "out.2.mkv", "out.3.mkv")]
    assert all(len(frames_of(path)) == 1 for path in opened)


def test_a_disk_that_stays_full_is_not_littered(tmp_path, camera_video, monkeypatch):
    make, now = camera_video
    tried = []
    monkeypatch.setattr(sinks_module.av, "open", lambda path, *_, **__: (tried.append(path), Full().encode(None)))
    sink = make()
    for index in range(3600):
        with pytest.raises(DataError, match="no space left"):
            write(sink, index)
        now[0] += 1
    assert len(tried) < 70 and set(tried) == {str(tmp_path / "out.mkv")} and list(tmp_path.iterdir()) == []


def test_parts_have_an_end(tmp_path, camera_video, monkeypatch):
    monkeypatch.setattr(sinks_module, "_MOST_PARTS", 2)
    for name in ("out.mkv", "out.2.mkv"):
        (tmp_path / name).touch()
    with pytest.raises(DataError, match="2 parts of it lie there; move them away"):
        write(camera_video[0](), 0)


@pytest.mark.parametrize("make", [JsonLinesSink, CsvSink])
def test_of_cameras_what_was_written_before_stays(tmp_path, make):
    path = tmp_path / "out"
    for _ in range(2):  # as a service that is started again
        sink = make(path, CLASSES, is_live=True)
        write(sink, 0)
        write(sink, 1)
        sink.close()
    make(path, CLASSES, is_live=True).close()  # a run without an answer
    whole = path.read_text()
    path.write_text(whole[:-5])  # as a kill of the machine may leave it
    sink = make(path, CLASSES, is_live=True)
    write(sink, 2)
    sink.close()
    lines = path.read_text().splitlines()
    assert lines[: len(whole.splitlines())] == (whole[:-5]).splitlines()
    if make is CsvSink:
        assert [line.partition(",")[0] for line in lines] == ["index", "0", "1", "0", "1", "2"]
    else:
        assert [json.loads(lines[number])["index"] for number in (0, 1, 2, 4)] == [0, 1, 0, 2]


def test_of_recordings_what_lies_there_is_replaced(tmp_path):
    path = tmp_path / "out.jsonl"
    path.write_text("of yesterday\n")
    sink = JsonLinesSink(path, CLASSES)
    write(sink, 0)
    sink.close()
    assert json.loads(path.read_text())["index"] == 0


def test_a_full_disk_leaves_what_was_written_before(tmp_path, monkeypatch):
    class Half(lines_module.FileIO):
        def write(self, content):
            if len(content) < 20:
                raise OSError(28, "No space left on device")
            return super().write(content[:10])

    path = tmp_path / "out.jsonl"
    path.write_text('{"index": 7}\n{"ind')
    before = path.read_text()
    monkeypatch.setattr(lines_module, "FileIO", Half)
    sink = JsonLinesSink(path, CLASSES, is_live=True)
    with pytest.raises(DataError, match="it holds no answer of this run"):
        write(sink, 0)
    sink.close()
    assert path.read_text() == before
