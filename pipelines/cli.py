"""The command line: ``rgbt COMMAND …``; imports nothing heavy until a command runs."""

import argparse
import errno
import importlib
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from data.errors import DataError
from export.errors import ExportError
from fusion.errors import FusionError

COMMANDS = {
    "demo": "synthetic pairs → all stages → export → verify → live, with a report",
    "data": "write, check, show and generate paired data sets",
    "recipe": "list the training recipes, and show one as a table of stages",
    "train": "train in stages",
    "evaluate": "measure a run or a bundle on a data set",
    "compare": "which recipe is best on a data set: recipes × seeds, with confidence intervals",
    "export": "turn a run into a bundle: the ONNX graph, its description and its proof",
    "verify": "replay a bundle's golden pairs",
    "bench": "measure the speed of a bundle, of the live pipeline, of training or of loading",
    "live": "run a bundle on two streams",
    "doctor": "say what this machine can do, and what is wrong with it",
}
"""Sub-command → its line in the help. Each is a module of pipelines.commands with configure() and run()."""

ROOMS = ("data", "export", "fusion", "pipelines")
EDGE_MODULES = ("numpy", "cv2", "av", "pydantic", "yaml", "packaging", "onnxruntime")
"""What the plain install brings; any other missing package belongs to training."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; return its exit code: 0 done, 1 it failed, 2 wrong usage, 130 interrupted."""
    # OpenMP's threads spin while they wait: beside one busy process on two cores a training step took 12 × as long,
    # with a short spin 2.5 ×, and alone 1.1 × (2026-11-21). Read when torch is loaded, so it is set before that.
    os.environ.setdefault("GOMP_SPINCOUNT", "1000")
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # also where ONNX Runtime is used to quantise or to look
    arguments = list(sys.argv[1:] if argv is None else argv)
    hidden = _hidden_room()
    if hidden:
        print(f"rgbt: error: {hidden}", file=sys.stderr)
        return 1
    try:
        args = _parser(arguments).parse_args(arguments)
        return int(args.run(args))
    except SystemExit as stop:  # argparse: 0 after --help, 2 after wrong usage
        return int(stop.code or 0)
    except (DataError, ExportError, FusionError) as error:
        print(f"rgbt: error: {error}", file=sys.stderr)
        return 1
    except ImportError as error:
        print(f"rgbt: error: {_import_error(error)}", file=sys.stderr)
        return 1
    except BrokenPipeError:
        sys.stderr.close()
        return 1
    except OSError as error:
        print(f"rgbt: error: {_os_error(error)}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("rgbt: interrupted", file=sys.stderr)
        return 130


def _parser(arguments: Sequence[str]) -> argparse.ArgumentParser:
    """Build the parser; only the module of the command that was typed is imported."""
    parser = argparse.ArgumentParser(
        prog="rgbt", description="Train, export and run models that see with an RGB and a thermal camera at once."
    )
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    typed = next((word for word in arguments if not word.startswith("-")), None)
    for name, line in COMMANDS.items():
        command = commands.add_parser(
            name,
            help=line,
            description=line[0].upper() + line[1:] + ".",
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        if name == typed:
            module = importlib.import_module(f"pipelines.commands.{name}")
            command.epilog = module.EXAMPLE
            module.configure(command)
            if hasattr(module, "run"):  # else its actions bring their own
                command.set_defaults(run=module.run)
    return parser


def _hidden_room() -> str | None:
    """Name a package of somebody else's that hides one of ours: the names data, export, fusion are generic."""
    home = Path(__file__).resolve().parent.parent
    for room in ROOMS:
        found = importlib.import_module(room).__file__
        if found is None or Path(found).resolve().parent.parent != home:
            return f"the package '{room}' at {found} hides ours; install rgbt-fusion in an environment of its own"
    return None


def _import_error(error: ImportError) -> str:
    """Say what to install; one of our own modules that is not there is a fault of ours, and is raised again."""
    package = (error.name or "").partition(".")[0]
    if package in ROOMS:
        raise error
    if isinstance(error, ModuleNotFoundError) and package not in EDGE_MODULES:
        return f"this needs the package '{package}', which the edge runtime lacks; pip install 'rgbt-fusion[train]'"
    return f"{error}; 'rgbt doctor' says what to install"


def _os_error(error: OSError) -> str:
    where = f"{error.filename}: " if error.filename else ""
    if error.errno == errno.ENOSPC:
        return f"{where}no space left on the disk; nothing was half-written there"
    return f"{where}{error.strerror or error}"


if __name__ == "__main__":
    sys.exit(main())
