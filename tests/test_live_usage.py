"""What is refused before anything is opened: options without effect, and two options that take one place."""

import argparse
import re
from pathlib import Path

import pytest

from data.errors import DataError
from pipelines.cli import main
from pipelines.commands.live import configure
from pipelines.live.idle import refuse_idle_for
from pipelines.live.places import refuse_shared_places
from pipelines.live.site import RigOptions

CAMERAS = ("--rgb", "synthetic:", "--thermal", "synthetic:")
ONE_CAMERA = ("--rgb", "synthetic:")


@pytest.fixture
def recording(tmp_path):
    """Two files that are there, and a folder; they are refused before anybody looks into them."""
    for name in ("rgb.mp4", "thermal.mkv"):
        (tmp_path / name).write_bytes(b"")
    (tmp_path / "pictures").mkdir()
    return {
        "cameras": CAMERAS,
        "camera": ONE_CAMERA,
        "files": ("--rgb", str(tmp_path / "rgb.mp4"), "--thermal", str(tmp_path / "thermal.mkv")),
        "file": ("--rgb", str(tmp_path / "rgb.mp4")),
        "folder": ("--rgb", str(tmp_path / "pictures")),
        "nothing": (),
    }


@pytest.mark.parametrize(
    ("sources", "options", "says"),
    [
        ("files", "--every-frame", "--every-frame: only for cameras; of recordings every frame is answered anyway"),
        ("files", "--give-up-after 5", "--give-up-after: only for cameras"),
        ("files", "--frozen-after 10", "--frozen-after: only for cameras"),
        ("files", "--max-wait 50", "--max-wait: only for cameras"),
        ("folder", "--every-frame", "--every-frame: only for cameras"),
        ("files", "--fps 25", "--fps: only for folders of pictures"),
        ("cameras", "--fps 25", "--fps: only for folders of pictures"),
        ("camera", "--max-skew 10", "--max-skew: only for pairs; give both --rgb and --thermal"),
        ("camera", "--max-wait 10", "--max-wait: only for pairs"),
        ("camera", "--hold", "--hold: only for pairs"),
        ("file", "--hold", "--hold: only for pairs"),
        ("cameras", "--rle", "--rle: only for answers as JSON; add one of --jsonl, --mqtt, --webhook"),
        ("cameras", "--rle --csv out.csv", "--rle: only for answers as JSON"),
        ("cameras", "--rle --jsonl out.jsonl", "--rle: only for bundles that segment; this one is made to detect"),
        ("cameras", "--token a-long-secret", "--token is of the page; add --serve"),
        ("cameras", "--allow-host x", "--allow-host is of the page; add --serve"),
        ("cameras", "--serve host:x", "--serve host:x: give HOST:PORT"),
        ("nothing", "--serve", "no source; give --rgb, --thermal or both"),
        ("cameras", "--config site.yaml", "--rgb belongs to a rig"),
        ("cameras", "--give-up-after 0", "--give-up-after 0: give seconds"),
        ("cameras", "--max-wait -1", "--max-wait -1: give milliseconds"),
        ("cameras", "--frozen-after -1", "--frozen-after -1: give seconds"),
        ("cameras", "--score 1.5", "--score 1.5: give a number from 0 to 1"),
        ("cameras", "--score nan", "--score nan"),
        ("cameras", "--limit 0", "--limit 0: give at least 1"),
        ("cameras", "--max-skew -1", "--max-skew -1: give milliseconds"),
        ("cameras", "--max-skew inf", "--max-skew inf"),
        ("cameras", "--max-skew nan", "--max-skew nan"),
        ("cameras", "--stream nonsense", "--stream nonsense: give rtsp://SERVER/PATH"),
        ("cameras", "--mqtt mqtt://b/a/+", "give a plain topic"),
        ("cameras", "--mqtt mqtt:///a", "give an address such as mqtt://"),
        ("cameras", "--webhook x", "--webhook x: give an address such as"),
        ("cameras", "--save out.mp4", "name it out.mkv"),
        ("cameras", "--serve --token abc", "--token: give at least 8"),
        ("cameras", "--jsonl x --csv x", "--csv: the file x is taken by --jsonl"),
        ("nothing", "--rgb synthetic:?fps=abc", "synthetic:?fps=abc: write such as synthetic:?fps=30"),
        ("nothing", "--rgb usb:0?frmat=Y16", "usb:0?frmat=Y16: ?frmat= is no option"),
        ("nothing", "--rgb ftp://h/x", "ftp://…: not a source"),
        ("file", "--thermal synthetic:", "a recording beside a camera"),
    ],
)
def test_what_has_no_effect_is_one_line_and_wrong_usage(
    tiny_bundle, tmp_path, recording, monkeypatch, capsys, sources, options, says
):
    monkeypatch.chdir(tmp_path)
    before = sorted(tmp_path.iterdir())
    assert main(["live", str(tiny_bundle), *recording[sources], *options.split()]) == 2
    error = capsys.readouterr().err
    assert error.startswith("rgbt live: error: ") and says in error and error.count("\n") == 1
    assert sorted(tmp_path.iterdir()) == before


