"""The bundle: one folder with the graph, its description and its proof.

==============  =====================================================================================
``model.onnx``  the graph: raw pixels in, answer out
``bundle.json`` what goes in, what comes out, how good it is; a ``BundleInfo``
``golden.npz``  arrays ``rgb``, ``thermal``, ``present`` [N, …], and what PyTorch answered: one array
                for each name in ``outputs``; plain arrays, never a pickle
others          the model for other engines and precisions: those that ``variants`` in bundle.json names; and
                ``model.any-size.onnx``, where it was asked for
==============  =====================================================================================

``files`` in bundle.json holds the SHA-256 of every file (see export.hashes). Torch-free; deploy/README.md says how a
client in another language uses a bundle.
"""

import json
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import ValidationError

from export.bundle_info import FROM_THE_GRAPH, GOLDEN, INFO, MODEL, SCHEMA_VERSION, Array, BundleInfo, Variant
from export.errors import ExportError
from export.hashes import check, digests, seal


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
        from export.variants.table import advice  # what can be written concerns this error alone

        raise ExportError(
            f"{self.path}: holds no {precision} model for {engine}; it has {', '.join(self.info.variants)}; "
            f"{advice(engine, precision, self.path)}"
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
    except (OSError, ValueError, RecursionError) as error:
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
