"""``rgbt bench``: how fast a bundle answers here, alone and live; how fast training steps and a card loads."""

import argparse
import json
import shlex
import sys
from pathlib import Path
from typing import Any

EXAMPLE = """examples:
  rgbt bench runs/demo/bundle
  rgbt bench runs/demo/bundle --batch 1 4 --threads 1 2 --seconds 10
  rgbt bench runs/demo/bundle --engine onnxruntime openvino --precision fp32 int8 --json
  rgbt bench runs/demo/bundle --provider cuda --cuda-graph --batch 1 8
  rgbt bench runs/demo/bundle --live --json
  rgbt bench --train --json
  rgbt bench --train --arch resnet18 --size 480 640 --batch 4 --steps 80
  rgbt bench --train --data card.yaml --recipe staged
  rgbt bench --data card.yaml --json

Of a bundle every engine and precision in it is timed (or those named), by batch and threads, every other run being the
engine's own call without ours around it; the metric is that of bundle.json, measured at export. What cannot be measured
here, such as a batch above a TensorRT plan's largest, has its own line, and the rest is measured all the same. Of an
engine that was named, and where nothing could be measured, it makes the exit code 1.

--live generates two 300-frame files (1280×720 H.264 and 640×512 16-bit FFV1 for a bundle that takes any size, else
of its own size and depth) and measures CPU time per pair: of the model alone (M), of decoding alone (D), and of the
whole live process (L). live_efficiency = (M + D) / L.

--train takes no bundle. It measures optimiser steps per second of rgbt train against a bare PyTorch loop over the same
model and the same batches in memory, in short alternating blocks: train_ratio is ours over bare. --data with --recipe
adds wait_share: the share of a real epoch of the recipe's last stage (at most --steps steps) spent waiting for data.

--data without --train measures the loader of a card: pairs per second of one core over bare OpenCV decoding of both
files (loader_ratio) without augmentation, with flip and affine, and with the recipe's augmentation (default: staged's);
what each transform costs; and how many workers feed 1000 pairs per second."""

_STEPS, _SIZE, _ARCH, _BATCH = 40, [256, 256], "mobilenetv4_conv_small", 8


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument("bundle", type=Path, nargs="?", help="the bundle's folder (not with --train)")
    parser.add_argument("--batch", type=int, nargs="+", help=f"batch sizes (default: 1; with --train one, {_BATCH})")
    parser.add_argument("--threads", type=int, nargs="+", help="CPU threads (default: all cores; of a bundle several)")
    parser.add_argument("--json", action="store_true", help="print the figures as JSON")
    bundle = parser.add_argument_group("of a bundle")
    bundle.add_argument("--seconds", type=float, default=5.0, help="time for each batch size (default: %(default)s)")
    bundle.add_argument("--engine", nargs="+", help="runtimes (default: those that the bundle has files for)")
    bundle.add_argument("--precision", nargs="+", help="fp32, fp16, bf16, int8 (default: those of the bundle)")
    bundle.add_argument("--provider", help="cpu, cuda, tensorrt, gpu, npu (default: cpu; of TensorRT cuda)")
    bundle.add_argument(
        "--cuda-graph",
        action="store_true",
        help="record the GPU's kernels once and replay them (engine onnxruntime; provider cuda or tensorrt)",
    )
    bundle.add_argument("--live", action="store_true", help="measure the live process against its parts too")
    train = parser.add_argument_group("of training")
    train.add_argument("--train", action="store_true", help="measure training instead of a bundle")
    train.add_argument("--steps", type=int, default=_STEPS, help="measured steps of each loop (default: %(default)s)")
    train.add_argument("--size", type=int, nargs=2, default=_SIZE, metavar=("H", "W"), help="canvas (default: 256 256)")
    train.add_argument("--arch", default=_ARCH, help="both encoders (default: %(default)s)")
    train.add_argument("--accelerator", default="auto", choices=("auto", "cpu", "cuda", "mps"))
    train.add_argument(
        "--data", type=Path, metavar="CARD", help="dataset card: its loader, or with --train the wait for it"
    )
    train.add_argument(
        "--recipe",
        metavar="NAME",
        help="recipe whose batch, workers and last stage are used; without --train its augmentation",
    )
    train.add_argument("--set", action="append", default=[], metavar="K=V", help="change a field of the recipe")
    train.add_argument("--pairs", type=int, help="pairs that each row of a loader is measured on (default: 120)")


