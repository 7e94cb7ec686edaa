"""Several processes as one run, what is refused before any starts, and how a run is stopped."""

import csv
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest
import torch
from lightning.fabric.plugins.environments import LightningEnvironment
from torch.utils.data import DataLoader, Dataset

from data.errors import DataError
from pipelines import launch
from pipelines.launch import LAUNCHERS, PRECISIONS, find_processes, make_fabric
from pipelines.stopping import StopSignal, shielded

HOME = Path(__file__).parent.parent
LAUNCHED = ("LOCAL_RANK", "RANK", "NODE_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "GROUP_RANK", "MASTER_ADDR")
TORCHRUN = {
    "TORCHELASTIC_RUN_ID": "none", "WORLD_SIZE": "4", "LOCAL_WORLD_SIZE": "2", "RANK": "3", "LOCAL_RANK": "1",
    "GROUP_RANK": "1",
}  # fmt: skip
SLURM = {
    "SLURM_JOB_NAME": "train", "SLURM_NTASKS": "4", "SLURM_NTASKS_PER_NODE": "2", "SLURM_NNODES": "2",
    "SLURM_PROCID": "2", "SLURM_LOCALID": "0", "SLURM_NODEID": "1",
}  # fmt: skip
RECIPE = """
about: small, with nothing that the split of a batch over processes changes
model:
  size: [64, 96]
  rgb: {arch: test_resnet, weights: null}
  thermal: {arch: test_resnet}
  head: {width: 16, norm: group}
batch: 4
workers: 1
stages:
  - name: head
    epochs: 1
    groups: [{match: "blend.*|head", lr: 1.0e-3}]
  - name: deeper
    epochs: 2
    groups: [{match: "thermal.blocks.-1", lr: 1.0e-4, norm: frozen}, {match: "blend.*|head", lr: 1.0e-3}]
"""
two_cores = pytest.mark.skipif(launch.cores() < 2, reason="two processes need two cores")
"""Of tests that start two processes, which load torch: each takes 6 to 10 s on two free cores."""


@pytest.fixture(autouse=True)
def bare(monkeypatch):
    """No launcher, whatever starts the tests."""
    for variable in (*LAUNCHED, *TORCHRUN, *SLURM):
        monkeypatch.delenv(variable, raising=False)


def environment(monkeypatch, variables):
    for name, value in variables.items():
        monkeypatch.setenv(name, value)


def test_one_process_unless_more_are_asked_for():
    alone, three = find_processes(), find_processes(3)
    assert (alone.devices, alone.nodes, alone.rank, alone.world, alone.leads) == (1, 1, 0, 1, True)
    assert (three.devices, three.world, three.launcher) == (3, 3, None)


def test_a_process_that_fabric_started_knows_its_rank(monkeypatch):
    environment(monkeypatch, {"LOCAL_RANK": "2"})
    assert find_processes(3).rank == 2 and not find_processes(3).leads
    environment(monkeypatch, {"NODE_RANK": "1", "MASTER_ADDR": "first", "MASTER_PORT": "29500"})
    assert find_processes(3, 2).rank == 5


@pytest.mark.parametrize(
    ("variables", "launcher", "rank"), [(TORCHRUN, "torchrun", 3), (SLURM, "SLURM", 2)], ids=["torchrun", "slurm"]
)
def test_what_a_launcher_started_is_taken_over(variables, launcher, rank, monkeypatch):
    environment(monkeypatch, variables)
    for asked in ((None, None), (2, 2), (2, None)):
        found = find_processes(*asked)
        assert (found.launcher, found.devices, found.nodes, found.world, found.rank) == (launcher, 2, 2, 4, rank)
        assert isinstance(found.environment, LAUNCHERS[launcher])
    with pytest.raises(DataError, match=rf"--devices 4 --nodes 2: {launcher} started 4 processes, 2 on each node"):
        find_processes(4)


def test_a_slurm_job_of_one_task_may_start_its_own_processes(monkeypatch):
    environment(monkeypatch, SLURM | {"SLURM_NTASKS": "1", "SLURM_NTASKS_PER_NODE": "1", "SLURM_PROCID": "0"})
    found = find_processes(4)
    assert (found.launcher, found.devices, found.rank) == (None, 4, 0)


def test_slurm_variables_that_contradict_each_other_are_one_line(monkeypatch):
    environment(monkeypatch, SLURM)
    monkeypatch.delenv("SLURM_NTASKS_PER_NODE")
    with pytest.raises(DataError, match="SLURM: You set `--ntasks=4`") as error:
        find_processes()
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("asked", "words"),
    [((0, 1), "--devices 0: expected 1 or more"), ((1, 0), "--nodes 0"), ((1, 2), "torchrun or SLURM, or set MASTER")],
)
def test_numbers_that_cannot_be_are_one_line(asked, words):
    with pytest.raises(DataError, match=words):
        find_processes(*asked)