def test_a_score_is_for_boxes_alone():
    refuse_idle_for("segment", {"live": RigOptions(rgb="usb:0", rle=True)}, None)
    refuse_idle_for("detect", {"live": RigOptions(rgb="usb:0", score=0.5)}, None)
    with pytest.raises(DataError, match=r"--score: only for bundles that detect; this one is made to segment"):
        refuse_idle_for("segment", {"live": RigOptions(rgb="usb:0", score=0.5)}, None)
    with pytest.raises(DataError, match=r"site.yaml: rigs.yard.score: only"):
        refuse_idle_for("classify", {"yard": RigOptions(rgb="usb:0", score=0.5)}, "site.yaml")


def site_of(tmp_path, gate, yard):
    path = tmp_path / "site.yaml"
    path.write_text(f"rigs:\n  gate: {{{gate}}}\n  yard: {{{yard}}}\n")
    return path


def test_one_window_is_for_one_rig(tiny_bundle, tmp_path, capsys):
    path = site_of(tmp_path, "rgb: 'synthetic:'", "rgb: 'synthetic:'")
    assert main(["live", str(tiny_bundle), "--config", str(path), "--show"]) == 2
    assert capsys.readouterr().err == "rgbt live: error: --show: one window shows one rig; of many give --serve\n"


def test_options_of_a_site_s_rig_are_named_by_file_and_field(tiny_bundle, tmp_path, capsys):
    path = site_of(tmp_path, "rgb: 'synthetic:', hold: true", "rgb: 'synthetic:'")
    assert main(["live", str(tiny_bundle), "--config", str(path)]) == 2
    assert f"{path}: rigs.gate.hold: only for pairs; give both rigs.gate.rgb and" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("gate", "yard", "says"),
    [
        ("jsonl: out", "jsonl: ./out", "rigs.yard.jsonl: the file "),
        ("jsonl: out", "csv: new/../out", "rigs.yard.csv: the file "),
        ("save: a.mkv", "save: a.mkv", "rigs.yard.save: the file "),
        ("stream: a/live.m3u8", "stream: ./a/live.m3u8", "rigs.yard.stream: the file "),
        ("stream: 'rtsp://h/a'", "stream: 'rtsp://me:pw@h/a/'", "rigs.yard.stream: the address rtsp://***@h/a/ is"),
        ("stream: 'rtsp://h/a'", "stream: 'rtsp://h:554/a'", "rigs.yard.stream: the address rtsp://h:554/a is"),
        (
            "mqtt: 'mqtt://b/site'",
            "mqtt: 'mqtt://me:pw@b:1883/site?qos=1'",
            "rigs.yard.mqtt: the topic site at b:1883 is",
        ),
        ("mqtt: 'mqtt://b'", "mqtt: 'mqtt://b'", "the topic rgbt/live at b:1883"),
        ("mqtt: 'mqtt://b/a'", "mqtt: 'mqtt://b/a/status'", "the topic a/status at b:1883"),
        ("mqtt: 'mqtt://b/a?client=x'", "mqtt: 'mqtt://b/b?client=x'", "the client's name x at b:1883"),
        ("webhook: 'http://h/in'", "webhook: 'http://h/in'", "rigs.yard.webhook: the address http://h/in is"),
        ("thermal: 'usb:1'", "thermal: '/dev/video1'", "rigs.yard.thermal: the camera /dev/video1 is"),
        ("thermal: 'usb:1'", "thermal: 'usb:1?format=Y16'", "rigs.yard.thermal: the camera /dev/video1 is"),
        ("thermal: 'udp://@:5000'", "thermal: 'udp://@:5000'", "rigs.yard.thermal: the port of "),
    ],
)
def test_rigs_that_share_a_place_are_one_line_with_file_and_field(tiny_bundle, tmp_path, capsys, gate, yard, says):
    path = site_of(tmp_path, f"rgb: 'synthetic:', {gate}", f"rgb: 'synthetic:', {yard}")
    assert main(["live", str(tiny_bundle), "--config", str(path)]) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"rgbt live: error: {path}: rigs.yard.") and says in error and error.count("\n") == 1
    assert "is taken by rigs.gate." in error and error.endswith("; give each its own\n")
    assert list(tmp_path.iterdir()) == [path]


def test_what_may_be_shared_is_not_refused(tmp_path):
    recording, pipe = tmp_path / "rgb.mp4", "/dev/null"
    recording.write_bytes(b"")
    rigs = {
        name: RigOptions(
            rgb="rtsp://camera/1", thermal=str(recording), jsonl=pipe, csv=pipe, mqtt=f"mqtt://broker/{name}",
            webhook=f"http://h/in?rig={name}", stream=f"rtsp://server/{name}",
        )
        for name in ("gate", "yard")
    }  # fmt: skip
    refuse_shared_places(rigs, lambda rig, option: option)


def test_both_sensors_of_a_rig_cannot_be_one_camera():
    with pytest.raises(DataError, match="--thermal: the camera /dev/video0 is taken by --rgb"):
        refuse_shared_places({"live": RigOptions(rgb="usb:0", thermal="usb:0")}, lambda _, option: f"--{option}")


def test_the_readme_knows_every_option():
    parser = argparse.ArgumentParser()
    configure(parser)
    section = (
        (Path(__file__).parent.parent / "README.md").read_text().partition("## Run live\n")[2].partition("\n## ")[0]
    )
    typed = {name for action in parser._actions for name in action.option_strings if name.startswith("--")}
    assert {name for name in typed if not re.search(rf"{name}\b", section)} == {"--help"}
    assert {word for word in re.findall(r"--[a-z][a-z-]+", section)} <= typed
