"""The bench of the loader: what it answers, and what it refuses."""

import json

import cv2
import pytest

from data.augment.degrade import DEGRADATIONS
from data.augment.spec import AugmentSpec
from data.card import DatasetCard
from pipelines.cli import main
from pipelines.freed_memory import keep_freed_memory
from pipelines.loader_bench import measure_loader


def test_a_card_is_measured_as_it_is_augmented(synthetic_card, capsys):
    threads = cv2.getNumThreads()
    words = ["bench", "--data", str(synthetic_card), "--set", "augment.albumentations=[{name: CLAHE}]", "--pairs", "2"]
    assert main([*words, "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert [row["row"] for row in answer["rows"]] == ["none", "flip + affine", "default recipe"]
    for row in answer["rows"]:
        assert 0 < row["loader_ratio"] < 3 and row["pairs_per_s"] > 0 and row["ms_per_pair"] > 0
        assert row["workers_for_1000_pairs_per_s"] >= row["ms_per_pair"]
    assert set(answer["transforms_ms"]) >= {*DEGRADATIONS, "flip", "affine", "perspective", "albumentations.CLAHE"}
    assert answer["size"] == {"rgb": [64, 96], "thermal": [48, 80]} and answer["files"]["rgb"] == ".jpg"
    assert cv2.getNumThreads() == threads


def test_a_person_reads_a_table(synthetic_card, capsys):
    assert main(["bench", "--data", str(synthetic_card), "--recipe", "demo", "--pairs", "1"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == f"$ rgbt bench --data {synthetic_card} --recipe demo --pairs 1"
    assert sum(line.startswith(("none ", "flip + affine ", "demo ")) for line in lines) == 3
    assert any(line.startswith("motion_blur ") for line in lines)


def test_bare_decoding_is_slower_than_nothing(synthetic_card, monkeypatch):
    """The ratio is ours over bare: where bare decoding takes twice, it doubles."""
    ticks = iter(range(100_000))
    monkeypatch.setattr("pipelines.loader_bench.thread_time", lambda: float(next(ticks)))
    found = measure_loader(DatasetCard.load(synthetic_card), AugmentSpec(), "recipe", pairs=3)
    assert [row["loader_ratio"] for row in found["rows"]] == [1.0, 1.0, 1.0]
    assert found["rows"][0]["ms_per_pair"] == 1000 and found["rows"][2]["augment_ms"] == 0


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["runs/bundle", "--data", "card.yaml"], "leave out 'runs/bundle'"),
        (["--data", "card.yaml", "--live"], "leave out '--live'"),
        (["--train", "--pairs", "3"], "--pairs is for a card's loader"),
    ],
)
def test_what_does_not_go_together_is_one_line(capsys, words, says):
    assert main(["bench", *words]) == 2
    said = capsys.readouterr().err
    assert says in said and said.count("\n") == 1


def test_wrong_arguments_are_one_line(synthetic_card, capsys):
    assert main(["bench", "--data", str(synthetic_card), "--pairs", "0"]) == 1
    assert "--pairs is 0" in capsys.readouterr().err
    assert main(["bench", "--data", str(synthetic_card), "--set", "augment.albumentations=[{name: Rotate}]"]) == 1
    assert "no transform 'Rotate' of a picture's pixels alone" in capsys.readouterr().err


def test_freed_memory_is_kept_where_the_c_library_can(monkeypatch):
    assert keep_freed_memory() in (True, False)
    monkeypatch.setattr("sys.platform", "darwin")
    assert not keep_freed_memory()