def run(args: argparse.Namespace) -> int:
    """Measure and print; 2 where the arguments do not go together."""
    problem = _misuse(args)
    if problem:
        print(f"rgbt bench: error: {problem}", file=sys.stderr)
        return 2
    if args.train:
        return _run_train(args)
    return _run_loader(args) if args.data else _run_bundle(args)


def _misuse(args: argparse.Namespace) -> str | None:
    if args.cuda_graph and (args.train or args.data or args.live):
        return "--cuda-graph is for a bundle by itself: leave it out, or leave out --train, --data and --live"
    if args.data and not args.train:
        if args.bundle or args.live:
            return f"--data measures a card's loader, not a bundle: leave out '{args.bundle or '--live'}'"
        return None
    if args.pairs is not None:
        return "--pairs is for a card's loader; say --data CARD, without --train"
    if not args.train:
        for name in ("recipe", "set"):
            if getattr(args, name):
                return f"--{name} is for training, or for a card's loader; say --train, or --data CARD"
        return None if args.bundle else "name a bundle's folder, or say --train or --data CARD"
    if args.bundle or args.live:
        found = args.bundle or "--live"
        return f"--train measures training, not a bundle: leave out '{found}', or leave out --train"
    for name in ("batch", "threads"):
        if len(getattr(args, name) or [1]) > 1:
            return f"--train takes one --{name}, found {' '.join(map(str, getattr(args, name)))}"
    if (args.data is None) != (args.recipe is None):
        return "--data and --recipe go together: a card, and how its pictures are read"
    if args.set and args.recipe is None:
        return "--set changes a field of --recipe, which is missing"
    return None


def _run_train(args: argparse.Namespace) -> int:
    from pipelines.train_bench import measure_train
    from pipelines.wait_bench import measure_wait

    batch = (args.batch or [_BATCH])[0]
    machine = (args.threads or [None])[0], args.accelerator
    waits = measure_wait(args.data, args.recipe, args.steps, *machine, args.set) if args.data else {}
    figures = measure_train(args.arch, (args.size[0], args.size[1]), batch, args.steps, *machine)
    answer = {"command": _train_command(args, batch), **figures, **waits}
    print(json.dumps(answer, indent=2) if args.json else "\n".join(_train_table(answer)))
    return 0


def _run_loader(args: argparse.Namespace) -> int:
    from data.card import DatasetCard
    from pipelines.loader_bench import PAIRS, measure_loader
    from pipelines.recipe_file import load_recipe

    recipe = load_recipe(args.recipe or "staged", args.set)
    pairs = PAIRS if args.pairs is None else args.pairs
    card = DatasetCard.load(args.data)
    kind = recipe.model.head.kind if args.recipe else None
    words = ["rgbt", "bench", "--data", str(args.data), *(["--recipe", args.recipe] if args.recipe else [])]
    words += [*(word for change in args.set for word in ("--set", change)), "--pairs", str(pairs)]
    name = args.recipe or "default recipe"
    answer = {"command": shlex.join(words), **measure_loader(card, recipe.augment, name, kind, pairs)}
    print(json.dumps(answer, indent=2, ensure_ascii=False) if args.json else "\n".join(_loader_table(answer)))
    return 0


