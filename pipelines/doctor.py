"""What this machine can do, and what is wrong with it; torch is looked at only where it is installed."""

import importlib
import platform
import shutil
import subprocess
from collections.abc import Callable, Iterator
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path

from packaging.requirements import Requirement
from packaging.version import Version

from pipelines.engine_check import engines_run
from pipelines.finding import Finding, Level
from pipelines.live.windows import window_system

RUNTIMES = ("onnxruntime", "onnxruntime-gpu", "onnxruntime-directml", "onnxruntime-openvino")
OPENCVS = ("opencv-python", "opencv-python-headless", "opencv-contrib-python", "opencv-contrib-python-headless")
CODECS = {"h264": "r", "ffv1": "r", "libx264": "w"}
"""Codec → r: it must decode, w: it must encode."""
_PATIENCE_S = 20.0
"""How long nvidia-smi may take; beside a driver that hangs it never returns."""


def examine() -> list[Finding]:
    """Look at everything; a check that finds nothing to look at adds nothing."""
    return [finding for check in CHECKS for finding in check()]


def works(findings: list[Finding]) -> bool:
    """Whether the edge runtime works here."""
    return not any(finding.level == "problem" for finding in findings)


def _python() -> Iterator[Finding]:
    found = f"{platform.python_version()} on {platform.system()} {platform.machine()}"
    fits = tuple(map(int, platform.python_version_tuple()[:2])) >= (3, 11)
    yield Finding("python", "ok" if fits else "problem", found, "" if fits else "install Python 3.11 or newer")
    if platform.system() == "Windows":
        yield Finding("platform", "note", "Windows is untested", "use Linux, or tell us what breaks")


def _packages() -> Iterator[Finding]:
    try:
        requirements = [Requirement(line) for line in requires("rgbt-fusion") or ()]
    except PackageNotFoundError:
        yield Finding("rgbt-fusion", "problem", "not installed here", "pip install . in its folder")
        return
    edge = [requirement for requirement in requirements if _wanted(requirement, "")]
    yield from _sorted_out("packages", edge, "problem", "pip install rgbt-fusion")
    if _version("torch"):
        train = [
            requirement for requirement in requirements if _wanted(requirement, "train") and requirement not in edge
        ]
        yield from _sorted_out("training", train, "note", "pip install 'rgbt-fusion[train]'")
    else:
        yield Finding(
            "training", "note", "torch is not installed: edge runtime only", "pip install 'rgbt-fusion[train]'"
        )


def _wanted(requirement: Requirement, extra: str) -> bool:
    return requirement.marker is None or requirement.marker.evaluate({"extra": extra})


def _sorted_out(name: str, requirements: list[Requirement], level: Level, advice: str) -> Iterator[Finding]:
    """One line for what fits, and one for each package that does not."""
    fitting = {}
    for requirement in requirements:
        found = _version(requirement.name)
        if found is None:
            yield Finding(requirement.name, level, f"missing, needs {requirement.specifier}", advice)
        elif not requirement.specifier.contains(found, prereleases=True):
            command = f"pip install '{requirement.name}{requirement.specifier}'"
            yield Finding(requirement.name, level, f"{found}, needs {requirement.specifier}", command)
        else:
            fitting[requirement.name] = found
    yield Finding(name, "ok", ", ".join(f"{package} {number}" for package, number in fitting.items()))


def _one_runtime() -> Iterator[Finding]:
    found = [name for name in RUNTIMES if _version(name)]
    if len(found) > 1:
        keep = "onnxruntime-gpu" if "onnxruntime-gpu" in found else found[0]
        command = f"pip uninstall -y {' '.join(found)} && pip install {keep}"
        yield Finding("onnx runtimes", "problem", f"{' and '.join(found)} overwrite each other", command)


