"""``rgbt data init`` where one folder holds several files of each pair: patterns, and what is not used."""

import numpy as np
import pytest

from data.card import DatasetCard
from data.images import write_image
from pipelines.cli import main

IDS = ("a1", "b2", "c3")


@pytest.fixture
def shots(tmp_path):
    """Colour, raw counts and the picture that the camera shows, side by side; the last of only two pairs."""
    noise = np.random.default_rng(0)
    root = tmp_path / "shots"
    root.mkdir()
    for one in IDS:
        write_image(root / f"{one}_rgb.png", noise.integers(0, 255, (24, 32, 3), np.uint8))
        write_image(root / f"{one}_thermal16.png", noise.integers(4000, 9000, (24, 32), np.uint16))
        if one != "b2":
            write_image(root / f"{one}_ir.jpg", noise.integers(0, 255, (24, 32), np.uint8))
    return root


def init(capsys, *args):
    code = main(["data", "init", *map(str, args)])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def test_files_of_the_same_pairs_that_are_not_used_are_told_of(shots, tmp_path, capsys):
    out = tmp_path / "c.yaml"
    code, said, _ = init(capsys, shots, "--out", out)
    assert code == 0 and DatasetCard.load(out).thermal == "{id}_thermal16.png"
    line = next(line for line in said.splitlines() if "not used" in line)
    assert line.strip().startswith(
        "! 2 files {id}_ir.jpg belong to these pairs too, and are not used (first: a1_ir.jpg)"
    )
    assert line.endswith(f"name them as '{shots}/{{id}}_ir.jpg'") and said.count("not used") == 1


def test_patterns_choose_among_them(shots, tmp_path, capsys):
    out = tmp_path / "c.yaml"
    code, said, _ = init(capsys, shots / "{id}_rgb.png", shots / "{id}_ir.jpg", "--out", out)
    card = DatasetCard.load(out)
    assert code == 0 and (card.rgb, card.thermal) == ("{id}_rgb.png", "{id}_ir.jpg")
    assert card.ids("unlabelled") == ["a1", "c3"] and card.thermal_spec.unit == "intensity8"
    assert "1 files" in said and "no partner" in said and "not used" not in said


def test_a_pattern_may_name_folders_within_the_id(shots, tmp_path, capsys):
    for one in IDS:
        for name in ("colour", "heat"):
            (tmp_path / f"trips/{one}/{name}").mkdir(parents=True)
        (shots / f"{one}_rgb.png").rename(tmp_path / f"trips/{one}/colour/0.png")
        (shots / f"{one}_thermal16.png").rename(tmp_path / f"trips/{one}/heat/0.png")
    patterns = (tmp_path / "trips/{dir}/colour/{name}.png", tmp_path / "trips/{dir}/heat/{name}.png")
    assert init(capsys, *patterns, "--out", tmp_path / "c.yaml")[0] == 0
    card = DatasetCard.load(tmp_path / "c.yaml")
    assert card.ids("unlabelled") == ["a1/0", "b2/0", "c3/0"] and card.rgb == "{dir}/colour/{name}.png"
    assert card.samples("unlabelled")[1].thermal.is_file()


@pytest.mark.parametrize(
    ("rgb", "thermal", "said"),
    [
        ("{id}_rgb.png", None, "the pattern of one sensor; name thermal's beside it"),
        (
            "{id}_rgb.png",
            "{id}_tir.png",
            "no file follows the pattern {id}_tir.png (there are 8 files, such as a1_ir.jpg)",
        ),
        ("{stem}_rgb.png", "{id}_ir.jpg", "a path pattern holds {id} and no other braces"),
        ("none/{id}.png", "{id}_ir.jpg", "none: no such folder"),
    ],
)
def test_a_wrong_pattern_is_one_line(shots, tmp_path, capsys, rgb, thermal, said):
    words = [shots / word for word in (rgb, thermal) if word]
    code, _, err = init(capsys, *words, "--out", tmp_path / "c.yaml")
    assert code == 1 and said in err and err.count("\n") == 1 and not (tmp_path / "c.yaml").exists()