class Job(LightningEnvironment):
    """Four processes of a launcher that does not say how many are on each node."""

    def world_size(self):
        return 4

    def global_rank(self):
        return 1


@pytest.mark.parametrize("asked", [(None, 9), (None, 3), (8, None), (3, None), (2, 4)])
def test_more_nodes_or_devices_than_a_launcher_started_are_one_line(asked, monkeypatch):
    monkeypatch.setattr(Job, "detect", staticmethod(lambda: True))
    monkeypatch.setattr(launch, "LAUNCHERS", {"MPI": Job})
    with pytest.raises(
        DataError, match=r"--devices \d+ --nodes \d+: MPI started 4 processes; leave --devices"
    ) as error:
        find_processes(*asked)
    assert "\n" not in str(error.value)
    assert (find_processes(None, 2).devices, find_processes(2).nodes, find_processes().devices) == (2, 2, 4)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((9, "cpu", "32-true"), "--devices 9: asked for 9 on each node, found 2 processor cores; say --devices 2"),
        ((1, "cuda", "32-true"), "--accelerator cuda: no usable device of that kind here, found cpu; see rgbt doctor"),
        ((1, "cpu", "16-mixed"), "--precision 16-mixed: needs a CUDA device, found cpu; say bf16-mixed or 32-true"),
        ((2, "cpu", "32-true"), "--devices 2: several processes are started by running rgbt again"),
    ],
)
def test_what_this_machine_has_not_is_one_line(arguments, words, monkeypatch):
    monkeypatch.setattr(launch, "cores", lambda: 2)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    devices, accelerator, precision = arguments
    with pytest.raises(DataError) as error:
        make_fabric(find_processes(devices), accelerator, precision)
    assert words in str(error.value) and "\n" not in str(error.value)


def test_half_precision_keeps_a_scaler_where_there_is_a_gpu():
    assert PRECISIONS == ("32-true", "bf16-mixed", "16-mixed")
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    fabric = make_fabric(find_processes(), "cuda", "16-mixed")
    assert fabric.strategy.precision.scaler is not None


@pytest.fixture
def small(tmp_path):
    path = tmp_path / "small.yaml"
    path.write_text(RECIPE)
    return path


def arguments(recipe, card, run, *more):
    return ["train", str(recipe), "--data", str(card), "--out", str(run), "--accelerator", "cpu", *more]


def settings():
    """No launcher; several processes share this machine's cores, so each takes one thread."""
    kept = {name: value for name, value in os.environ.items() if name not in (*LAUNCHED, *TORCHRUN, *SLURM)}
    return kept | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(HOME)}


def in_processes(command, arguments, **more):
    """Run a command in a process of its own, which may start others."""
    return subprocess.run(
        [*command, *arguments], cwd=HOME, env=settings(), capture_output=True, text=True, check=False, **more
    )


def losses(run):
    return [
        row[key] for row in json.loads((run / "history.json").read_text()) for key in ("loss", "val_loss") if key in row
    ]


