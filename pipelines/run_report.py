"""What an evaluation leaves in its run: evaluation.json and report.html."""

import json
import platform
import sys
from importlib.metadata import version
from pathlib import Path

from data.yaml_file import atomic
from export.bench import cores
from pipelines.evaluate import Evaluation
from pipelines.report.page import write_run_report
from pipelines.train import read_run, stage_table

EVALUATION, REPORT, PICTURES = "evaluation.json", "report.html", "pictures"


def report_run(run: Path, evaluation: Evaluation | None) -> Path:
    """Write report.html into ``run``, and evaluation.json where it was measured; return the report's path."""
    recipe, info, history = read_run(run)
    measured = "not measured yet: rgbt evaluate"
    if evaluation is not None:
        measured = f"{evaluation.split} split, {evaluation.pairs} pairs"
        with atomic(run / EVALUATION, "w") as file:
            rows = [{"name": r.name, "sensors": r.sensors, "ap50": r.ap50, "map": r.map} for r in evaluation.rows]
            json.dump({"split": evaluation.split, "pairs": evaluation.pairs, "rows": rows}, file)
    facts = {
        "recipe": f"{info.recipe_name} ({info.recipe_sha256[:12]})",
        "data": f"{info.card}, {measured}",
        "seed": str(recipe.seed),
        "machine": f"{platform.machine()}, {cores()} processor cores, {platform.system()}",
        "versions": f"Python {platform.python_version()}, torch {version('torch')}, timm {version('timm')}",
        "command": " ".join(["rgbt", *sys.argv[1:]]),
    }
    stages, _ = stage_table(recipe)
    return write_run_report(run / REPORT, run.name, history, recipe, evaluation, facts, stages, run / PICTURES)
