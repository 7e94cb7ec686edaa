"""A signal before the first frame: while the model is being loaded."""

import json
import signal
import subprocess
import sys
import textwrap
import threading

import pytest

from pipelines.live import service
from pipelines.live.report import never_begun

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
