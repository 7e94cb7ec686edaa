"""The bundle: one folder with the graph, its description and its proof.

==============  =====================================================================================
``model.onnx``  the graph: raw pixels in, answer out
``bundle.json`` what goes in, what comes out, how good it is; a ``BundleInfo``
``golden.npz``  arrays ``rgb``, ``thermal``, ``present`` [N, …], and what PyTorch answered: one array
                for each name in ``outputs``; plain arrays, never a pickle
==============  =====================================================================================

``files`` in bundle.json holds the SHA-256 of every file. Its own is taken over its bytes with that digest
written as 64 zeros. Torch-free; deploy/README.md says how a client in another language uses a bundle.
"""

import hashlib
import json
import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from export.errors import ExportError

SCHEMA_VERSION = 1
MODEL, INFO, GOLDEN = "model.onnx", "bundle.json", "golden.npz"

Array = NDArray[Any]
Size = tuple[Annotated[int, Field(gt=0)], Annotated[int, Field(gt=0)]]
Digest = Annotated[str, Field(pattern="^[0-9a-f]{64}$")]

DTYPES = {"intensity8": "uint8", "counts16": "uint16", "celsius": "float32"}
_NO_DIGEST = "0" * 64


class Planck(BaseModel):
    """Radiometric constants of the thermal camera; the graph never uses them, frames are converted before."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    r1: float
    r2: float
    b: float
    f: float
    o: float
    emissivity: float
    reflected_celsius: float
    distance_m: float = 0.0
    atmospheric_celsius: float = 20.0
    humidity: float = 0.5
    window_transmission: float = 1.0
    window_celsius: float = 20.0
    air: tuple[float, float, float, float, float] = (0.006569, 0.01262, -0.002276, -0.00667, 1.9)


class ThermalInput(BaseModel):
    """Unit and validity of thermal pixels: the JSON of the card's thermal spec."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    unit: Literal["intensity8", "counts16", "celsius"]
    polarity: Literal["white-hot", "black-hot"]
    range: tuple[float, float] | None
    """Fixed range that maps to 0…1, in the unit; None: the graph measures the range of each frame."""
    min_span: float
    """Smallest span of a measured range, in the unit."""
    invalid: float
    """The value of pixels that show nothing; valid pixels never carry it."""
    marked: bool
    """True: delivered frames already carry ``invalid``. False: valid pixels are moved off it by one step."""
    stored: Literal["unit", "decikelvin", "centikelvin", "linear", "planck", "radiometric"] = "unit"
    """What files and cameras hold; it was converted to the unit before."""
    channel: int | None = None
    scale: float | None = None
    offset: float | None = None
    blank: tuple[tuple[int, int, int, int], ...] = ()
    """Parts of the stored frame (x1, y1, x2, y2) that were made invalid."""
    planck: Planck | None

    @property
    def dtype(self) -> np.dtype[Any]:
        """The one dtype of thermal frames in this unit."""
        return np.dtype(DTYPES[self.unit])


class Inputs(BaseModel):
    """What goes in: ``rgb`` uint8 [B,Hr,Wr,3], ``thermal`` [B,Ht,Wt], ``present`` float32 [B,2] of 0, 1."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    rgb_size: Size
    """Height, width."""
    thermal_size: Size
    """Height, width; the thermal frame covers RGB's field of view."""
    letterbox: bool
    """True: frames of any size are scaled onto this canvas, top left. False: they have exactly this size."""
    thermal: ThermalInput

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Input → its shape without the batch."""
        return {"rgb": (*self.rgb_size, 3), "thermal": self.thermal_size, "present": (2,)}

    def dtypes(self) -> dict[str, np.dtype[Any]]:
        """Input → its dtype."""
        return {"rgb": np.dtype(np.uint8), "thermal": self.thermal.dtype, "present": np.dtype(np.float32)}

    def zeros(self, batch: int) -> dict[str, Array]:
        """Return inputs of that batch with black frames, both sensors present."""
        feeds: dict[str, Array] = {
            name: np.zeros((batch, *shape), self.dtypes()[name]) for name, shape in self.shapes().items()
        }
        feeds["present"][:] = 1
        return feeds


class Output(BaseModel):
    """One answer of the graph."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    shape: tuple[int | str, ...]
    """``B`` is the batch."""
    dtype: str
    layout: str


