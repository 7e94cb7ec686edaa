"""The walls of the house: who may import whom, what stays free of torch, and what the first second costs."""

import ast
import importlib
import json
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipelines.cli import COMMANDS, _parser

HOME = Path(__file__).parent.parent
MAY_IMPORT = {
    "data": {"data"},
    "fusion": {"fusion"},
    "export": {"export", "fusion"},
    "pipelines": {"pipelines", "export", "fusion", "data"},
}
"""Room → the rooms that it may import."""

TORCH_FREE = [
    "data.card",
    "data.card_fields",
    "data.coco",
    "data.errors",
    "data.frame",
    "data.ids",
    "data.images",
    "data.labels.boxes",
    "data.labels.image_classes",
    "data.labels.masks",
    "data.pairs",
    "data.prepare",
    "data.rig",
    "data.sample",
    "data.synthetic.video",
    "data.text_file",
    "data.thermal",
    "data.yaml_file",
    "export.bench",
    "export.bundle",
    "export.bundle_info",
    "export.dense_form",
    "export.dense_spec",
    "export.engine_limits",
    "export.engines.litert",
    "export.engines.native_lines",
    "export.engines.ncnn",
    "export.engines.onnx_runtime",
    "export.engines.open_vino",
    "export.engines.open_vino_regions",
    "export.engines.tensor_rt",
    "export.engines.tensor_rt_build",
    "export.errors",
    "export.hashes",
    "export.session",
    "export.verify",
    "fusion.errors",
    "fusion.folder",
    "pipelines.bundle_bench",
    "pipelines.cli",
    "pipelines.doctor",
    "pipelines.engine_check",
    "pipelines.finding",
    "pipelines.live_bench",
    "pipelines.proof_table",
]
"""What runs on an edge device; all of pipelines.live and pipelines.commands comes on top."""

IMPORT_AND_TELL = """
import importlib, json, sys
for name in sys.argv[1:]:
    importlib.import_module(name)
print(json.dumps(sorted(sys.modules)))
"""

RUN_AND_TELL = """
import json, sys
from pipelines.cli import main
code = main(sys.argv[1:])
print(json.dumps([code, *sorted(sys.modules)]))
"""

HEAVY = ["numpy", "cv2", "av", "torch", "onnxruntime", "pydantic", "yaml"]

SOURCES = sorted(path for room in MAY_IMPORT for path in (HOME / room).rglob("*.py"))
MODULES = {".".join(path.relative_to(HOME).with_suffix("").parts).removesuffix(".__init__"): path for path in SOURCES}


def imports(path: Path) -> Iterator[str]:
    """Every module that a file imports, at its top, in a function or for types only."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield "." * node.level + (node.module or "")


def python(*arguments: str) -> str:
    """Run Python in the checkout and return what it prints."""
    done = subprocess.run([sys.executable, *arguments], cwd=HOME, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_all_rooms_are_looked_at():
    assert {path.relative_to(HOME).parts[0] for path in SOURCES} == set(MAY_IMPORT)
    assert set(imports(HOME / "export" / "write.py")) >= {"torch", "fusion.folder", "export.graph"}


@pytest.mark.parametrize("module", MODULES)
def test_arrows_go_one_way(module):
    allowed = MAY_IMPORT[module.partition(".")[0]]
    for imported in imports(MODULES[module]):
        room = imported.partition(".")[0]
        assert room not in MAY_IMPORT or room in allowed, f"{module} imports {imported}"
        assert imported not in MAY_IMPORT, f"{module} says 'import {imported}'; name the module and what it takes"
        assert room, f"{module} imports relatively; write the whole name"


@pytest.mark.parametrize("module", [name for name, path in MODULES.items() if path.name == "__init__.py"])
def test_packages_hold_only_a_docstring(module):
    body = ast.parse(MODULES[module].read_text(encoding="utf-8")).body
    assert len(body) == 1
    assert isinstance(body[0], ast.Expr)
    assert isinstance(body[0].value, ast.Constant)


@pytest.mark.parametrize("module", MODULES)
def test_no_variable_hides_a_room(module):
    for node in ast.walk(ast.parse(MODULES[module].read_text(encoding="utf-8"))):
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            assert node.id not in MAY_IMPORT, f"{module}:{node.lineno}"
        elif isinstance(node, ast.arg):
            assert node.arg not in MAY_IMPORT, f"{module}:{node.lineno}"


def test_albumentations_stays_behind_one_file():
    assert {name for name, path in MODULES.items() if "albumentations" in imports(path)} == {"data.augment.library"}


def test_edge_runtime_never_imports_torch():
    commands = ("pipelines.live.", "pipelines.commands.", "pipelines.data_commands.")
    modules = [*TORCH_FREE, *(name for name in MODULES if name.startswith(commands))]
    assert "pipelines.live.run" in modules
    assert "pipelines.commands.live" in modules
    loaded = set(json.loads(python("-c", IMPORT_AND_TELL, *modules)))
    assert loaded >= set(modules)
    assert not loaded & {"torch", "torchvision", "timm", "lightning", "albumentations", "onnx"}


@pytest.mark.parametrize("arguments", [["--help"], ["live", "--help"], ["bench", "--help"], ["train", "--help"]])
def test_help_imports_nothing_heavy(arguments):
    printed = python("-c", RUN_AND_TELL, *arguments)
    code, *loaded = json.loads(printed.splitlines()[-1])
    assert "usage: rgbt" in printed
    assert code == 0
    assert not set(loaded) & set(HEAVY)


@pytest.mark.parametrize(
    ("package", "advice"), [("torch", "pip install 'rgbt-fusion[train]'"), ("pydantic", "'rgbt doctor' says")]
)
def test_missing_package_is_one_line(package, advice):
    code = f"import sys; sys.modules['{package}'] = None; from pipelines.cli import main; sys.exit(main(sys.argv[1:]))"
    command = [sys.executable, "-c", code, "train", "demo", "--data", "card.yaml", "--out", "nowhere"]
    done = subprocess.run(command, cwd=HOME, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr.startswith("rgbt: error:")
    assert advice in done.stderr
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize("command", COMMANDS)
def test_examples_in_the_help_are_accepted(command):
    example = importlib.import_module(f"pipelines.commands.{command}").EXAMPLE.replace("\\\n", " ")
    lines = [line.strip() for line in example.splitlines() if line.strip().startswith(f"rgbt {command}")]
    assert lines
    for line in lines:
        words = shlex.split(line, comments=True)[1:]
        assert callable(_parser(words).parse_args(words).run), line


def test_no_paths_of_a_machine_are_committed():
    foreign = re.compile(r"/(?:home|root|Users|tmp|mnt)/\w|" + re.escape(str(HOME) + "/"))
    files = [path for pattern in ("*.md", "*.toml", "Makefile") for path in HOME.glob(pattern)]
    files += [path for room in ("tests", "deploy", ".ci") for path in (HOME / room).rglob("*") if path.is_file()]
    texts = {path: path.read_bytes().decode("utf-8", "ignore") for path in [*files, *SOURCES] if path.suffix != ".pyc"}
    assert HOME / "README.md" in texts
    assert not [f"{path}: {match}" for path, text in texts.items() for match in foreign.findall(text)]
