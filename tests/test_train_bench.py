"""The training bench favours neither loop, measures the real training path, and says how to measure again."""

import json

import pytest
import torch
from lightning.fabric import Fabric

from pipelines import train_bench
from pipelines.cli import main
from pipelines.train_bench import (
    BLOCK,
    WARM_UP,
    BareLoop,
    Interleaved,
    build_pair,
    figures,
    make_batches,
    measure_train,
    train_ours,
)

TINY = {"arch": "test_resnet", "size": (64, 64), "batch": 2}


class Machine:
    """Its steps take ever longer, by the same factor from one to the next; ours cost ``ours`` s, bare ones ``bare``."""

    def __init__(self, monkeypatch, ours, bare, growth=1.0):
        self.now, self.factor, self.growth, self.done = 0.0, 1.0, growth, ""
        self.costs = {"o": ours, "b": bare}
        monkeypatch.setattr(train_bench, "perf_counter", lambda: self.now)
        monkeypatch.setattr(train_bench, "process_time", lambda: 2 * self.now)

    def step(self, loop):
        self.done += loop
        self.now += self.costs[loop] * self.factor
        self.factor *= self.growth

    def measure(self, pairs):
        source = Interleaved([{}], lambda steps: [self.step("b") for _ in range(steps)], pairs)
        assert sum(self.step("o") is None for _ in source) == len(source)
        return figures(source.pairs)


def test_a_slowing_machine_favours_neither(monkeypatch):
    machine = Machine(monkeypatch, ours=1.0, bare=1.0, growth=1.05)
    found = machine.measure(pairs=4)
    warm_up, block = "o" * WARM_UP + "b" * WARM_UP, BLOCK
    assert machine.done == warm_up + 2 * ("o" * block + "bb" * block + "o" * block)
    # Ours first in every pair would look faster by what a machine slows down over a block.
    slower = 1.05**block
    assert found["train_ratio_range"] == pytest.approx([1 / slower, slower], abs=1e-3)
    assert found["train_ratio"] == pytest.approx(1.0, abs=0.01)


def test_figures_hang_together(monkeypatch):
    found = Machine(monkeypatch, ours=0.5, bare=0.4).measure(pairs=4)
    assert found["train_ratio"] == found["cpu_ratio"] == pytest.approx(0.8)
    assert found["train_ratio_quartiles"] == pytest.approx([0.8, 0.8])
    assert (found["ours_steps_per_s"], found["bare_steps_per_s"]) == (2.0, 2.5)
    assert (found["ours_cpu_ms"], found["bare_cpu_ms"]) == (1000.0, 800.0)
    assert (found["repeats"], found["steps"]) == (4, 4 * BLOCK)


def test_both_loops_do_the_same_work():
    """The weights then agree: same loss, clipping, rate, decay, statistics, all blocks; ours is the real Trainer."""
    batches = make_batches(2, TINY["batch"], TINY["size"])
    ours, bare, untrained = (build_pair(TINY["arch"], TINY["size"]) for _ in range(3))
    source = Interleaved(batches, BareLoop(bare, batches), pairs=2)
    train_ours(ours, source, Fabric(accelerator="cpu", devices=1))
    trained, start = bare.state_dict(), untrained.state_dict()
    for name, value in ours.state_dict().items():
        torch.testing.assert_close(value, trained[name], rtol=1e-4, atol=1e-5, msg=lambda text, n=name: f"{n}: {text}")
    assert [name for name, value in ours.named_parameters() if torch.equal(value, start[name])] == []
    assert len(source.pairs) == 2


def test_batches_are_those_of_training():
    """What unpack makes: same keys, dtypes and shapes; boxes inside the picture."""
    batch = make_batches(1, 3, (64, 96))[0]
    assert batch["rgb"].shape == (3, 64, 96, 3) and batch["rgb"].dtype == torch.uint8
    assert batch["thermal"].shape == (3, 64, 96) and batch["thermal"].dtype == torch.float32
    assert all(len(boxes) == len(labels) > 0 for boxes, labels in zip(batch["boxes"], batch["labels"], strict=True))
    boxes = torch.cat(batch["boxes"])
    assert (boxes[:, :2] >= 0).all() and (boxes[:, 2:] > boxes[:, :2]).all()
    assert (boxes[:, 2] <= 96).all() and (boxes[:, 3] <= 64).all()


def test_measure():
    threads = torch.get_num_threads()
    found = measure_train(**TINY, steps=3, threads=1)
    assert json.loads(json.dumps(found))["machine"]["cpu"]
    assert (found["threads"], found["steps"], found["repeats"]) == (1, 4, 4)
    assert 0.2 < found["train_ratio"] < 5
    assert found["versions"]["torch"] == torch.__version__.partition("+")[0]
    assert torch.get_num_threads() == threads


def test_command(capsys):
    words = ["bench", "--train", "--arch", "test_resnet", "--size", "64", "64", "--batch", "2", "--steps", "2"]
    assert main([*words, "--threads", "1", "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert answer["command"] == " ".join(["rgbt", *words, "--threads", "1"])
    assert set(answer) >= {"train_ratio", "ours_steps_per_s", "bare_steps_per_s", "machine", "versions", "repeats"}


def test_waiting_for_data(synthetic_card, capsys):
    """Card and recipe: the share of a short real epoch that is spent waiting."""
    words = ["bench", "--train", "--arch", "test_resnet", "--size", "64", "64", "--batch", "2", "--steps", "2"]
    assert main([*words, "--threads", "1", "--data", str(synthetic_card), "--recipe", "demo"]) == 0
    rows = dict(line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines()[1:])
    assert 0 <= float(rows["wait_share"]) <= 1
    assert 0 < float(rows["wait_share_first_epoch"]) <= 1


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ([], "name a bundle's folder, or say --train"),
        (["runs/bundle", "--train"], "leave out 'runs/bundle'"),
        (["--train", "--live"], "leave out '--live'"),
        (["--train", "--batch", "1", "2"], "one --batch, found 1 2"),
        (["--train", "--data", "card.yaml"], "--data and --recipe go together"),
        (["runs/bundle", "--recipe", "staged"], "--recipe is for training"),
    ],
)
def test_what_does_not_go_together_is_one_line(capsys, words, says):
    assert main(["bench", *words]) == 2
    said = capsys.readouterr().err
    assert says in said
    assert said.count("\n") == 1


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--steps", "0"], "--steps is 0"),
        (["--batch", "0"], "--batch is 0"),
        (["--threads", "-1"], "--threads is -1"),
        (["--size", "100", "64"], "--size is 100 64"),
        (["--arch", "resnet0"], "resnet0"),
    ],
)
def test_numbers_out_of_range_are_one_line(capsys, words, says):
    assert main(["bench", "--train", *words]) == 1
    said = capsys.readouterr().err
    assert says in said
    assert said.count("\n") == 1