@pytest.fixture(scope="module")
def one_process(synthetic_card, tmp_path_factory):
    folder = tmp_path_factory.mktemp("one")
    (folder / "small.yaml").write_text(RECIPE)
    done = in_processes(
        [sys.executable, "-m", "pipelines.cli"], arguments(folder / "small.yaml", synthetic_card, folder / "run")
    )
    assert done.returncode == 0, done.stderr
    return folder / "run"


LAUNCHES = {
    "python -m": [sys.executable, "-m", "pipelines.cli"],
    "console script": [str(Path(sys.executable).parent / "rgbt")],
    "torchrun": [
        sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "pipelines.cli",
    ],
}  # fmt: skip


@two_cores
@pytest.mark.parametrize("way", list(LAUNCHES))
def test_two_processes_train_as_one_does_and_one_of_them_talks(way, one_process, small, synthetic_card, tmp_path):
    asked = [] if way == "torchrun" else ["--devices", "2"]
    done = in_processes(LAUNCHES[way], arguments(small, synthetic_card, tmp_path / "run", *asked))
    assert done.returncode == 0, done.stderr
    assert losses(tmp_path / "run") == pytest.approx(losses(one_process), rel=1e-4)
    assert done.stdout.count("next: rgbt evaluate") == 1 and done.stderr.count("at entry") == 2  # of two stages
    info = json.loads((tmp_path / "run" / "run.json").read_text())
    assert (info["devices"], info["nodes"], info["precision"], info["accelerator"]) == (2, 1, "32-true", "cpu")
    assert info["versions"]["torch"] == version("torch") and set(info["versions"]) > {"python", "timm", "lightning"}
    with (tmp_path / "run" / "logs" / "metrics.csv").open() as file:
        steps = [int(row["step"]) for row in csv.DictReader(file)]
    assert steps == sorted(steps) and steps[-1] == 9


def test_a_signal_only_sets_a_flag_and_a_second_ctrl_c_interrupts():
    now, former = [0.0], signal.getsignal(signal.SIGINT)
    with StopSignal(talks=False, clock=lambda: now[0]) as stop:
        assert not stop()
        os.kill(os.getpid(), signal.SIGINT)
        assert stop() and stop.exit_code == 130
        now[0] = 0.1  # torchrun hands on what the terminal has sent already
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGTERM)
        now[0] = 3.0
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
        assert stop.exit_code == 130
    assert signal.getsignal(signal.SIGINT) is former  # ignored, where a shell started the tests in the background


def test_sigterm_has_its_own_exit_code_and_is_said(capfd):
    former = signal.getsignal(signal.SIGTERM)
    with StopSignal() as stop:
        os.kill(os.getpid(), signal.SIGTERM)
        assert stop() and stop.exit_code == 143
    assert signal.getsignal(signal.SIGTERM) is former
    assert "stopping after the step in hand" in capfd.readouterr().err


class Signalled(Dataset):
    """While it reads, the whole process group is signalled, as a terminal or a job scheduler does."""

    def __len__(self):
        return 2

    def __getitem__(self, index):
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGTERM)
        return index


def test_a_worker_finishes_the_batch_in_hand_whatever_the_signal():
    batches = DataLoader(Signalled(), num_workers=1, worker_init_fn=shielded())
    assert [int(batch) for batch in batches] == [0, 1]


LEFT_ALIVE = """
import sys
from torch.utils.data import DataLoader
from pipelines.stopping import shielded
batches = iter(DataLoader(range(9), num_workers=1, worker_init_fn=shielded(), persistent_workers=True))
print(int(next(batches)))
sys.keep = batches
"""


def test_workers_that_ignore_signals_do_not_keep_a_process_from_ending():
    done = in_processes([sys.executable, "-c", LEFT_ALIVE], [], timeout=60)
    assert (done.returncode, done.stdout) == (0, "0\n"), done.stderr


STOPPED_BY_CTRL_C = """
import os, signal, sys
from fusion.stage_run import StageRun
from pipelines.cli import main
show, seen = StageRun._show, []
def counted(self, found, number):
    seen.append(number)
    if len(seen) == 5:
        os.kill(os.getpid(), signal.SIGINT)
    show(self, found, number)
StageRun._show = counted
sys.exit(main(sys.argv[1:]))
"""


