"""A run of ``rgbt live`` from what was typed to its exit code: load, answer, tell; a signal may come at any time."""

import argparse
import atexit
import gc
import json
import os
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, wait
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from time import monotonic
from typing import Any

import cv2

from data.prepare import InputSpec
from export.bundle import read_bundle
from export.session import Session
from pipelines.live.arguments import read_rules, read_settings, read_site
from pipelines.live.assembly import Assembled, Page, Setting, assemble, serve_page
from pipelines.live.cameras import run_cameras
from pipelines.live.idle import refuse_idle_for
from pipelines.live.log import Log
from pipelines.live.lossy import LossyWriter
from pipelines.live.notify import Notifier
from pipelines.live.operation import Operation
from pipelines.live.report import LiveReport, never_begun
from pipelines.live.run import run_live
from pipelines.live.site import Site
from pipelines.live.status import StatusLine
from pipelines.live.usage import UsageError

FAILED, GAVE_UP = 1, 3
_RELEASED_WITHIN_S = 1.2
"""That rigs which were opened have to close, all at once; what hangs is left behind."""
_LOADED_WITHIN_S = 3.0
"""That a signal waits for what is being loaded; it is left behind where that takes longer."""


def serve(args: argparse.Namespace, stop: threading.Event) -> int:
    """Load and run until the sources end, the limit is reached or ``stop`` is set; return the exit code.

    Raises:
        UsageError: what was typed makes no sense.
        DataError: something cannot be read, opened or written.
    """
    # Python would take a hundred thousand objects apart at its end, for 40 ms of CPU; the system frees them at once.
    atexit.register(gc.freeze)
    # Workers of OpenCV's pool spin while they wait; the pictures here are small, and other cores decode.
    cv2.setNumThreads(1)
    site = read_site(args)
    setting = _setting(args, site, stop)
    loaded = _Loaded()
    try:
        is_whole = until_stopped(lambda: loaded.load(args, site, setting), stop)
        if stop.is_set():
            return _end_early(args, site, loaded, is_whole)
    except BaseException:
        loaded.close()
        raise
    assert loaded.session is not None
    try:
        reports = _answer(loaded, loaded.session, setting, args.log is None)
    finally:
        if loaded.page is not None:
            loaded.page.stop(1.0)
    _tell(args, site, reports, loaded.session.provider, {one.camera_rig.name: one.videos for one in loaded.opened})
    loaded.session.close()
    return _exit_code(reports)


def _exit_code(reports: Mapping[str, LiveReport]) -> int:
    """A rig that failed among others counts as an error, however well these went."""
    if any(report.failure is not None for report in reports.values()):
        return FAILED
    return GAVE_UP if any(report.given_up for report in reports.values()) else 0


def _setting(args: argparse.Namespace, site: Site, stop: threading.Event) -> Setting:
    settings, rules = read_settings(args), read_rules(args)
    assert site.bundle is not None
    bundle = read_bundle(site.bundle)
    refuse_idle_for(bundle.info.task, site.rigs, args.config)
    used = bundle.info.sensors
    return Setting(
        bundle=bundle,
        inputs=InputSpec.model_validate(bundle.info.inputs.model_dump()),
        rules=rules,
        stop=stop,
        log=Log(sys.stderr if args.log else None, args.log or "json"),
        fps=args.fps,
        show=args.show,
        settings=replace(settings, required=used if len(used) == 1 else ()),
    )


