"""What an evaluation leaves: evaluation.json and report.html in its run, or a page anywhere."""

import json
import platform
import shlex
import sys
from importlib.metadata import version
from pathlib import Path

from data.yaml_file import atomic
from export.cores import cores
from pipelines.evaluation import Evaluation
from pipelines.report.page import write_evaluation, write_run_report
from pipelines.train import read_run, stage_table

EVALUATION, REPORT, PICTURES = "evaluation.json", "report.html", "pictures"


def report_run(run: Path, evaluation: Evaluation | None) -> Path:
    """Write report.html into ``run``, and evaluation.json where it was measured; return the report's path."""
    recipe, info, history = read_run(run)
    measured = "not measured yet: rgbt evaluate"
    if evaluation is not None:
        measured = _measured(evaluation)
        with atomic(run / EVALUATION, "w") as file:
            json.dump(_figures(evaluation), file)
    facts = {
        "recipe": f"{info.recipe_name} ({info.recipe_sha256[:12]})",
        "data": f"{info.card}, {measured}",
        "seed": str(recipe.seed),
        **_here(),
    }
    stages, _ = stage_table(recipe)
    return write_run_report(run / REPORT, run.name, history, recipe, evaluation, facts, stages, run / PICTURES)


def report_evaluation(subject: Path, evaluation: Evaluation, out: Path) -> Path:
    """Write what was measured of a run or a bundle as a page of its own; return ``out``."""
    about = f"What a model trained to {evaluation.task} answers on the {evaluation.split} split."
    facts = {"model": str(subject), "data": f"{evaluation.card}, {_measured(evaluation)}", **_here()}
    out.parent.mkdir(parents=True, exist_ok=True)
    return write_evaluation(out, subject.name, about, evaluation, facts)


def _measured(evaluation: Evaluation) -> str:
    return f"{evaluation.split} split, {evaluation.pairs} pairs"


def _figures(evaluation: Evaluation) -> dict[str, object]:
    """What goes with the run, and into a bundle that is made of it: figures, no curves and matrices."""
    told = evaluation.as_json()
    rows = [{name: row[name] for name in ("name", "sensors", "kind", *told["metrics"])} for row in told["rows"]]
    kept = ("task", "split", "pairs", "metrics")
    return {name: told[name] for name in kept} | {"rows": rows}


def _here() -> dict[str, str]:
    return {
        "machine": f"{platform.machine()}, {cores()} processor cores, {platform.system()}",
        "versions": f"Python {platform.python_version()}, torch {version('torch')}, timm {version('timm')}",
        "command": shlex.join(["rgbt", *sys.argv[1:]]),
    }
