"""The main job on synthetic pairs: train in stages, evaluate, export, verify, run live, report."""

import json
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data.card import DatasetCard
from data.errors import DataError
from data.synthetic.dataset import write_dataset
from data.synthetic.video import write_video
from export.bench import measure
from export.bundle import read_bundle
from export.session import Session
from export.verify import LIMITS, Parity, replay
from pipelines.evaluate import Evaluation, evaluate
from pipelines.export_run import Request, export_run
from pipelines.recipe_file import dump_recipe, load_recipe
from pipelines.run_report import report_run
from pipelines.train import HISTORY, RECIPE, train


@dataclass(frozen=True)
class Journey:
    """What the demo of one task is made of."""

    recipe: str
    """Of both sensors; those of one have the same name and -rgb-only or -thermal-only."""
    pairs: Mapping[str, int]
    """Split → number of pairs."""
    setting: str = "default"
    """Of the synthetic pairs."""

    @property
    def recipes(self) -> dict[str, str]:
        """Row of the result → recipe."""
        return {
            "fused": self.recipe,
            "rgb_only": f"{self.recipe}-rgb-only",
            "thermal_only": f"{self.recipe}-thermal-only",
        }


_PAIRS = {"train": 200, "val": 40, "test": 96, "unlabelled": 60}
JOURNEYS = {
    "detect": Journey("demo", _PAIRS),
    "segment": Journey("demo-segment", _PAIRS),
    "classify": Journey("demo-classify", {"train": 400, "val": 80, "test": 240, "unlabelled": 60}, "road"),
}
"""Task → its demo."""
VIDEO_SECONDS = 6.0
_BENCH_SECONDS = 2.0


@dataclass(frozen=True)
class DemoResult:
    """What the demo measured and wrote."""

    evaluation: Evaluation
    """Of the fused model, with each sensor absent, and of the two single-sensor models."""
    parity: Parity
    """Between PyTorch and ONNX Runtime on the golden pairs."""
    live_fps: float
    """Pairs per second of the whole live pipeline."""
    model_fps: float
    """Pairs per second of the bare session."""
    report: Path
    bundle: Path
    video: Path
    seconds: float

    def as_json(self) -> dict[str, Any]:
        """The keys that a program reads: each figure as ``metric.row``, the task's main figure first.

        ``parity_max_abs`` is of scores, confidence or probabilities; beside it ``parity_boxes_px``, or of a class map
        ``parity_class_map_differs``, a share of the pixels.
        """
        rows = dict(zip(_ROWS, self.evaluation.rows, strict=True))
        figures = {name: value for name, value in self.parity.figures.items() if name in LIMITS}
        most = next(name for name in figures if name.endswith("_max_abs"))  # of scores, confidence or probabilities
        return {
            "task": self.evaluation.task,
            **{f"{name}.{row}": rows[row].metrics[name] for name in self.evaluation.metrics for row in _ROWS},
            "parity_max_abs": figures[most],
            **{f"parity_{_PARITY.get(name, name)}": value for name, value in figures.items() if name != most},
            "live_fps": self.live_fps, "model_fps": self.model_fps,
            "report": str(self.report), "bundle": str(self.bundle), "video": str(self.video),
            "seconds": self.seconds,
        }  # fmt: skip


_ROWS = ("fused", "fused_without_rgb", "fused_without_thermal", "rgb_only", "thermal_only")
_PARITY = {"boxes_max_abs_px": "boxes_px"}


def run_demo(out: Path, seed: int, changes: list[str], say: Callable[[str], None], task: str = "detect") -> DemoResult:
    """Do the main job of a task in the folder ``out``; what an earlier call finished there is kept.

    Raises:
        DataError: the folder holds a demo of another task, seed or size.
    """
    started = time.perf_counter()
    journey = JOURNEYS[task]
    card = DatasetCard.load(_synthesise(out, seed, task, journey, say))
    runs = {row: out / "runs" / row for row in journey.recipes}
    for row, name in journey.recipes.items():
        say(f"\n── train {name} → {runs[row]}")
        _train_once(name, card, runs[row], [f"seed={seed}", *changes], say)
    say("\n── evaluate on the test split, whose places and weather the training has not seen")
    evaluation = evaluate(runs["fused"], card, "test", examples=8)
    evaluation.rows += [evaluate(runs[row], card, "test").rows[0] for row in ("rgb_only", "thermal_only")]
    report = report_run(runs["fused"], evaluation)
    say("\n── export, and replay the golden pairs on ONNX Runtime")
    bundle = out / "bundle"
    export_run(Request(runs["fused"], bundle), say)
    session = Session(read_bundle(bundle))
    parity = replay(session)
    speed = measure(session, 1, _BENCH_SECONDS)
    session.close()
    say("\n── live on two recordings of different rates, out of step and out of place")
    live, video = _live(out, bundle)
    seconds = time.perf_counter() - started
    return DemoResult(
        evaluation, parity, live["pairs_per_s"], speed.pairs_per_s, report, bundle, video, seconds
    )  # fmt: skip


def _synthesise(out: Path, seed: int, task: str, journey: Journey, say: Callable[[str], None]) -> Path:
    """Write pairs and recording once; a note beside them says what they are."""
    note, wanted = out / "demo.json", json.dumps({"task": task, "seed": seed, "pairs": dict(journey.pairs)})
    if note.exists():
        if note.read_text() != wanted:
            raise DataError(
                f"{out}: holds a demo of other settings ({note.read_text()}); remove it, or name another --out"
            )
        say(f"── pairs and recording lie in {out} already")
        return out / "pairs" / "card.yaml"
    say(f"── synthetic pairs and a recording → {out}")
    card = write_dataset(out / "pairs", journey.pairs, seed, setting=journey.setting)
    write_video(out / "video", VIDEO_SECONDS, seed, setting=journey.setting)
    note.write_text(wanted)
    return card


def _train_once(name: str, card: DatasetCard, run: Path, changes: list[str], say: Callable[[str], None]) -> None:
    recipe = load_recipe(name, changes)
    if (run / HISTORY).exists() and (run / RECIPE).read_text() == dump_recipe(recipe):
        say("trained already")
        return
    train(recipe, name, card, run, resume=(run / RECIPE).exists())


def _live(out: Path, bundle: Path) -> tuple[dict[str, Any], Path]:
    """Run the live command as a user would, in a process of its own."""
    video, recording = out / "live.mkv", out / "video"
    command = [
        sys.executable, "-m", "pipelines.cli", "live", str(bundle), "--json",
        "--rgb", str(recording / "rgb.mp4"), "--thermal", str(recording / "thermal.mkv"),
        "--rig", str(recording / "rig.yaml"), "--save", str(video), "--jsonl", str(out / "live.jsonl"),
        "--csv", str(out / "live.csv"),
    ]  # fmt: skip
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        raise DataError(f"the live run failed with exit code {done.returncode}: {' '.join(command)}")
    return json.loads(done.stdout), video