@dataclass
class _Loaded:
    """What a run needs, as far as it is there."""

    opened: list[Assembled] = field(default_factory=list)
    session: Session | None = None
    page: Page | None = None

    def load(self, args: argparse.Namespace, site: Site, setting: Setting) -> None:
        """Open sources and sinks, load the model, serve the page; comes back early where a signal came."""
        for name, options in site.rigs.items():
            if not setting.stop.is_set():
                self.opened.append(assemble(name, options, setting))
            if len(site.rigs) > 1 and not all(one.is_live for one in self.opened):
                raise UsageError(f"--config: the rig {name} is a recording; several rigs are for cameras")
        if not setting.stop.is_set():
            self.session = Session(setting.bundle, args.engine, args.provider, args.threads, args.precision)
            for size in (1, 2, 4, 8):
                if size <= self.batch and not setting.stop.is_set():
                    self.session.warm_up(size)
        if site.serve is not None and not setting.stop.is_set():
            states = {one.camera_rig.name: one.camera_rig.state for one in self.opened}
            self.page = serve_page(site.serve, states, setting, args.token, args.allow_host)
            LossyWriter(sys.stderr).write(f"rgbt: {self.page.announcement}\n")
            setting.log.say("serving", url=self.page.url)

    @property
    def batch(self) -> int:
        """Pairs that are answered at once at most."""
        return 1 if self.session is None or self.session.variant.form == "dense" else len(self.opened)

    def close(self) -> None:
        """Release what a run that does not begin would have closed."""
        closes = [one.close for one in self.opened]
        if self.page is not None:
            closes.append(partial(self.page.stop, 1.0))
        threads = [threading.Thread(target=close, name="release", daemon=True) for close in closes]
        for thread in threads:
            thread.start()
        ends_at = monotonic() + _RELEASED_WITHIN_S
        for thread in threads:
            thread.join(max(0.0, ends_at - monotonic()))
        if self.session is not None:
            self.session.close()


def until_stopped(load: Callable[[], None], stop: threading.Event) -> bool:
    """Load on a thread of its own, as an engine may take minutes without listening to signals; False when left behind.

    Raises:
        BaseException: what ``load`` raised.
    """
    done: Future[None] = Future()

    def work() -> None:
        try:
            load()
        except BaseException as error:  # noqa: BLE001 - raised again in the main thread
            done.set_exception(error)
        else:
            done.set_result(None)

    threading.Thread(target=work, name="loading", daemon=True).start()
    while not stop.is_set():
        if wait([done], 0.1).done:
            break
    if not wait([done], _LOADED_WITHIN_S).done:
        return False
    done.result()
    return True


def _end_early(args: argparse.Namespace, site: Site, loaded: _Loaded, is_whole: bool) -> int:
    """A signal came before the first frame: nothing was written, and nothing is."""
    loaded.close()
    _tell(args, site, dict.fromkeys(site.rigs, never_begun()), None, {})
    if not is_whole:  # a thread runs an engine's code, which cannot be ended otherwise
        sys.stdout.flush()
        os._exit(0)
    return 0


def _answer(loaded: _Loaded, session: Session, setting: Setting, with_line: bool) -> dict[str, LiveReport]:
    operation = Operation(StatusLine(sys.stderr if with_line else None), setting.log, Notifier())
    rigs = [one.camera_rig for one in loaded.opened]
    if loaded.opened[0].is_live:
        return run_cameras(session, setting.inputs, rigs, stop=setting.stop, operation=operation, batch=loaded.batch)
    rig = rigs[0]
    report = run_live(
        session, setting.inputs, rig.sources, rig.rig, rig.sinks, rig.settings,
        stop=setting.stop, state=rig.state, operation=operation,
    )  # fmt: skip
    return {rig.name: report}


def _tell(
    args: argparse.Namespace,
    site: Site,
    reports: Mapping[str, LiveReport],
    provider: str | None,
    videos: Mapping[str, Sequence[Path]],
) -> None:
    told: dict[str, Any] = {}
    for name, report in reports.items():
        options = site.rigs[name]
        nothing = {kind for kind, sink in report.sinks.items() if sink["errors"] and not sink["delivered"]}
        has_begun = provider is not None
        written = {
            kind: str(path) if path is not None and has_begun and kind not in nothing else None
            for kind, path in (("jsonl", options.jsonl), ("csv", options.csv))
        }
        parts = [str(path) for path in videos.get(name, ())]
        written["video"] = parts[0] if parts else None  # no answer, no picture
        told[name] = {**report.as_dict(), "engine": args.engine, "provider": provider, **written}
        if not args.json:
            of = f"{name}: " if len(reports) > 1 else ""
            lines = report.lines(provider)
            lines += [f"wrote {path}" for path in [written["jsonl"], written["csv"], *parts] if path is not None]
            print("\n".join(of + line for line in lines))
            LossyWriter(sys.stderr).write("".join(f"rgbt: warning: {of}{line}\n" for line in report.warnings()))
    if args.json:
        print(json.dumps(told if args.config is not None else told["live"], indent=2))