def _loader_table(answer: dict[str, Any]) -> list[str]:
    size = ", ".join(f"{name} {height}×{width}" for name, (height, width) in answer["size"].items())
    lines = [
        f"$ {answer['command']}",
        ", ".join(f"{name} {value}" for name, value in answer["machine"].items()),
        f"{answer['card']}: {size}, files {' '.join(answer['files'].values())}; CPU time of one core",
        "",
        f"{'':<18}{'loader_ratio':>13}{'pairs/s':>9}{'bare':>9}{'ms/pair':>9}{'augment ms':>12}"
        f"{'workers for 1000/s':>20}",
    ]
    for row in answer["rows"]:
        lines.append(
            f"{row['row']:<18}{row['loader_ratio']:>13.3f}{row['pairs_per_s']:>9.1f}{row['bare_pairs_per_s']:>9.1f}"
            f"{row['ms_per_pair']:>9.2f}{row['augment_ms']:>12.2f}{row['workers_for_1000_pairs_per_s']:>20}"
        )
    lines += ["", f"{'transform, alone':<30}{'ms':>6}"]
    return lines + [f"{name:<30}{value:>6.2f}" for name, value in answer["transforms_ms"].items()]


def _train_command(args: argparse.Namespace, batch: int) -> str:
    words = ["rgbt", "bench", "--train", "--arch", args.arch, "--size", *map(str, args.size), "--batch", str(batch)]
    words += ["--steps", str(args.steps), *(["--threads", str(args.threads[0])] if args.threads else [])]
    words += [] if args.accelerator == "auto" else ["--accelerator", args.accelerator]
    words += ["--data", str(args.data), "--recipe", args.recipe] if args.data else []
    return shlex.join([*words, *(word for change in args.set for word in ("--set", change))])


def _train_table(answer: dict[str, Any]) -> list[str]:
    """One line for each figure."""
    width = max(map(len, answer)) + 2
    lines = [f"$ {answer['command']}"]
    for name, value in answer.items():
        if isinstance(value, dict):
            value = ", ".join(f"{key} {part}" for key, part in value.items())
        elif isinstance(value, list):
            value = " … ".join(map(str, value))
        lines += [] if name == "command" else [f"{name:<{width}}{value}"]
    return lines


def _run_bundle(args: argparse.Namespace) -> int:
    from export.bundle import read_bundle
    from pipelines.bundle_bench import Matrix, measure_bundle, table

    bundle = read_bundle(args.bundle)
    threads = args.threads or [None]
    batches = args.batch or [1]
    matrix = Matrix(args.engine, args.precision, args.provider, batches, threads, args.seconds, args.cuda_graph)
    answer: dict[str, Any] = {"command": _command(args), **measure_bundle(bundle, matrix)}
    live = _live(args, answer) if args.live else {}
    print(json.dumps({**answer, **live}, indent=2) if args.json else "\n".join(table(answer, live)))
    for name in answer["failed"]:
        print(f"rgbt: error: {name} was not measured: {answer['missing'][name]}", file=sys.stderr)
    return 1 if answer["failed"] else 0


def _live(args: argparse.Namespace, answer: dict[str, Any]) -> dict[str, Any]:
    """Figures of the live process; where there are none the answer says why, beside what was measured before."""
    from data.errors import DataError
    from export.errors import ExportError
    from pipelines.live_bench import measure_live

    engine, threads = (args.engine or ["onnxruntime"])[0], (args.threads or [None])[0]
    try:
        return measure_live(args.bundle, engine, args.provider, threads)
    except (DataError, ExportError) as error:
        answer["missing"]["live"] = str(error)
        answer["failed"].append("live")
        return {}


def _command(args: argparse.Namespace) -> str:
    """The words that measure the same again."""
    words = [
        "rgbt",
        "bench",
        str(args.bundle),
        "--batch",
        *map(str, args.batch or [1]),
        "--seconds",
        f"{args.seconds:g}",
    ]
    for name in ("engine", "precision", "threads"):
        given = getattr(args, name)
        words += [f"--{name}", *map(str, given)] if given else []
    words += ["--provider", args.provider] if args.provider else []
    words += [f"--{name.replace('_', '-')}" for name in ("cuda_graph", "live") if getattr(args, name)]
    return shlex.join(words)
