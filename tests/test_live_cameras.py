"""The command on cameras, whole: synthetic ones, which need no device."""

import argparse
import json
import signal
import subprocess
import sys
import time
import urllib.request

import pytest

from data.errors import DataError
from pipelines.cli import main
from pipelines.commands.live import configure
from pipelines.live.arguments import read_rules, read_site
from pipelines.live.reconnect import LiveRules

S = 60.0


def cameras(bundle, *more):
    return ["live", str(bundle), "--rgb", "synthetic:", "--thermal", "synthetic:", "--threads", "1", *map(str, more)]


def test_two_cameras_are_paired_answered_and_reported(tiny_bundle, tmp_path, capsys):
    jsonl, video = tmp_path / "out.jsonl", tmp_path / "out.mkv"
    assert main(cameras(tiny_bundle, "--limit", 20, "--jsonl", jsonl, "--save", video, "--json")) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["ended_by"] == "limit" and report["answers"] == 20
    assert report["counts"]["pairs"] >= 10
    assert report["latency_ms"]["p50"] > 0 and report["stage_ms"]["pair"]["p50"] is not None
    assert report["sources"]["rgb"]["state"] == "up"
    assert report["sinks"]["jsonl"]["dropped"] == report["sinks"]["jsonl"]["errors"] == 0
    told = [json.loads(line) for line in jsonl.read_text().splitlines()]
    assert [line["index"] for line in told] == list(range(20)) and told[0]["utc"].endswith("Z")
    assert video.stat().st_size > 0


def test_people_are_told_latency_and_the_wait_for_the_partner(tiny_bundle, capsys):
    assert main(cameras(tiny_bundle, "--limit", 5)) == 0
    said = capsys.readouterr().out
    assert "latency" in said and "wait for the partner" in said


def test_two_rigs_on_one_model(tiny_bundle, tmp_path, capsys):
    site = tmp_path / "site.yaml"
    site.write_text(
        "rigs:\n  gate: {rgb: 'synthetic:', thermal: 'synthetic:', jsonl: gate.jsonl}\n"
        "  yard: {thermal: 'synthetic:', jsonl: yard.jsonl}\n"
    )
    assert main(["live", str(tiny_bundle), "--config", str(site), "--limit", "10", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert {name: rig["ended_by"] for name, rig in report.items()} == {"gate": "limit", "yard": "limit"}
    assert report["yard"]["counts"]["thermal_alone"] == 10
    assert len((tmp_path / "gate.jsonl").read_text().splitlines()) == 10


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--mqtt", "http://x"], "--mqtt http://x"),
        (["--webhook", "x"], "--webhook x"),
        (["--stream", "http://x"], "--stream http://x"),
    ],
)
def test_a_mistake_is_one_line(tiny_bundle, tmp_path, monkeypatch, capsys, options, says):
    monkeypatch.chdir(tmp_path)
    assert main(cameras(tiny_bundle, "--jsonl", "out.jsonl", *options)) == 2
    error = capsys.readouterr().err
    assert says in error and error.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_no_file_is_written_twice_or_over_what_is_read(tiny_bundle, synthetic_video, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    recording = tmp_path / "rgb.mp4"
    recording.write_bytes((synthetic_video / "rgb.mp4").read_bytes())
    before = recording.read_bytes()
    for options, says in (
        (["--jsonl", "out", "--csv", "./out"], "--csv: the file out is taken by --jsonl"),
        (["--jsonl", "rgb.mp4"], "--jsonl: the file rgb.mp4 is taken by --rgb"),
    ):
        assert main(["live", str(tiny_bundle), "--rgb", str(recording), *options]) == 2
        assert says in capsys.readouterr().err
    assert recording.read_bytes() == before and list(tmp_path.iterdir()) == [recording]


def test_without_a_bundle_it_says_what_to_give(capsys):
    assert main(["live", "--rgb", "synthetic:"]) == 2
    assert "no bundle" in capsys.readouterr().err


def test_a_camera_that_stays_away_is_given_up_with_its_own_exit_code(tiny_bundle, capsys):
    call = ["live", str(tiny_bundle), "--rgb", "rtsp://me:hunter2@127.0.0.1:9/nothing", "--give-up-after", "0.5"]
    assert main([*call, "--json"]) == 3
    report = json.loads(capsys.readouterr().out)
    assert (report["ended_by"], report["given_up"]) == ("gave up", ["rgb"])
    assert "connection refused; given up after 0.5 s" in report["warnings"][0]
    assert main(call) == 3
    told = capsys.readouterr()
    assert told.err.count("given up after 0.5 s") == 1 and "hunter2" not in told.err + told.out


def test_the_other_camera_goes_on_and_the_exit_code_still_tells(tiny_bundle, tmp_path, capsys):
    call = ["--rgb", "rtsp://127.0.0.1:9/nothing", "--thermal", "synthetic:", "--give-up-after", "0.3"]
    jsonl = tmp_path / "out.jsonl"
    assert main(["live", str(tiny_bundle), *call, "--threads", "1", "--limit", "40", "--jsonl", str(jsonl)]) == 3
    told = capsys.readouterr()
    assert told.err.count("given up after 0.3 s; the run goes on with thermal") == 1
    assert len(jsonl.read_text().splitlines()) == 40 and "40 answers" in told.out


def test_a_service_is_served_and_ends_within_five_seconds_of_sigterm(tiny_bundle, tmp_path):
    jsonl = tmp_path / "out.jsonl"
    options = ["--jsonl", jsonl, "--serve", "127.0.0.1:0", "--log", "json", "--json", "--mqtt", "mqtt://127.0.0.1:9/x"]
    command = [sys.executable, "-m", "pipelines.cli", *cameras(tiny_bundle, *options)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        end, events = time.monotonic() + S, []
        while time.monotonic() < end and not any(event["event"] == "started" for event in events):
            line = process.stderr.readline()
            events += [json.loads(line)] if line.startswith("{") else []
        url = next(event["url"] for event in events if event["event"] == "serving")
        while not (jsonl.exists() and jsonl.stat().st_size) and time.monotonic() < end:
            time.sleep(0.02)
        with urllib.request.urlopen(f"{url}readyz", timeout=S) as answer:
            assert answer.status == 200
        process.send_signal(signal.SIGTERM)
        asked = time.monotonic()
        out, err = process.communicate(timeout=S)
    assert time.monotonic() - asked < 5
    assert process.returncode == 0, err
    assert json.loads(out)["ended_by"] == "stop"
    assert all(json.loads(line) for line in jsonl.read_text().splitlines())
    assert json.loads(err.splitlines()[-1]).get("event") == "stopped"


def typed(*options):
    parser = argparse.ArgumentParser()
    configure(parser)
    return parser.parse_args(["bundle", *options])


def test_how_long_a_picture_may_stand_still_is_the_users_choice():
    assert read_rules(typed()).frozen_after_s == LiveRules().frozen_after_s == 10
    assert read_rules(typed("--frozen-after", "2.5")).frozen_after_s == 2.5
    assert read_rules(typed("--frozen-after", "0")).frozen_after_s is None


def test_a_score_belongs_to_a_rig_of_the_site(tmp_path):
    for options in (["--score", "0"], ["--max-skew", "0"]):
        with pytest.raises(DataError, match=f"{options[0]} belongs to a rig"):
            read_site(typed("--config", str(tmp_path / "site.yaml"), *options))
    assert read_site(typed("--rgb", "usb:0")).rigs["live"].score == 0.3
    assert read_site(typed("--rgb", "usb:0", "--score", "0")).rigs["live"].score == 0
