"""``rgbt train``: a recipe on a card, stage by stage."""

import argparse
import shlex
import sys
from pathlib import Path

EXAMPLE = """examples:
  rgbt train staged --data card.yaml --out runs/first
  rgbt train staged --data card.yaml --out runs/first --resume
  rgbt train staged --data card.yaml --out runs/night --set model.blend.anchor=thermal --set model.size=[256,256]
  rgbt train staged --data card.yaml --out runs/small --set model.encoders=edge   # or base, large
  rgbt train staged --data card.yaml --out runs/four --devices 4 --precision bf16-mixed --logger csv mlflow
  torchrun --nnodes 2 --nproc-per-node 4 -m pipelines.cli train staged --data card.yaml --out runs/eight
"""
DEFAULT_LOGGERS = ["csv", "tensorboard"]


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument("recipe", help="name of a shipped recipe (rgbt recipe list), or a YAML file")
    parser.add_argument("--data", required=True, type=Path, metavar="CARD", help="dataset card (rgbt data init)")
    parser.add_argument("--out", required=True, type=Path, metavar="RUN", help="folder of the run")
    parser.add_argument("--set", action="append", default=[], metavar="K=V", help="change a field of the recipe")
    parser.add_argument("--resume", action="store_true", help="go on from the newest checkpoint in RUN")
    parser.add_argument("--accelerator", default="auto", choices=("auto", "cpu", "cuda", "mps"))
    parser.add_argument("--precision", default="32-true", choices=("32-true", "bf16-mixed", "16-mixed"))
    parser.add_argument(
        "--devices", type=int, metavar="N", help="devices on each node (default: what torchrun or SLURM started, or 1)"
    )
    parser.add_argument(
        "--nodes",
        type=int,
        metavar="M",
        help="nodes (default: those of torchrun or SLURM, or 1); RUN must lie on a disk that all of them see",
    )
    parser.add_argument(
        "--logger",
        nargs="+",
        default=DEFAULT_LOGGERS,
        metavar="NAME",
        help="where the curves go: csv, tensorboard, mlflow, wandb, or none (default: csv tensorboard)",
    )


def run(args: argparse.Namespace) -> int:
    """Train, then say where the run lies and what comes next."""
    from data.card import DatasetCard
    from fusion.errors import Stopped
    from pipelines.launch import find_processes
    from pipelines.recipe_file import load_recipe
    from pipelines.stopping import StopSignal
    from pipelines.train import train

    processes = find_processes(args.devices, args.nodes)
    leads = processes.leads
    recipe = load_recipe(args.recipe, args.set)
    card = DatasetCard.load(args.data)
    with StopSignal(talks=leads) as stop:
        try:
            train(
                recipe, Path(args.recipe).stem, card, args.out, args.resume, args.accelerator, args.precision,
                args.devices, args.nodes, args.logger, stop,
            )  # fmt: skip
        except Stopped as moment:
            # A process that another one started must not end as if it had failed.
            what, code = f"stopped and saved ({moment})", stop.exit_code if leads else 0
        except KeyboardInterrupt:
            what, code = "interrupted; no finished epoch is lost", 130
        else:
            return _report(args) if leads else 0
    if leads:
        by = f", by {processes.launcher} as before," if processes.launcher else ""
        print(f"\nrgbt: {what}; go on{by} with: {_again(args)}", file=sys.stderr)
    return code


def _report(args: argparse.Namespace) -> int:
    from pipelines.run_report import report_run

    report = report_run(args.out, None)
    print(f"run    {args.out}\nreport {report}\nnext: rgbt evaluate {args.out} --data {args.data}")
    return 0


def _again(args: argparse.Namespace) -> str:
    """The command that goes on with this run."""
    words = ["rgbt", "train", args.recipe, "--data", str(args.data), "--out", str(args.out)]
    for change in args.set:
        words += ["--set", change]
    for name, usual in (("accelerator", "auto"), ("precision", "32-true"), ("devices", None), ("nodes", None)):
        if getattr(args, name) != usual:
            words += [f"--{name}", str(getattr(args, name))]
    if args.logger != DEFAULT_LOGGERS:
        words += ["--logger", *args.logger]
    return shlex.join([*words, "--resume"])
