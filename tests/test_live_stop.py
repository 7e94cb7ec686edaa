"""A signal before the first frame: while the model is being loaded."""

import argparse
import json
import signal
import subprocess
import sys
import textwrap
import threading
from dataclasses import replace
from pathlib import Path

import pytest

from pipelines.live import service
from pipelines.live.report import never_begun
from pipelines.live.site import RigOptions, Site

S = 60.0


@pytest.mark.parametrize(("number", "seconds"), [(signal.SIGTERM, 600), (signal.SIGINT, 1)])
def test_a_signal_while_the_model_loads_ends_the_run_in_order(tiny_bundle, tmp_path, number, seconds):
    """Loading is a sleep that no signal interrupts: of minutes, as an engine that is built, or of a second."""
    jsonl, video = tmp_path / "out.jsonl", tmp_path / "out.mkv"
    jsonl.write_text("the answers of yesterday\n")
    options = ["--rgb", "synthetic:", "--jsonl", str(jsonl), "--save", str(video), "--json"]
    script = f"""
        import sys, time
        import export.session
        from pipelines.cli import main

        class Slow(export.session.Session):
            def __init__(self, *arguments):
                print("loading", file=sys.stderr, flush=True)
                time.sleep({seconds})
                super().__init__(*arguments)

        export.session.Session = Slow
        sys.exit(main({["live", str(tiny_bundle), *options]!r}))
    """
    command = [sys.executable, "-c", textwrap.dedent(script)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr.readline() == "loading\n"
        process.send_signal(number)
        out, err = process.communicate(timeout=S)
    assert (process.returncode, err) == (0, "")
    report = json.loads(out)
    assert (report["ended_by"], report["answers"], report["jsonl"], report["video"]) == ("stop", 0, None, None)
    assert jsonl.read_text() == "the answers of yesterday\n" and not video.exists()


def test_what_cannot_be_loaded_is_raised_where_it_was_asked_for(monkeypatch):
    def fail():
        raise ValueError("no model")

    stop, held = threading.Event(), threading.Event()
    with pytest.raises(ValueError, match="no model"):
        service.until_stopped(fail, stop)
    assert service.until_stopped(lambda: None, stop)
    stop.set()
    assert service.until_stopped(lambda: None, stop)
    with pytest.raises(ValueError, match="no model"):  # it is told though a signal came meanwhile
        service.until_stopped(fail, stop)
    monkeypatch.setattr(service, "_LOADED_WITHIN_S", 0.01)
    assert not service.until_stopped(held.wait, stop)
    held.set()


def test_people_are_told_that_nothing_was_begun():
    assert never_begun().lines(None) == ["stopped before the first frame"]


def test_rigs_that_were_opened_are_closed_all_at_once(monkeypatch):
    closing = threading.Barrier(3)

    class Opened:
        def close(self):
            closing.wait(S)

    monkeypatch.setattr(service, "_RELEASED_WITHIN_S", S)
    service._Loaded([Opened() for _ in range(3)]).close()  # one after another they would wait for ever
    assert not closing.broken


def test_what_hangs_while_it_is_closed_is_left_behind(monkeypatch):
    held = threading.Event()

    class Opened:
        def close(self):
            held.wait(S)

    monkeypatch.setattr(service, "_RELEASED_WITHIN_S", 0.01)
    service._Loaded([Opened()]).close()
    assert not held.is_set()
    held.set()


def test_a_rig_that_failed_among_others_is_an_error_and_each_line_has_its_name(capsys):
    report = never_begun()
    reports = {"gate": replace(report, failure="no camera", ended_by="failure"), "yard": report}
    assert service._exit_code(reports) == 1
    assert service._exit_code({"yard": replace(report, given_up=("rgb",))}) == 3
    assert service._exit_code({"yard": report}) == 0
    args = argparse.Namespace(engine="onnxruntime", json=False, config="site.yaml")
    site = Site(bundle=None, rigs=dict.fromkeys(reports, RigOptions(rgb="usb:0", jsonl="out.jsonl")))
    service._tell(args, site, reports, "cpu", {"yard": [Path("out.2.mkv")]})
    told = capsys.readouterr()
    assert [line.split()[0] for line in told.out.splitlines()] == ["gate:", "gate:", "yard:", "yard:", "yard:"]
    assert told.out.endswith("yard: wrote out.2.mkv\n")
    assert told.err == "rgbt: warning: gate: no camera\n"