class BundleInfo(BaseModel):
    """The content of bundle.json."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    schema_version: Literal[1] = 1
    task: Literal["detect", "segment", "classify"]
    classes: tuple[str, ...]
    """Names; of a segmentation without the background, which is 0 in its class map."""
    inputs: Inputs
    outputs: dict[str, Output]
    sensors: tuple[Literal["rgb", "thermal"], ...] = ("rgb", "thermal")
    """Sensors that the model looks at; a single-sensor baseline has one, and needs it."""
    missing_sensor: str
    """What a client does when a sensor is missing, and what the graph then does."""
    opset: int
    recipe_sha256: Digest
    metrics: dict[str, Any]
    """The task's own metric, as evaluated before export."""
    parity: dict[str, Any]
    """Largest difference between the engine and PyTorch on the golden pairs, measured at export."""
    files: dict[str, Digest]
    created_with: dict[str, str]
    """Package → version."""


@dataclass(frozen=True, slots=True)
class Bundle:
    """A bundle on disk whose hashes held when it was read."""

    path: Path
    info: BundleInfo

    @property
    def model(self) -> Path:
        """Path of the graph."""
        return self.path / MODEL

    def golden(self) -> dict[str, Array]:
        """Return the golden inputs and PyTorch's answers, each [N, …]; nothing is unpickled.

        Raises:
            ExportError: golden.npz does not hold what bundle.json says.
        """
        path = self.path / GOLDEN
        wanted = [*self.info.inputs.shapes(), *self.info.outputs]
        try:
            with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
                golden: dict[str, Array] = {name: archive[name] for name in wanted}
        except (OSError, ValueError, KeyError, zipfile.BadZipFile, zlib.error) as error:
            raise ExportError(f"{path}: cannot be read ({error}); export the bundle again") from None
        if len({len(values) for values in golden.values()}) != 1 or not len(golden["present"]):
            raise ExportError(f"{path}: arrays are empty or differ in length; export the bundle again")
        return golden


def read_bundle(path: Path) -> Bundle:
    """Read a bundle's description and check the hash of every file.

    Raises:
        ExportError: there is no bundle, its schema is newer, a field is wrong, or a file was changed.
    """
    if not (path / INFO).is_file():
        raise ExportError(f"{path}: no bundle here (no {INFO}); 'rgbt export RUN --out {path}' writes one")
    try:
        raw = (path / INFO).read_bytes()
        content = json.loads(raw)
    except (OSError, ValueError) as error:
        raise ExportError(f"{path / INFO}: cannot be read ({error}); export the bundle again") from None
    _refuse_newer(path, content)
    try:
        info = BundleInfo.model_validate_json(raw)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        field = ".".join(map(str, first["loc"])) or "the file"
        raise ExportError(f"{path / INFO}: {field}: {first['msg']}; export the bundle again") from None
    _check_hashes(path, raw, info)
    return Bundle(path, info)


def write_info(folder: Path, fields: Mapping[str, Any]) -> None:
    """Write bundle.json into a folder that holds the other files; ``fields`` lacks only ``files``."""
    files = {name: _sha256((folder / name).read_bytes()) for name in (MODEL, GOLDEN)} | {INFO: _NO_DIGEST}
    info = BundleInfo.model_validate({**fields, "files": files})
    raw = (info.model_dump_json(indent=2) + "\n").encode()
    (folder / INFO).write_bytes(raw.replace(_NO_DIGEST.encode(), _sha256(raw).encode()))


def _refuse_newer(path: Path, content: Any) -> None:  # noqa: ANN401 - what JSON holds
    version = content.get("schema_version") if isinstance(content, dict) else None
    if not isinstance(version, int):
        raise ExportError(f"{path / INFO}: schema_version is missing; export the bundle again")
    if version > SCHEMA_VERSION:
        raise ExportError(
            f"{path / INFO}: schema version {version} is newer than {SCHEMA_VERSION}, which this rgbt reads; "
            "update it: pip install --upgrade rgbt-fusion"
        )


def _check_hashes(path: Path, raw: bytes, info: BundleInfo) -> None:
    for name in (MODEL, GOLDEN, INFO):
        expected = info.files.get(name)
        if expected is None:
            raise ExportError(f"{path / INFO}: files: no sha256 of {name}; export the bundle again")
        if name == INFO:
            found = _sha256(raw.replace(expected.encode(), _NO_DIGEST.encode()))
        elif (path / name).is_file():
            found = _sha256((path / name).read_bytes())
        else:
            raise ExportError(f"{path / name}: is missing from the bundle; copy the folder again")
        if found != expected:
            raise ExportError(
                f"{path / name}: was changed after export (its sha256 begins {found[:8]}, {INFO} says "
                f"{expected[:8]}); copy the folder again, or export anew"
            )


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
