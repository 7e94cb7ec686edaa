"""Logs of a run that was killed and resumed: no row is lost, none stands there twice."""

import csv
import sys
from types import ModuleType

import pytest
from lightning.fabric.loggers import Logger

from data.errors import DataError
from pipelines import loggers
from pipelines.commands.train import DEFAULT_LOGGERS
from pipelines.loggers import DEFAULT, LOGGERS, PACKAGES, STOPPED, CsvLogger, OnceLogger, make_loggers

ROWS = [
    (0, {"epoch/val_loss": 3.0}),
    (10, {"train/loss": 2.0, "train/lr.rgb": 0.1}),
    (20, {"train/loss": 1.5, "train/lr.rgb": 0.1}),
    (20, {"epoch/loss": 1.6, "epoch/val_loss": 1.7}),
    (20, {"epoch/val_loss": 1.7}),  # the next stage's entry, at the same step
    (30, {"train/loss": 1.0, "train/lr.thermal": 0.2}),
    (40, {"train/loss": 0.9, "train/lr.thermal": 0.1}),
    (40, {"epoch/loss": 0.95, "epoch/val_loss": 1.1}),
]
KILLED_AND_RESUMED = [(killed, at) for killed in range(len(ROWS) + 1) for at in range(killed + 1)]


class Recorder(Logger):
    """Appends and never takes back, as event files and servers do."""

    name = version = ""

    def __init__(self):
        self.told, self.parameters, self.ended = [], None, None

    def log_metrics(self, metrics, step=None):
        self.told.append((step, metrics))

    def log_hyperparams(self, params):
        self.parameters = params

    def finalize(self, status):
        self.ended = status


def tell(logger, rows):
    for step, values in rows:
        logger.log_metrics(values, step)


def read(path):
    with path.open() as file:
        return [
            (int(row.pop("step")), {name: float(value) for name, value in row.items() if value})
            for row in csv.DictReader(file)
        ]


@pytest.mark.parametrize(("killed", "at"), KILLED_AND_RESUMED)
def test_csv_holds_each_row_once_whenever_the_run_is_killed(killed, at, tmp_path):
    path = tmp_path / "logs" / "metrics.csv"
    tell(CsvLogger(path), ROWS[:killed])
    tell(CsvLogger(path), ROWS[at:])
    assert read(path) == (ROWS if at < len(ROWS) else ROWS[:killed])


@pytest.mark.parametrize(("killed", "at"), KILLED_AND_RESUMED)
def test_a_logger_that_only_appends_is_told_each_row_once(killed, at, tmp_path):
    recorder, journal = Recorder(), tmp_path / "journal"
    tell(OnceLogger(recorder, journal), ROWS[:killed])
    tell(OnceLogger(recorder, journal), ROWS[at:])
    assert recorder.told == (ROWS if at < len(ROWS) else ROWS[:killed])


def test_a_second_kill_is_no_worse_than_the_first(tmp_path):
    recorder, journal = Recorder(), tmp_path / "journal"
    for part in (ROWS[:6], ROWS[3:5], ROWS[3:7], ROWS[6:]):
        tell(OnceLogger(recorder, journal), part)
    assert recorder.told == ROWS


def test_a_run_that_goes_another_way_is_told_as_it_goes(tmp_path):
    recorder, journal = Recorder(), tmp_path / "journal"
    tell(OnceLogger(recorder, journal), ROWS[:6])
    other = [ROWS[4], (30, {"epoch/val_loss": 9.0}), (40, {"train/loss": 8.0})]
    tell(OnceLogger(recorder, journal), other)
    assert recorder.told == [*ROWS[:6], *other[1:]]


def test_a_line_that_a_killed_process_left_unfinished_is_dropped(tmp_path):
    path, journal, recorder = tmp_path / "metrics.csv", tmp_path / "journal", Recorder()
    tell(CsvLogger(path), ROWS[:3])
    path.write_text(path.read_text()[:-4])
    tell(CsvLogger(path), ROWS[2:])
    assert read(path) == ROWS
    tell(OnceLogger(recorder, journal), ROWS[:3])
    journal.write_text(journal.read_text()[:-4])
    tell(OnceLogger(recorder, journal), ROWS[3:])
    assert recorder.told == ROWS


def test_a_call_without_values_leaves_no_row(tmp_path):
    path, recorder = tmp_path / "metrics.csv", Recorder()
    for logger in (CsvLogger(path), OnceLogger(recorder, tmp_path / "journal")):
        logger.log_metrics({}, 5)
        tell(logger, ROWS[:1])
    assert read(path) == recorder.told == ROWS[:1]