def go_on(error):
    """The words of the command that a stopped run names."""
    lines = [line for line in error.splitlines() if "go on with: " in line]
    assert len(lines) == 1 and lines[0].startswith("rgbt: stopped and saved (stage '"), error
    return shlex.split(lines[0].partition("go on with: ")[2])


def test_a_stopped_run_says_how_to_go_on_and_ends_as_if_never_stopped(one_process, small, synthetic_card, tmp_path):
    call = arguments(small, synthetic_card, tmp_path / "run")
    done = in_processes([sys.executable, "-c", STOPPED_BY_CTRL_C], call)
    assert done.returncode == 130, done.stderr
    command = go_on(done.stderr)
    assert command == ["rgbt", *call, "--resume"]
    assert not (tmp_path / "run" / "history.json").exists()
    done = in_processes([sys.executable, "-m", "pipelines.cli"], command[1:])
    assert done.returncode == 0, done.stderr
    assert losses(tmp_path / "run") == losses(one_process)
    stopped, whole = (read_log(run) for run in (tmp_path / "run", one_process))
    assert stopped == whole and len(whole) == 5  # two entries and three epochs


def read_log(run):
    """Step and validation loss of each row; what a clock measured differs."""
    with (run / "logs" / "metrics.csv").open() as file:
        return [(row["step"], row["epoch/val_loss"]) for row in csv.DictReader(file)]


@two_cores
def test_sigterm_to_one_of_two_processes_stops_both(small, synthetic_card, tmp_path):
    call = arguments(small, synthetic_card, tmp_path / "run", "--set", "stages.1.epochs=900", "--devices", "2")
    command = [sys.executable, "-m", "pipelines.cli", *call]
    with subprocess.Popen(command, cwd=HOME, env=settings(), stderr=subprocess.PIPE, text=True) as process:
        next(line for line in process.stderr if "epoch 2/900" in line)
        process.send_signal(signal.SIGTERM)
        _, error = process.communicate()
    assert process.returncode == 143, error
    assert go_on(error)[-3:] == ["--devices", "2", "--resume"]
    assert (tmp_path / "run" / "checkpoints").exists()


@two_cores
@pytest.mark.parametrize("picture", [0, 3])  # the second process reads the one, the first the other
def test_a_picture_that_one_process_cannot_read_ends_both_with_one_line(picture, small, synthetic_card, tmp_path):
    damaged = tmp_path / "damaged"
    shutil.copytree(synthetic_card.parent, damaged)
    os.truncate(sorted((damaged / "thermal").glob("train*"))[picture], 300)
    call = arguments(small, damaged / synthetic_card.name, tmp_path / "run", "--devices", "2")
    done = in_processes([sys.executable, "-m", "pipelines.cli"], call)
    assert done.returncode == 1
    assert done.stderr.count("rgbt: error:") == 1 and f"rgbt: error: {damaged}" in done.stderr, done.stderr
    assert "Traceback" not in done.stderr


@two_cores
def test_numbers_that_are_none_are_told_by_one_process_with_the_samples_of_both(small, synthetic_card, tmp_path):
    wild = ["stages.0.clip=1.0e+30", "stages.0.groups.0.lr=1.0e+30", "stages.0.optimiser.kind=sgd", "stages.0.epochs=2"]
    sets = [word for change in wild for word in ("--set", change)]
    call = arguments(small, synthetic_card, tmp_path / "run", "--devices", "2", *sets)
    done = in_processes([sys.executable, "-m", "pipelines.cli"], call)
    assert done.returncode == 1
    (line,) = [line for line in done.stderr.splitlines() if "rgbt: error:" in line]
    assert re.search(r"stage 'head', step \d+: the \w+ .*is nan on samples train_\d+(, train_\d+){3}; gradients", line)
    assert "Traceback" not in done.stderr
