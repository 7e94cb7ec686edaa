"""Where the curves of a training go: files in RUN/logs, and trackers where they are installed.

A run that was killed logs again, from its checkpoint on, what it had logged already: here that is told apart.
"""

import csv
import hashlib
import io
import json
import os
import secrets
from collections.abc import Callable, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from lightning.fabric.loggers import Logger, TensorBoardLogger

from data.errors import DataError
from data.yaml_file import atomic

FOLDER = "logs"
NO_LOGGER = "none"
STOPPED = "stopped"
"""How a run ended that somebody asked to stop: it has saved, and may go on. Lightning knows success and failed."""
DEFAULT = ("csv", "tensorboard")
_PROJECT = "rgbt"

Call = tuple[int, str]
"""Step of a call, and a hash of the names it logged: the same in the run that goes on."""


def make_loggers(names: Sequence[str], run: Path) -> list[Logger]:
    """The loggers of these names, for a run that begins or goes on.

    Raises:
        DataError: a name is unknown, or its package is not installed.
    """
    if NO_LOGGER in names:
        if len(names) > 1:
            raise DataError(f"--logger {' '.join(names)}: '{NO_LOGGER}' stands alone")
        return []
    for name in names:
        if name not in LOGGERS:
            raise DataError(f"--logger {name}: expected {', '.join(LOGGERS)} or {NO_LOGGER}")
        if name in PACKAGES and find_spec(name) is None:
            others = " ".join(other for other in names if other != name) or NO_LOGGER
            raise DataError(
                f"--logger {name}: the package '{name}' is not installed; pip install '{PACKAGES[name]}', or leave it "
                f"out: --logger {others}"
            )
    return [LOGGERS[name](run / FOLDER) for name in dict.fromkeys(names)]


class CsvLogger(Logger):  # type: ignore[misc]  # mypy sees nothing of Lightning
    """One row for each call in a CSV file, on the disk when the call returns; Lightning's own deletes what it finds."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._columns: list[str] | None = None

    @property
    def name(self) -> str:
        """Lightning asks for it."""
        return self.path.stem

    @property
    def version(self) -> str:
        """A run has one."""
        return ""

    def log_hyperparams(self, params: Mapping[str, Any]) -> None:
        """Leave them out: they lie in the run, as recipe.yaml."""

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Append a row; the first one of a process replaces what a former process logged from there on."""
        if not metrics:
            return
        row = {"step": str(step or 0), **{name: repr(float(value)) for name, value in metrics.items()}}
        if self._columns is None:
            columns, rows = self._read()
            rows = rows[: resumes_at([_call(former) for former in rows], _call(row))]
            self._rewrite(columns, [*rows, row])
        elif set(row) <= set(self._columns):
            with self.path.open("a", encoding="utf-8") as file:
                file.write(_line([row.get(name, "") for name in self._columns]))
        else:
            columns, rows = self._read()
            self._rewrite(columns, [*rows, row])

    def _read(self) -> tuple[list[str], list[dict[str, str]]]:
        """Columns and rows in the file; a last line that a killed process left unfinished is dropped."""
        if not self.path.exists():
            return [], []
        text = self.path.read_text(encoding="utf-8")
        reader = csv.DictReader(io.StringIO(text[: text.rfind("\n") + 1]))
        rows = [{name: value for name, value in row.items() if value} for row in reader]
        return list(reader.fieldnames or []), rows

    def _rewrite(self, columns: Sequence[str], rows: Sequence[Mapping[str, str]]) -> None:
        self._columns = list(dict.fromkeys([*columns, *(name for row in rows for name in row)]))
        with atomic(self.path, "w") as file:
            file.write(_line(self._columns))
            file.writelines(_line([row.get(name, "") for name in self._columns]) for row in rows)


