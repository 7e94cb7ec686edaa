import errno
import json
import os
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest

from data.card import DatasetCard
from data.dataset import PairDataset
from data.images import write_image
from data.synthetic.settings import SETTINGS
from pipelines.cli import main
from pipelines.data_commands import synth as synth_command


@pytest.fixture
def folder(synthetic_card, tmp_path):
    shutil.copytree(synthetic_card.parent, tmp_path / "set")
    return tmp_path / "set"


def rgbt(capsys, *args):
    code = main(["data", *map(str, args)])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def names(folder):
    return sorted(entry.name for entry in folder.iterdir())


def fails(capsys, *args, code=1):
    """Run a command that must fail with one line on stderr; return that line."""
    found, _, err = rgbt(capsys, *args)
    assert found == code
    assert err.count("\n") == 1 and err.endswith("\n") and "Traceback" not in err
    return err


# init


def test_init_writes_a_card_that_loads_and_says_what_it_assumed(folder, capsys):
    out = folder / "new.yaml"
    code, text, err = rgbt(capsys, "init", folder / "rgb", folder / "thermal", folder / "boxes.json", "--out", out)
    assert (code, err) == (0, "")
    card = DatasetCard.load(out)
    assert card.root == "." and card.rgb == "rgb/{id}.jpg" and card.thermal == "thermal/{id}.png"
    assert card.rgb_size == (64, 96) and card.thermal_size == (48, 80) and card.canvas is None
    assert card.classes == ("person", "car", "cone", "animal") and card.thermal_spec.unit == "counts16"
    assert {split: len(card.samples(split)) for split in card.splits} == {
        "train": 12, "val": 6, "test": 6, "unlabelled": 6,
    }  # fmt: skip
    for said in ("unit is 'counts16', since the files are uint16", "96×64", "80×48", "field 'split'", "same view"):
        assert said in text
    assert rgbt(capsys, "check", out)[0] == 0


def test_init_answers_programs(folder, capsys):
    code, text, _ = rgbt(capsys, "init", folder / "rgb", folder / "thermal", "--out", folder / "n.yaml", "--json")
    answer = json.loads(text)
    assert code == 0 and answer["splits"] == {"unlabelled": 30}
    assert any("no labels" in line for line in answer["assumed"])


