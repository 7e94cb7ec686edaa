"""What bundle.json says: inputs, answers, the model's forms and what was measured of each; torch-free."""

from pathlib import PurePosixPath
from typing import Annotated, Any, Literal, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, model_validator

from export.dense_spec import DenseSpec

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

DEFAULT_PROVIDERS = {"tensorrt": "cuda"}
"""Engine → the provider that it computes on where none is asked for, if not the CPU."""


def default_provider(engine: str) -> str:
    """Where an engine computes when nobody says where."""
    return DEFAULT_PROVIDERS.get(engine, "cpu")


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
    """Against PyTorch on the golden pairs: their number, the largest differences, and ``agreement``, 0 to 1.

    ``boxes_max_abs_px`` is of all boxes at fp32, below it of the sure ones that agree.
    """
    metric: dict[str, float]
    """The task's main metric on the validation pairs; empty where it was not measured."""
    metric_pairs: int = 0
    """On how many of them."""
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
