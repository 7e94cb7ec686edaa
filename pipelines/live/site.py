"""A site: several rigs that share one model, as a YAML file."""

import re
from pathlib import Path
from typing import Annotated, Any, Self
from urllib.parse import quote, unquote

from pydantic import BaseModel, ConfigDict, Field, model_validator

from data.yaml_file import read_model

_PATHS = ("rig", "save", "jsonl", "csv")
_CAMERAS = ("synthetic:", "gst:", "usb:", "/dev/v")
"""What the names of cameras that are no addresses begin with; any other is that of a recording."""
_CERTIFICATES = re.compile(r"(?<=[?&])(ca=)([^&$]+)")
"""Of an MQTT address; one that is filled in from elsewhere stays as it is."""
Milliseconds = Annotated[float, Field(ge=0, allow_inf_nan=False)]


class RigOptions(BaseModel):
    """What a user may say of one rig; the options of ``rgbt live`` of the same names."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    rgb: str | None = None
    """Address of the RGB camera; ``${NAME}`` is filled in from the environment."""
    thermal: str | None = None
    rig: Path | None = None
    """How thermal lies on RGB; here and below relative to the YAML file."""
    score: float = Field(0.3, ge=0, le=1)
    max_skew: Milliseconds | None = None
    max_wait: Milliseconds | None = None
    hold: bool = False
    save: Path | None = None
    jsonl: Path | None = None
    rle: bool = False
    csv: Path | None = None
    mqtt: str | None = None
    webhook: str | None = None
    stream: str | None = None

    @model_validator(mode="after")
    def _sees_something(self) -> Self:
        if self.rgb is None and self.thermal is None:
            raise ValueError("no source; give rgb, thermal or both")
        return self

    def beside(self, folder: Path) -> "RigOptions":
        """Return a copy whose relative paths start at ``folder``, those of recordings and certificates too."""
        paths: dict[str, Any] = {name: folder / path for name in _PATHS if (path := getattr(self, name)) is not None}
        if self.stream is not None and "://" not in self.stream:
            paths["stream"] = str(folder / self.stream)
        for sensor in ("rgb", "thermal"):
            text = getattr(self, sensor)
            if text is not None and "://" not in text.partition("!")[0] and not text.startswith(_CAMERAS):
                paths[sensor] = str(folder / text)
        if self.mqtt is not None:
            paths["mqtt"] = _CERTIFICATES.sub(
                lambda found: f"{found[1]}{quote(str(folder / unquote(found[2])))}", self.mqtt
            )
        return self.model_copy(update=paths)


class Site(BaseModel):
    """Rigs that share one session."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    bundle: Path | None = None
    """Folder of the bundle; BUNDLE of the command line goes first."""
    serve: str | None = None
    """HOST:PORT of the page of all rigs; --serve goes first."""
    rigs: dict[Annotated[str, Field(pattern=r"^[\w.-]+$")], RigOptions] = Field(min_length=1)
    """Name → rig."""

    @classmethod
    def load(cls, path: Path) -> "Site":
        """Read a YAML file; relative paths in it start at its folder; DataError names file, field and line."""
        site = read_model(path, cls)
        rigs = {name: rig.beside(path.parent) for name, rig in site.rigs.items()}
        bundle = None if site.bundle is None else path.parent / site.bundle
        return site.model_copy(update={"bundle": bundle, "rigs": rigs})
