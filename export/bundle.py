"""The bundle: one folder with the graph, its description and its proof.

==============  =====================================================================================
``model.onnx``  the graph: raw pixels in, answer out
``bundle.json`` what goes in, what comes out, how good it is; a ``BundleInfo``
``golden.npz``  arrays ``rgb``, ``thermal``, ``present`` [N, …], and what PyTorch answered: one array
                for each name in ``outputs``; plain arrays, never a pickle
others          the model for other engines and precisions: those that ``variants`` in bundle.json names
==============  =====================================================================================

``files`` in bundle.json holds the SHA-256 of every file (see export.hashes). Torch-free; deploy/README.md says how a
client in another language uses a bundle.
"""

import json
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Annotated, Any, Literal, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from export.dense_spec import DenseSpec
from export.errors import ExportError
from export.hashes import check, digests, seal

SCHEMA_VERSION = 2
MODEL, INFO, GOLDEN = "model.onnx", "bundle.json", "golden.npz"

Array = NDArray[Any]
Size = tuple[Annotated[int, Field(gt=0)], Annotated[int, Field(gt=0)]]
Digest = Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
Precision = Literal["fp32", "fp16", "bf16", "int8"]

FROM_THE_GRAPH: dict[str, tuple[str, ...]] = {
    "onnxruntime": ("fp32",),
    "openvino": ("fp32", "fp16", "bf16"),
}
"""Engine → precisions for which it takes ``model.onnx`` as it is, whether or not they were measured at export."""

DTYPES = {"intensity8": "uint8", "counts16": "uint16", "celsius": "float32"}


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
    rig_baked: bool = False
    """True: the graph warps thermal by the rig, and ``thermal_size`` is that of the camera's own frames."""
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


class Variant(BaseModel):
    """The model as one engine takes it at one precision."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    engine: str
    precision: Precision
    form: Literal["full", "dense"] = "full"
    """full: raw pixels in, answer out. dense: see export.dense_form."""
    files: tuple[str, ...]
    """In the bundle; the first is what the engine opens."""
    float_layers: tuple[str, ...] = ()
    """Layers that accuracy control left in float."""
    notes: tuple[str, ...] = ()

    @property
    def key(self) -> str:
        """Its name in ``BundleInfo.variants``."""
        return f"{self.engine}-{self.precision}"


class Proof(BaseModel):
    """What was measured of a variant on a provider of the machine that exported it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    provider: str
    parity: dict[str, float]
    """Against PyTorch on the golden pairs: their number, the largest differences, and ``agreement``, 0 to 1."""
    metric: dict[str, float]
    """The task's main metric on the validation pairs, and ``pairs``; empty where it was not measured."""
    size_bytes: int
    """Of the variant's files."""
    p50_ms: float
    p95_ms: float
    p99_ms: float
    pairs_per_s: float
    machine: dict[str, str]
    """Processor, cores and versions."""


class BundleInfo(BaseModel):
    """The content of bundle.json."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    schema_version: Literal[1, 2] = 2
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
    variants: dict[str, Variant] = {"onnxruntime-fp32": Variant(engine="onnxruntime", precision="fp32", files=(MODEL,))}
    """``ENGINE-PRECISION`` → the model's files for it."""
    proofs: dict[str, Proof] = {}
    """``ENGINE-PRECISION-PROVIDER`` → what was measured at export."""
    dense: DenseSpec | None = None
    """How a client prepares and decodes for the variants of the form dense."""

    @model_validator(mode="after")
    def _files_are_known(self) -> Self:
        for name in self.files:
            if PurePosixPath(name).is_absolute() or ".." in PurePosixPath(name).parts or "\\" in name:
                raise ValueError(f"'{name}' is not a path inside the bundle")
        missing = [name for name in (MODEL, GOLDEN, INFO) if name not in self.files]
        missing += [name for variant in self.variants.values() for name in variant.files if name not in self.files]
        if missing:
            raise ValueError(f"files: no sha256 of {missing[0]}")
        return self


@dataclass(frozen=True, slots=True)
class Bundle:
    """A bundle on disk whose hashes held when it was read."""

    path: Path
    info: BundleInfo

    @property
    def model(self) -> Path:
        """Path of the graph."""
        return self.path / MODEL

    def variant(self, engine: str, precision: str) -> Variant:
        """Return the model's form for an engine and a precision.

        Raises:
            ExportError: the bundle holds none.
        """
        key = f"{engine}-{precision}"
        if key in self.info.variants:
            return self.info.variants[key]
        if precision in FROM_THE_GRAPH.get(engine, ()):
            return Variant.model_validate({"engine": engine, "precision": precision, "files": (MODEL,)})
        raise ExportError(
            f"{self.path}: holds no {precision} model for {engine}; it has {', '.join(self.info.variants)}; "
            f"rgbt export RUN --out {self.path} --target {engine} --precision {precision} writes one"
        )

    def choose(self, engines: Sequence[str] | None, precisions: Sequence[str] | None) -> list[Variant]:
        """Return the variants of these engines and precisions; None: of all that the bundle holds.

        Raises:
            ExportError: a named engine or precision is not there.
        """
        if engines and precisions:
            return [self.variant(engine, precision) for engine in engines for precision in precisions]
        held = list(self.info.variants.values())
        if engines:
            found = [v for engine in engines for v in held if v.engine == engine]
            missing = [engine for engine in engines if all(v.engine != engine for v in held)]
            return found + [self.variant(engine, "fp32") for engine in missing]
        if precisions:
            missing = [precision for precision in precisions if all(v.precision != precision for v in held)]
            for precision in missing:
                self.variant("onnxruntime", precision)  # says what there is
            return [v for v in held if v.precision in precisions]
        return held

    def files(self, variant: Variant) -> list[Path]:
        """Paths of a variant's files."""
        return [self.path / name for name in variant.files]

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
    check(path, INFO, raw, info.files)
    return Bundle(path, info)


def write_info(folder: Path, fields: Mapping[str, Any]) -> None:
    """Write bundle.json into a folder that holds the other files; ``fields`` lacks only ``files``."""
    info = BundleInfo.model_validate({**fields, "files": digests(folder, INFO)})
    seal(folder / INFO, info.model_dump_json(indent=2) + "\n")


def _refuse_newer(path: Path, content: Any) -> None:  # noqa: ANN401 - what JSON holds
    version = content.get("schema_version") if isinstance(content, dict) else None
    if not isinstance(version, int):
        raise ExportError(f"{path / INFO}: schema_version is missing; export the bundle again")
    if version > SCHEMA_VERSION:
        raise ExportError(
            f"{path / INFO}: schema version {version} is newer than {SCHEMA_VERSION}, which this rgbt reads; "
            "update it: pip install --upgrade rgbt-fusion"
        )