def _opencv() -> Iterator[Finding]:
    twins = {name: found for name in OPENCVS if (found := _version(name))}
    if len(set(twins.values())) > 1:
        found = ", ".join(f"{name} {number}" for name, number in twins.items())
        newest = max(twins.values(), key=Version)
        command = "pip install --force-reinstall --no-deps " + " ".join(f"{name}=={newest}" for name in twins)
        yield Finding("opencv twins", "problem", f"{found} share one module and differ", command)
    try:
        cv2 = importlib.import_module("cv2")
    except ImportError as error:
        advice = "apt-get install libgl1 libglib2.0-0" if ".so" in str(error) else "pip install opencv-python"
        yield Finding("cv2", "problem", str(error), advice)
        return
    window = window_system(cv2.getBuildInformation())
    if window is None:
        advice = "live --show needs opencv-python instead of opencv-python-headless; all else works"
        yield Finding("cv2", "note", f"{cv2.__version__} without windows", advice)
    else:
        yield Finding("cv2", "ok", f"{cv2.__version__}, windows by {window}")


def _gpu() -> Iterator[Finding]:
    board = Path("/proc/device-tree/model")
    if board.exists():
        yield Finding("board", "ok", board.read_text(encoding="utf-8", errors="replace").strip("\0 \n"))
    if not shutil.which("nvidia-smi"):
        return
    query = ["nvidia-smi", "--query-gpu=name,driver_version,memory.total", "--format=csv,noheader"]
    try:
        answer = subprocess.run(query, capture_output=True, text=True, timeout=_PATIENCE_S, check=False)
    except subprocess.TimeoutExpired:
        found = f"nvidia-smi does not answer within {_PATIENCE_S:g} s"
        yield Finding("gpu", "note", found, "restart the machine, or reinstall the NVIDIA driver")
        return
    except OSError as error:
        yield Finding("gpu", "note", f"nvidia-smi cannot be started: {error.strerror}", "reinstall the NVIDIA driver")
        return
    if answer.returncode != 0:
        text = (answer.stderr or answer.stdout).strip().partition("\n")[0]
        yield Finding("gpu", "note", f"nvidia-smi fails: {text}", "reinstall the NVIDIA driver")
    else:
        yield Finding("gpu", "ok", "; ".join(answer.stdout.strip().splitlines()))


def _video() -> Iterator[Finding]:
    try:
        av = importlib.import_module("av")
        codec = importlib.import_module("av.codec")
    except ImportError as error:
        yield Finding("video", "problem", str(error), "pip install --force-reinstall av")
        return
    missing = []
    for name, mode in CODECS.items():
        try:
            codec.Codec(name, mode)
        except ValueError:  # PyAV's UnknownCodecError
            missing.append(name)
    found = f"PyAV {av.__version__}, FFmpeg {av.ffmpeg_version_info}"
    if missing:
        command = "pip install --force-reinstall --only-binary av av"
        yield Finding("video", "problem", f"{found}, without {', '.join(missing)}", command)
    else:
        yield Finding("video", "ok", f"{found}, with {', '.join(CODECS)}")


def _torch() -> Iterator[Finding]:
    if not _version("torch"):
        return
    yield from _torchvision_fits()
    try:
        torch = importlib.import_module("torch")
        cuda = torch.cuda.is_available()
        found = f"{torch.__version__}, " + (f"CUDA on {torch.cuda.get_device_name()}" if cuda else "CPU only")
        yield Finding("torch runs", "ok", found)
    except (ImportError, OSError, RuntimeError) as error:
        text = str(error).partition("\n")[0]
        yield Finding("torch runs", "note", text, "pip install --force-reinstall 'rgbt-fusion[train]'")


def _torchvision_fits() -> Iterator[Finding]:
    torchvision, torch = _version("torchvision"), _version("torch")
    if torchvision is None or torch is None:
        return
    pins = [Requirement(line) for line in requires("torchvision") or ()]
    pin = next((pin.specifier for pin in pins if pin.name == "torch"), None)
    if pin is not None and not pin.contains(Version(torch).public, prereleases=True):
        found = f"torchvision {torchvision} needs torch {pin}, found {torch}"
        yield Finding("torch pair", "note", found, "pip install --upgrade torch torchvision")


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


CHECKS: tuple[Callable[[], Iterator[Finding]], ...] = (
    _python,
    _packages,
    _one_runtime,
    _opencv,
    _gpu,
    engines_run,
    _video,
    _torch,
)