class OnceLogger(Logger):  # type: ignore[misc]  # as above
    """Hands calls to a logger that can only append, and keeps back those that a former process made already."""

    def __init__(self, inner: Logger, journal: Path) -> None:
        self.inner, self.journal = inner, journal
        self._ahead: list[Call] | None = None
        """What a former process logged beyond where this one stands; None: there was no call yet."""

    @property
    def name(self) -> str | None:
        """Lightning asks for it."""
        name: str | None = self.inner.name
        return name

    @property
    def version(self) -> int | str | None:
        """Lightning asks for it."""
        version: int | str | None = self.inner.version
        return version

    def log_hyperparams(self, params: Mapping[str, Any]) -> None:
        """Hand them on."""
        self.inner.log_hyperparams(dict(params))

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Hand a call on, unless it was made before."""
        if not metrics:
            return
        call = _call({"step": str(step or 0), **metrics})
        if self._ahead is None:
            made = self._read()
            self._write(made)  # without a line that a killed process left unfinished
            self._ahead = made[resumes_at(made, call) :]
        if self._ahead and self._ahead[0] == call:
            self._ahead.pop(0)
            return
        if self._ahead:  # this process goes another way than the former one did
            made = self._read()
            self._write(made[: len(made) - len(self._ahead)])
            self._ahead = []
        self.inner.log_metrics(dict(metrics), step)
        self.inner.save()
        with self.journal.open("a", encoding="utf-8") as file:
            file.write(json.dumps(call) + "\n")

    def finalize(self, status: str) -> None:
        """Close the logger; ``stopped``: somebody asked for it, and the run may go on."""
        self.inner.finalize(status)

    def _read(self) -> list[Call]:
        if not self.journal.exists():
            return []
        text = self.journal.read_text(encoding="utf-8")
        return [(step, names) for step, names in map(json.loads, text[: text.rfind("\n") + 1].splitlines())]

    def _write(self, calls: Sequence[Call]) -> None:
        with atomic(self.journal, "w") as file:
            file.writelines(json.dumps(call) + "\n" for call in calls)


def resumes_at(made: Sequence[Call], call: Call) -> int:
    """Number of a former process's calls that stay: those before the one that ``call`` repeats.

    Two epochs may end at one step, the last of a stage and the entry of the next; they differ in what they log.
    """
    same = (index for index, former in enumerate(made) if former == call)
    later = (index for index, (step, _) in enumerate(made) if step > call[0])
    return next(same, next(later, len(made)))


def _call(row: Mapping[str, Any]) -> Call:
    names = ",".join(sorted(name for name in row if name != "step"))
    return int(row["step"]), hashlib.sha256(names.encode()).hexdigest()[:8]


def _line(values: Sequence[str]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerow(values)
    return text.getvalue()


def _csv(logs: Path) -> Logger:
    return CsvLogger(logs / "metrics.csv")


def _tensorboard(logs: Path) -> Logger:
    return OnceLogger(TensorBoardLogger(logs, name="tensorboard", version=""), logs / "tensorboard.log")


def _mlflow(logs: Path) -> Logger:
    """A run of MLflow; the server by MLFLOW_TRACKING_URI, else a database file in the run."""
    from lightning.pytorch.loggers import MLFlowLogger

    identity, server = logs / "mlflow-run", os.environ.get("MLFLOW_TRACKING_URI")

    class StoppableMLFlowLogger(MLFlowLogger):  # type: ignore[misc]  # as above
        """Tells a stop from a failure; MLflow calls it killed, and takes the run up again when it goes on."""

        def finalize(self, status: str = "success") -> None:
            super().finalize("KILLED" if status == STOPPED else status)

    inner = StoppableMLFlowLogger(
        experiment_name=os.environ.get("MLFLOW_EXPERIMENT_NAME", _PROJECT),
        run_name=logs.parent.name,
        tracking_uri=server or f"sqlite:///{(logs / 'mlflow.db').resolve()}",
        artifact_location=None if server else str((logs / "mlflow").resolve()),
        run_id=identity.read_text(encoding="utf-8") if identity.exists() else None,
    )
    if not identity.exists():
        with atomic(identity, "w") as file:
            file.write(inner.run_id)
    return OnceLogger(inner, logs / "mlflow.log")


def _wandb(logs: Path) -> Logger:
    """A run of Weights & Biases; WANDB_PROJECT, WANDB_MODE and its other variables hold.

    Its own process writes some seconds late, so a killed run may not have told all that it logged: what the resumed run
    logs again is told again, at the same steps.
    """
    from lightning.pytorch.loggers import WandbLogger

    class ClosedWandbLogger(WandbLogger):  # type: ignore[misc]  # as above
        """Ends its run with ours: a second training in this process would log into it."""

        def finalize(self, status: str) -> None:
            self.experiment.finish(exit_code=0 if status in ("success", STOPPED) else 1)

    identity = logs / "wandb-run"
    if not identity.exists():
        with atomic(identity, "w") as file:
            file.write(secrets.token_hex(4))
    known, project = identity.read_text(encoding="utf-8"), os.environ.get("WANDB_PROJECT", _PROJECT)
    return ClosedWandbLogger(name=logs.parent.name, save_dir=logs, id=known, project=project)


LOGGERS: dict[str, Callable[[Path], Logger]] = {
    "csv": _csv,
    "tensorboard": _tensorboard,
    "mlflow": _mlflow,
    "wandb": _wandb,
}
"""Name → what builds it for the folder RUN/logs."""
PACKAGES = {
    "tensorboard": "rgbt-fusion[train]",
    "mlflow": "rgbt-fusion[mlflow]",
    "wandb": "rgbt-fusion[wandb]",
}
"""Logger → what to install for it; its package has its name."""
