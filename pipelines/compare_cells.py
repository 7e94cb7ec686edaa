"""A cell of rgbt compare: one recipe with one seed, trained and measured in a folder of its own."""

import contextlib
import io
import json
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Protocol

from data.card import DatasetCard
from data.errors import DataError
from data.yaml_file import atomic
from fusion.bootstrap import save as save_records
from fusion.checkpoint import Row, load_model
from fusion.errors import FusionError, Stopped
from pipelines.evaluate import evaluate
from pipelines.recipe_file import TrainRecipe
from pipelines.stage_store import Claim, StageStore, lock
from pipelines.train import HISTORY, RECIPE

MEASURED, LOG = "measured.json", "log.txt"


class Train(Protocol):
    """pipelines.train.train, or what stands in for it."""

    def __call__(
        self,
        recipe: TrainRecipe,
        name: str,
        card: DatasetCard,
        out: Path,
        resume: bool = ...,
        *,
        accelerator: str = ...,
        precision: str = ...,
        loggers: Sequence[str] = ...,
        stop: Callable[[], bool] = ...,
        store: StageStore | None = ...,
    ) -> list[Row]:
        """Train into ``out``; raise Stopped when ``stop``, asked after each step, says so."""


@dataclass(frozen=True)
class Setting:
    """Which pictures train, which are validated on while training, and which are reported."""

    task: str
    """What all recipes are to answer."""
    card: DatasetCard
    """What training sees."""
    source: DatasetCard
    """As the card lies on disk: what is reported comes from it."""
    reported: str
    pictures: int
    """Of the reported split."""
    digest: str
    """Of its ids and labels."""
    validation: str
    """In words: what training validates on."""
    validated: int
    """How many pictures that is."""
    leaks: int
    """How many of the reported pictures are also in the split that is learnt from without labels."""
    labelled: int
    """Labelled training pairs of the card as it lies on disk."""
    cut: float
    """Share of the labelled training pairs that is cut off to validate on."""


@dataclass(frozen=True)
class Work:
    """What one stage costs in each epoch."""

    stage: str
    objective: str
    labelled: bool
    epochs: int
    """At most: early stop and unfreezing by itself end before."""
    steps: int
    """Optimiser steps of an epoch."""
    pictures: int
    """Different pictures that it looks at."""


@dataclass(frozen=True)
class Cell:
    """One recipe with one seed."""

    name: str
    recipe: TrainRecipe
    setting: Setting
    folder: Path
    stages: Path
    """Folder of the stage store."""
    keys: tuple[str, ...]
    work: tuple[Work, ...]
    fingerprint: str
    accelerator: str
    """Kind of device that trains: cpu, cuda or mps."""
    precision: str

    @property
    def label(self) -> str:
        """How it is called on the screen."""
        return f"{self.name}, seed {self.recipe.seed}"

    @property
    def store(self) -> StageStore:
        """Where it finds and leaves the outcome of stages."""
        return StageStore(self.stages, self.keys, f"{self.name}/seed-{self.recipe.seed}")

    @property
    def trained(self) -> bool:
        """Whether its training has come to its end."""
        return (self.folder / HISTORY).exists()

    @property
    def finished(self) -> bool:
        """Whether it is trained, and measured on the split that is reported."""
        path = self.folder / MEASURED
        return self.trained and path.exists() and json.loads(path.read_text())["digest"] == self.setting.digest

    def claim(self) -> Claim | None:
        """Take the right to work on it; None while somebody else does, or trains a stage that it needs."""
        own = self.folder / "lock"
        return lock([own]) if self.trained else self.store.claim(own)

    def todo(self) -> dict[str, int]:
        """Stage key → optimiser steps, of the stages that are still to be trained."""
        missing = [] if self.trained else self.store.missing()
        return {self.keys[i]: self.work[i].steps * self.work[i].epochs for i in missing}

    def run(self, train: Train, stop: Callable[[], bool]) -> None:
        """Train what is not trained and measure what is not measured; what is said on the way goes into the log.

        Raises:
            Stopped: ``stop`` said so.
            DataError: a user's mistake, with the cell's name; a FusionError alike.
        """
        with (self.folder / LOG).open("a", encoding="utf-8") as file, _spoken_into(file), _Traceback():
            try:
                if not self.trained:
                    resume = (self.folder / RECIPE).exists()
                    where = self.setting.validation, self.setting.reported
                    print("each epoch is measured on {}; what is reported on {}".format(*where))
                    train(
                        self.recipe, self.name, self.setting.card, self.folder, resume, accelerator=self.accelerator,
                        precision=self.precision, loggers=("none",), stop=stop, store=self.store,
                    )  # fmt: skip
                if stop():
                    raise Stopped
                self._measure()
            except (DataError, FusionError) as error:
                raise type(error)(f"{self.label}: {error}") from None

    def _measure(self) -> None:
        evaluation = evaluate(self.folder, self.setting.source, self.setting.reported)
        rows = []
        for row, records in zip(evaluation.rows, evaluation.records, strict=True):
            absent = next((s for s in self.recipe.model.sensors if s not in row.sensors), None)
            name = f"records-without-{absent}.npz" if absent else "records.npz"
            save_records(self.folder / name, records)
            rows.append({"absent": absent, "records": name} | row.metrics)
        parameters = sum(p.numel() for p in load_model(self.folder).parameters())
        note = {"digest": self.setting.digest, "parameters": parameters, "rows": rows}
        with atomic(self.folder / MEASURED, "w") as file:
            json.dump(note, file, indent=1)

    def measured(self) -> dict[str, Any]:
        """What ``run`` found: ``parameters``, and ``rows`` with ``absent``, ``records`` and the figures by name."""
        found: dict[str, Any] = json.loads((self.folder / MEASURED).read_text())
        return found

    def history(self) -> list[Row]:
        """Rows of ``fusion.trainer``."""
        found: list[Row] = json.loads((self.folder / HISTORY).read_text())
        return found


class _Traceback:
    """Prints where an error came from that is no user's mistake, and lets it go on: the log is what remains of it."""

    def __enter__(self) -> None:
        pass

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if isinstance(error, Exception) and not isinstance(error, (DataError, FusionError, Stopped)):
            print("\r" + "".join(traceback.format_exception(error)))  # over the bar


class _Log(io.TextIOBase):
    """Whole lines only: a progress bar that is drawn over again and again leaves nothing."""

    def __init__(self, file: IO[str]) -> None:
        self._file, self._line = file, ""

    def write(self, text: str) -> int:
        *lines, rest = (self._line + text).split("\n")
        self._file.writelines(line.rpartition("\r")[2].rstrip() + "\n" for line in lines)
        self._line = rest.rpartition("\r")[2]
        if lines:
            self._file.flush()
        return len(text)


@contextlib.contextmanager
def _spoken_into(file: IO[str]) -> Iterator[None]:
    log = _Log(file)
    with contextlib.redirect_stdout(log), contextlib.redirect_stderr(log):
        yield