def test_init_outside_the_folder_makes_an_absolute_root(folder, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(folder)
    out = tmp_path / "cards" / "a.yaml"
    assert rgbt(capsys, "init", "rgb", "thermal", "boxes.json", "--out", out)[0] == 0
    monkeypatch.chdir(tmp_path)
    card = DatasetCard.load(out)
    assert card.root == str(folder.resolve())
    assert card.samples("train")[0].rgb.is_file()
    assert sorted(entry.name for entry in out.parent.iterdir()) == ["a.unlabelled.txt", "a.yaml"]


def test_init_shares_out_contiguous_blocks_without_a_split_field(folder, capsys):
    coco = json.loads((folder / "boxes.json").read_text(encoding="utf-8"))
    for image in coco["images"]:
        del image["split"]
    (folder / "boxes.json").write_text(json.dumps(coco), encoding="utf-8")
    out = folder / "n.yaml"
    code, text, _ = rgbt(capsys, "init", folder / "rgb", folder / "thermal", folder / "boxes.json", "--out", out)
    assert code == 0 and "contiguous blocks" in text
    card = DatasetCard.load(out)
    ids = {split: [sample.id for sample in card.samples(split)] for split in ("train", "val", "test")}
    assert {split: len(members) for split, members in ids.items()} == {"train": 17, "val": 3, "test": 4}
    assert ids["train"] + ids["val"] + ids["test"] == sorted(ids["train"] + ids["val"] + ids["test"])


def pictures(folder, names, image):
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        write_image(path, image)


def test_init_keeps_sequences_together(tmp_path, capsys):
    names = [f"s{k // 4}/{k:03}" for k in range(40)]
    noise = np.random.default_rng(0).integers(1, 255, (32, 48, 3), np.uint8)
    pictures(tmp_path / "rgb", [f"{name}.png" for name in names], noise)
    pictures(tmp_path / "ir", [f"{name}.png" for name in names], noise[..., 0])
    images = [{"id": k, "file_name": f"{name}.png", "width": 48, "height": 32} for k, name in enumerate(names)]
    boxes = [{"id": k, "image_id": k, "category_id": 1, "bbox": [1, 1, 9, 9]} for k in range(40)]
    coco = {"images": images, "annotations": boxes, "categories": [{"id": 1, "name": "dog"}]}
    (tmp_path / "coco.json").write_text(json.dumps(coco), encoding="utf-8")
    out = tmp_path / "c.yaml"
    assert rgbt(capsys, "init", tmp_path / "rgb", tmp_path / "ir", tmp_path / "coco.json", "--out", out)[0] == 0
    card = DatasetCard.load(out)
    folders = [{sample.id.split("/")[0] for sample in card.samples(split)} for split in ("train", "val", "test")]
    assert [len(one) for one in folders] == [7, 2, 1]
    assert len(set.union(*folders)) == 10, "no sequence is in two splits"


def test_init_pairs_by_ending_within_one_folder_and_reads_three_equal_channels(tmp_path, capsys):
    grey = np.random.default_rng(0).integers(1, 255, (32, 48), np.uint8)
    pictures(tmp_path, ["a_rgb.png", "b_rgb.png", "a_mask.png"], np.dstack([grey, grey // 2, grey]))
    pictures(tmp_path, ["a_ir.png", "b_ir.png"], np.dstack([grey] * 3))
    code, text, _ = rgbt(capsys, "init", tmp_path, tmp_path, "--out", tmp_path / "c.yaml")
    card = DatasetCard.load(tmp_path / "c.yaml")
    assert code == 0 and (card.rgb, card.thermal) == ("{id}_rgb.png", "{id}_ir.png")
    assert "three channels" in text
    assert np.array_equal(PairDataset(card, card.samples("unlabelled"))[0, 0]["thermal"], grey)


def test_init_makes_a_canvas_where_sizes_vary(tmp_path, capsys):
    for k, (height, width) in enumerate([(90, 120), (100, 130), (110, 170)]):
        pictures(tmp_path / "rgb", [f"{k}.png"], np.full((height, width, 3), 7 + k, np.uint8))
        pictures(tmp_path / "ir", [f"{k}.png"], np.full((height // 2, width // 2), 7 + k, np.uint8))
    code, text, _ = rgbt(capsys, "init", tmp_path / "rgb", tmp_path / "ir", "--out", tmp_path / "c.yaml")
    card = DatasetCard.load(tmp_path / "c.yaml")
    assert code == 0 and card.canvas == (128, 160) and card.rgb_size is None
    assert "canvas of 160×128" in text
    assert [PairDataset(card, card.samples("unlabelled"))[k, 0]["rgb"].shape for k in range(3)] == [(128, 160, 3)] * 3


def test_init_leaves_labelled_images_without_pictures_out_of_the_splits_of_the_labels(folder, capsys):
    for gone in ("rgb/train_00001.jpg", "thermal/val_00002.png"):
        (folder / gone).unlink()
    out = folder / "n.yaml"
    base = ("init", folder / "rgb", folder / "thermal", folder / "boxes.json", "--out", out)
    code, text, _ = rgbt(capsys, *base)
    assert code == 0 and "! 2 labelled images have no pair of pictures and are left out" in text
    assert "splits: train 11, val 5, test 6, unlabelled 6" in text
    card = DatasetCard.load(out)
    assert [len(card.samples(split)) for split in card.splits] == [11, 5, 6, 6]
    assert card.splits["train"].file == "n.train.txt" and "train_00001" not in card.ids("train")
    assert rgbt(capsys, "check", out)[0] == 0
    labels = (folder / "boxes.json").read_text(encoding="utf-8")
    (folder / "boxes.json").write_text(labels.replace('"split": "val"', '"split": "../val"'), encoding="utf-8")
    assert "climbs out" in fails(capsys, *base, "--force")
    (folder / "boxes.json").write_text(labels.replace('"split": "val"', '"split": "a/val"'), encoding="utf-8")
    assert "split 'a/val' of the labels needs a list" in fails(capsys, *base, "--force")


def test_init_restricts_the_unlabelled_split_to_a_list(folder, capsys):
    (folder / "mine.txt").write_text("unlabelled_00003\nunlabelled_00001\n", encoding="utf-8")
    base = ("init", folder / "rgb", folder / "thermal", folder / "boxes.json", "--unlabelled", folder / "mine.txt")
    assert rgbt(capsys, *base, "--out", folder / "n.yaml")[0] == 0
    card = DatasetCard.load(folder / "n.yaml")
    assert [sample.id for sample in card.samples("unlabelled")] == ["unlabelled_00003", "unlabelled_00001"]
    (folder / "mine.txt").write_text("train_00001\n", encoding="utf-8")
    assert "'train_00001' has labels" in fails(capsys, *base, "--out", folder / "m.yaml")
    (folder / "mine.txt").write_text("nobody\n", encoding="utf-8")
    assert "'nobody' is not the id of a pair" in fails(capsys, *base, "--out", folder / "m.yaml")
    assert not (folder / "m.yaml").exists()


def test_init_refuses_what_it_cannot_pair(folder, tmp_path, capsys):
    (tmp_path / "empty").mkdir()
    out = ("--out", tmp_path / "c.yaml")
    assert "no such folder" in fails(capsys, "init", tmp_path / "none", folder / "thermal", *out)
    assert "no pictures here" in fails(capsys, "init", tmp_path / "empty", folder / "thermal", *out)
    assert "8 bits per channel" in fails(capsys, "init", folder / "thermal", folder / "rgb", *out)
    pictures(tmp_path / "other", ["z.png"], np.zeros((8, 8), np.uint8))
    assert "pairs with one of" in fails(capsys, "init", folder / "rgb", tmp_path / "other", *out)
    wrong_unit = fails(capsys, "init", folder / "rgb", folder / "thermal", "--unit", "intensity8", *out)
    assert "unit 'intensity8' means uint8" in wrong_unit
    pictures(folder / "thermal", ["train_00001.png"], np.zeros((48, 80), np.uint8))
    assert "mixed depths" in fails(capsys, "init", folder / "rgb", folder / "thermal", *out)
    assert not (tmp_path / "c.yaml").exists()


def test_init_replaces_a_card_only_when_told(folder, capsys):
    before = (folder / "card.yaml").read_bytes()
    base = ("init", folder / "rgb", folder / "thermal", "--out", folder / "card.yaml")
    assert "is already there; name another --out, or replace it with --force" in fails(capsys, *base)
    assert (folder / "card.yaml").read_bytes() == before
    assert rgbt(capsys, *base, "--force")[0] == 0
    assert (folder / "card.yaml").read_bytes() != before


# Bad input, one line each. What is wrong and what the line says is the business of test_check; here: the command.


@pytest.mark.parametrize(
    ("name", "content", "text"),
    [
        ("thermal/train_00001.png", None, "missing thermal file of pair 'train_00001'"),
        ("thermal/train_00001.png", lambda raw: raw[: len(raw) // 2], "truncated"),
        ("thermal/train_00001.png", np.full((30, 40), 900, np.uint16), "but the card says thermal_size: [48, 80]"),
        ("thermal/train_00001.png", np.zeros((48, 80), np.uint8), "unit 'counts16' means one channel of uint16"),
        ("boxes.json", lambda raw: raw.replace(b'"bbox": [', b'"bbox": [-50, 0, 20, 9], "was": [', 1), "lies outside"),
        ("boxes.json", lambda raw: raw.replace(b'"cone"', b'"corn"'), "class 'corn' is not among"),
        ("boxes.json", lambda raw: raw.replace(b'"split": "val"', b'"split": "valid"'), "split 'val' is empty"),
        ("card.yaml", lambda raw: raw.replace(b"thermal_spec", b"thermal_spek"), "unknown key 'thermal_spek'"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_1(folder, capsys, name, content, text):
    path = folder / name
    if content is None:
        path.unlink()
    elif callable(content):
        path.write_bytes(content(path.read_bytes()))
    else:
        write_image(path, content)
    assert text in fails(capsys, "check", folder / "card.yaml")


def test_a_card_that_is_not_there(tmp_path, capsys):
    for action in ("check", "show"):
        assert "none.yaml: no such file" in fails(capsys, action, tmp_path / "none.yaml")


def test_check_answers_programs(folder, capsys):
    (folder / "thermal/train_00001.png").unlink()
    code, out, _ = rgbt(capsys, "check", folder / "card.yaml", "--json")
    answer = json.loads(out)
    assert code == 1 and len(answer["errors"]) == 1 and answer["splits"]["train"]["pairs"] == 12


def test_check_prints_no_wall_of_lines(folder, capsys):
    shutil.rmtree(folder / "rgb")
    shutil.rmtree(folder / "masks")
    code, _, err = rgbt(capsys, "check", folder / "card.yaml")
    assert code == 1 and err.count("\n") == 31 and "and 24 more" in err


# show, synth


@pytest.mark.parametrize("augment", [(), ("--augment",)])
def test_show_draws_a_grid(folder, capsys, augment):
    out = folder / "grid.png"
    assert rgbt(capsys, "show", folder / "card.yaml", "--out", out, "--split", "val", "--n", "6", *augment)[0] == 0
    grid = cv2.imread(str(out))
    assert grid.shape == (2 * 2 * 171, 4 * 256, 3) and grid.std() > 10
    assert not grid[2 * 171 :, 2 * 256 :].any(), "six pairs leave two cells of eight empty"


def test_show_draws_what_a_recipe_makes_of_the_pairs(folder, capsys):
    grids = []
    for word in ("augment.flip=0", "augment.drop_thermal=1", "augment.drop_rgb=1"):
        code, text, _ = rgbt(capsys, "show", folder / "card.yaml", "--out", folder / "g.png", "--n", "1", "--set", word)
        assert code == 0 and "augmented" in text
        grids.append(cv2.imread(str(folder / "g.png")).astype(int))
    upper, lower = slice(0, 171), slice(171, 342)
    assert np.abs(grids[1][upper] - grids[0][upper]).mean() < np.abs(grids[1][lower] - grids[0][lower]).mean()
    assert (grids[1][lower] == 0).mean() > 0.5 and (grids[2][upper] == 0).mean() > 0.5
    assert "augment.nihgt" in fails(capsys, "show", folder / "card.yaml", "--set", "augment.nihgt=1")


def test_show_names_wrong_arguments(folder, capsys):
    assert "no split 'tset'" in fails(capsys, "show", folder / "card.yaml", "--split", "tset")
    assert "a picture's name ends in one of" in fails(capsys, "show", folder / "card.yaml", "--out", "grid.txt")
    assert "a picture's name ends in one of" in fails(capsys, "show", folder / "card.yaml", "--out", "grid.npy")


SMALL = ("--rgb-size", "48", "64", "--thermal-size", "32", "48")


def test_synth_writes_pairs_and_a_recording(tmp_path, capsys):
    out = tmp_path / "pairs"
    code, text, _ = rgbt(capsys, "synth", out, "--pairs", "train=3,val=2", *SMALL, "--video", "0.2", "--json")
    answer = json.loads(text)
    assert code == 0
    assert rgbt(capsys, "check", answer["card"])[0] == 0
    assert names(Path(answer["video"])) == ["rgb.mp4", "rig.yaml", "thermal.mkv", "truth.json"]
    assert DatasetCard.load(out / "card.yaml").rgb_size == (48, 64)
    assert rgbt(capsys, "synth", out, "--pairs", "train=1", *SMALL)[0] == 0
    assert len(list((out / "rgb").iterdir())) == 1, "the former set is replaced as a whole"


def test_synth_makes_a_hard_set_as_large_as_its_setting_says(tmp_path, capsys, monkeypatch):
    asked = []
    write = "data.synthetic.dataset.write_dataset"
    monkeypatch.setattr(write, lambda out, pairs, seed, *_, setting: asked.append((pairs, setting)))
    assert rgbt(capsys, "synth", tmp_path / "a", "--setting", "hard")[0] == 0
    assert rgbt(capsys, "synth", tmp_path / "b")[0] == 0
    assert asked == [(None, "hard"), (None, "default")]
    code, _, err = rgbt(capsys, "synth", tmp_path / "c", "--setting", "hrad")
    assert code == 2 and "choose from" in err
    for name, setting in SETTINGS.items():
        counts = ",".join(f"{split}={count}" for split, count in setting.pairs.items())
        assert counts in synth_command._SETTINGS[name], "what the help says"


def test_synth_refuses_wrong_arguments(tmp_path, capsys):
    out = tmp_path / "pairs"
    assert main(["data", "synth", str(out), "--pairs", "train:3"]) == 2
    assert "'train:3' is not of the form" in capsys.readouterr().err
    assert "expected a number from 1" in fails(capsys, "synth", out, "--pairs", "trian=3")
    assert "even numbers" in fails(capsys, "synth", out, "--rgb-size", "47", "64")
    assert "expected 32 to 8192 pixels" in fails(capsys, "synth", out, "--rgb-size", "10000000000", "64")
    out.mkdir()
    (out / "thesis.txt").write_text("mine", encoding="utf-8")
    assert "not replaced" in fails(capsys, "synth", out, "--pairs", "train=1", *SMALL)
    assert names(out) == ["thesis.txt"] and names(tmp_path) == ["pairs"]


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("synth", "pairs", "--seed", "-1"), "argument --seed: '-1' is not a whole number from 0"),
        (("synth", "pairs", "--seed", "1.5"), "argument --seed: '1.5' is not a whole number from 0"),
        (("show", "card.yaml", "--augment", "--seed", "-1"), "argument --seed: '-1' is not a whole number from 0"),
        (("synth", "pairs", "--video", "nan"), "argument --video: 'nan' is not a number of seconds from 0.1"),
        (("synth", "pairs", "--video", "inf"), "argument --video: 'inf' is not"),
        (("synth", "pairs", "--video", "-3"), "argument --video: '-3' is not"),
        (("synth", "pairs", "--video", "long"), "argument --video: 'long' is not"),
    ],
)
def test_numbers_out_of_range_are_wrong_usage(folder, capsys, monkeypatch, words, says):
    monkeypatch.chdir(folder)
    before = names(folder)
    code, _, err = rgbt(capsys, *words)
    assert code == 2 and "Traceback" not in err
    assert says in err.splitlines()[-1]
    assert names(folder) == before


def test_synth_leaves_the_pictures_beside_a_card_of_ones_own_alone(folder, capsys, monkeypatch):
    """'data init' writes card.yaml beside the pictures by default: that folder is no generated one."""
    for name in ("card.yaml", "truth.json", "scenes.json"):
        (folder / name).unlink()
    monkeypatch.chdir(folder)
    assert rgbt(capsys, "init", "rgb", "thermal", "boxes.json")[0] == 0
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    assert folder / "card.yaml" in before
    for out in (folder, "."):
        assert "not replaced" in fails(capsys, "synth", out, "--pairs", "train=1", *SMALL)
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before


def full_disk(*args, **kwargs):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_a_full_disk_leaves_nothing_of_a_generated_set(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("data.synthetic.dataset.write_image", full_disk)
    assert "no space left" in fails(capsys, "synth", tmp_path / "pairs", "--pairs", "train=2", *SMALL)
    assert names(tmp_path) == []


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is always full")
def test_a_full_disk_while_a_recording_is_encoded(tmp_path, capsys, monkeypatch):
    import av

    opened = av.open
    monkeypatch.setattr(
        "av.open", lambda name, *args, **kwargs: opened("/dev/full", *args, format="matroska", **kwargs)
    )
    args = ("synth", tmp_path / "pairs", "--pairs", "train=1", *SMALL, "--video", "1")
    assert "no space left" in fails(capsys, *args)
    assert names(tmp_path) == []


def test_a_full_disk_leaves_neither_card_nor_lists(folder, tmp_path, capsys, monkeypatch):
    out = tmp_path / "cards" / "c.yaml"
    out.parent.mkdir()
    monkeypatch.setattr("data.yaml_file.os.fsync", full_disk)
    assert "no space left" in fails(capsys, "init", folder / "rgb", folder / "thermal", "--out", out)
    assert names(out.parent) == []


# Real pairs, where they lie beside the checkout


def test_init_and_check_on_llvip(shared_data, tmp_path, capsys):
    root = shared_data / "llvip-small"
    out = tmp_path / "llvip.yaml"
    folders = (root / "visible", root / "infrared", root / "boxes.json")
    assert rgbt(capsys, "init", *folders, "--unlabelled", root / "unlabelled.txt", "--out", out)[0] == 0
    card = DatasetCard.load(out)
    sizes = {split: len(card.samples(split)) for split in card.splits}
    assert sizes == {"train": 179, "val": 60, "unlabelled": 1152}
    assert sum(len(sample.boxes) for sample in card.samples("train") + card.samples("val")) == 716


def test_init_and_check_on_roadscene(shared_data, tmp_path, capsys):
    root = shared_data / "roadscene"
    out = tmp_path / "road.yaml"
    assert rgbt(capsys, "init", root / "visible", root / "infrared", root / "boxes.json", "--out", out)[0] == 0
    code, text, _ = rgbt(capsys, "check", out)
    assert code == 0 and "68 pairs" in text and "18 pairs" in text
    card = DatasetCard.load(out)
    assert card.canvas is not None and PairDataset(card, card.samples("val"))[3, 0]["rgb"].shape[:2] == card.canvas