def test_tensorboard_files_hold_each_value_once(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    for part in (ROWS[:7], ROWS[4:]):  # nothing is closed: as after kill -9
        tell(make_loggers(["tensorboard"], tmp_path)[0], part)
    events = EventAccumulator(str(tmp_path / "logs" / "tensorboard"))
    events.Reload()
    found = {(tag, event.step) for tag in events.Tags()["scalars"] for event in events.Scalars(tag)}
    assert found == {(name, step) for step, values in ROWS for name in values}
    assert sum(len(events.Scalars(tag)) for tag in events.Tags()["scalars"]) == sum(len(v) for _, v in ROWS)


def test_names_of_the_command_line_are_those_of_the_table():
    assert tuple(DEFAULT_LOGGERS) == DEFAULT
    assert set(LOGGERS) - set(PACKAGES) == {"csv"}


def test_none_logs_nothing(tmp_path):
    assert make_loggers(["none"], tmp_path) == []
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("names", "words"),
    [
        (["csv", "magic"], "--logger magic: expected csv, tensorboard, mlflow, wandb or none"),
        (["none", "csv"], "'none' stands alone"),
    ],
)
def test_a_wrong_name_is_one_line(names, words, tmp_path):
    with pytest.raises(DataError, match=words) as error:
        make_loggers(names, tmp_path)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", list(PACKAGES))
def test_a_package_that_is_missing_is_said_and_never_left_out_quietly(name, tmp_path, monkeypatch):
    monkeypatch.setattr(loggers, "find_spec", lambda package: None)
    with pytest.raises(DataError) as error:
        make_loggers(["csv", name], tmp_path)
    assert f"pip install '{PACKAGES[name]}', or leave it out: --logger csv" in str(error.value)


@pytest.fixture
def trackers(monkeypatch):
    """Stand-ins for MLflow and Weights & Biases, which need a server: they record what Lightning is given."""
    made = []

    class Tracker(Recorder):
        def __init__(self, **settings):
            super().__init__()
            self.settings, self.run_id, self.experiment = settings, "run-1", self
            made.append(self)

        def finish(self, exit_code):
            self.ended = exit_code

    module = ModuleType("lightning.pytorch.loggers")
    module.MLFlowLogger, module.WandbLogger = Tracker, type("Wandb", (Tracker,), {})
    monkeypatch.setitem(sys.modules, "lightning.pytorch.loggers", module)
    monkeypatch.setattr(loggers, "find_spec", lambda package: True)
    for variable in ("MLFLOW_TRACKING_URI", "MLFLOW_EXPERIMENT_NAME", "WANDB_PROJECT"):
        monkeypatch.delenv(variable, raising=False)
    return made


def test_mlflow_goes_on_with_the_run_it_began(tmp_path, trackers):
    for part in (ROWS[:6], ROWS[3:]):
        logger = make_loggers(["mlflow"], tmp_path / "first")[0]
        logger.log_hyperparams({"batch": 8})
        tell(logger, part)
    first, second = trackers
    assert first.settings["run_id"] is None and second.settings["run_id"] == "run-1"
    assert first.settings["tracking_uri"] == f"sqlite:///{tmp_path / 'first' / 'logs' / 'mlflow.db'}"
    assert first.settings["run_name"] == "first"
    assert first.told + second.told == ROWS
    assert second.parameters == {"batch": 8}
    for ended, told in (("success", "success"), ("failed", "failed"), (STOPPED, "KILLED")):
        logger.finalize(ended)
        assert second.ended == told


def test_mlflow_uses_the_server_that_the_environment_names(tmp_path, trackers, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://tracker")
    make_loggers(["mlflow"], tmp_path)
    assert trackers[0].settings["tracking_uri"] == "http://tracker"
    assert trackers[0].settings["artifact_location"] is None


def test_wandb_goes_on_with_the_run_it_began_and_ends_it_with_ours(tmp_path, trackers):
    for ended, code in (("failed", 1), (STOPPED, 0), ("success", 0)):
        logger = make_loggers(["wandb"], tmp_path)[0]
        logger.finalize(ended)
        assert trackers[-1].ended == code
    first, second = trackers[::2]
    assert first.settings["id"] == second.settings["id"]
    assert first.settings["save_dir"] == tmp_path / "logs"
