"""``rgbt data init`` on folders of one's own: every kind of label, and what is asked for where numbers lack names."""

import argparse
import json
from typing import get_args

import numpy as np
import pytest

from data.card import DatasetCard, Split
from data.check.run import check_card
from data.dataset import PairDataset
from data.images import read_thermal, write_image
from data.subset import held_out_count, holdout
from data.thermal import Stored
from pipelines.cli import main
from pipelines.data_commands import init

SIZE = (32, 48)


def rgbt(capsys, *args):
    code = main(["data", "init", *map(str, args)])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def fails(capsys, *args):
    """Run init, which must fail with one line on stderr and leave no card; return that line."""
    code, _, err = rgbt(capsys, *args)
    assert code == 1 and err.count("\n") == 1 and "Traceback" not in err
    return err


def pictures(root, ids, rgb="visible/{}.png", thermal="infrared/{}.png"):
    noise = np.random.default_rng(0)
    for one in ids:
        for pattern, shape in ((rgb, (*SIZE, 3)), (thermal, SIZE)):
            path = root / pattern.format(one)
            path.parent.mkdir(parents=True, exist_ok=True)
            write_image(path, noise.integers(1, 255, shape, np.uint8))


def text(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content, encoding="utf-8")


def voc(*names):
    box = "<bndbox><xmin>2</xmin><ymin>3</ymin><xmax>20</xmax><ymax>30</ymax></bndbox>"
    return f"<annotation>{''.join(f'<object><name>{name}</name>{box}</object>' for name in names)}</annotation>"


IDS = [f"{number:03}" for number in range(20)]


def load(out, task):
    card = DatasetCard.load(out)
    samples = [sample for split in ("train", "val", "test") for sample in card.samples(split)]
    PairDataset(card, samples, task=task)[0, 0]
    return card, samples


def test_voc_boxes_name_their_classes(tmp_path, capsys):
    pictures(tmp_path, IDS)
    for one in IDS[:10]:
        text(tmp_path / f"Annotations/{one}.xml", voc("dog", "cat", "dog"))
    out = tmp_path / "c.yaml"
    code, said, _ = rgbt(capsys, tmp_path, "--out", out)
    card, samples = load(out, "detect")
    assert code == 0 and card.classes == ("cat", "dog") and card.labels.path == "Annotations/{id}.xml"
    assert "30 on 10 pairs" in said and "detect: cat, dog" in said
    assert len(samples) == 10 and samples[0].labels.tolist() == [1, 0, 1]
    assert len(card.samples("unlabelled")) == 10
    assert rgbt(capsys, tmp_path, "--out", out, "--force", "--classes", "dog")[0] == 0
    card, samples = load(out, "detect")
    assert card.classes == ("dog",) and card.labels.names == {"cat": None} and len(samples[0].labels) == 2


def test_yolo_needs_names_for_its_numbers(tmp_path, capsys):
    pictures(tmp_path, IDS)
    for one in IDS:
        text(tmp_path / f"labels/{one}.txt", "1 0.5 0.5 0.25 0.5\n")
    out = tmp_path / "c.yaml"
    assert "say their names as --classes a,b,c" in fails(capsys, tmp_path, "--out", out)
    assert not out.exists()
    text(tmp_path / "data.yaml", "names: {1: person, 2: car}\n")
    assert "data.yaml: names are numbered 1, 2; YOLO counts classes from 0" in fails(capsys, tmp_path, "--out", out)
    text(tmp_path / "data.yaml", "names: {1: car, 0: person}\n")
    assert rgbt(capsys, tmp_path, "--out", out)[0] == 0
    card, samples = load(out, "detect")
    assert card.classes == ("person", "car") and samples[0].boxes.tolist() == [[18, 8, 30, 24]]
    text(tmp_path / "labels/classes.txt", "a\nb\n")
    assert rgbt(capsys, tmp_path, "--out", out, "--force")[0] == 0
    assert DatasetCard.load(out).classes == ("a", "b")


@pytest.mark.parametrize("folder", ["masks", "."])
def test_masks_need_names_for_their_values(tmp_path, capsys, folder):
    beside = folder == "."
    names = {"rgb": "{}_rgb.png", "thermal": "{}_ir.png"} if beside else {}
    pictures(tmp_path, IDS, **names)
    for one in IDS:
        path = tmp_path / folder / (f"{one}_mask.png" if beside else f"{one}.png")
        path.parent.mkdir(exist_ok=True)
        write_image(path, np.repeat(np.array([[0, 1, 2, 255]], np.uint8), SIZE[0], 0).repeat(SIZE[1] // 4, 1))
    out = tmp_path / "c.yaml"
    assert "masks hold 0, 1, 2, 255; name the classes 1 … 2 as --classes" in fails(capsys, tmp_path, "--out", out)
    assert "name the classes 1 … 2" in fails(capsys, tmp_path, "--classes", "bole", "--out", out)
    assert rgbt(capsys, tmp_path, "--classes", "bole, bark", "--out", out)[0] == 0
    card, samples = load(out, "segment")
    assert card.classes == ("bole", "bark") and len(samples) == 20
    assert set(np.unique(PairDataset(card, samples, task="segment")[0, 0]["mask"])) == {0, 1, 2, 255}


def test_a_few_broken_frames_do_not_hold_up_the_card_that_check_needs(tmp_path, capsys):
    pictures(tmp_path, IDS)
    for one in IDS[3:5]:
        path = tmp_path / f"infrared/{one}.png"
        path.write_bytes(path.read_bytes()[:-30])
    out = tmp_path / "c.yaml"
    code, said, _ = rgbt(capsys, tmp_path, "--out", out)
    assert code == 0 and "infrared/003.png: the file is truncated or damaged" in said
    errors = check_card(DatasetCard.load(out), align=0).errors
    assert [f"infrared/{one}.png" in error for one, error in zip(IDS[3:5], errors, strict=True)] == [True, True]
    for one in IDS[5:]:
        (tmp_path / f"infrared/{one}.png").write_bytes((tmp_path / "infrared/003.png").read_bytes())
    assert "is truncated or damaged" in fails(capsys, tmp_path, "--out", tmp_path / "d.yaml")


@pytest.mark.parametrize("suffix", [".png", ".jpg"])
def test_pairs_whose_files_are_no_pictures_are_left_out(tmp_path, capsys, suffix):
    pictures(tmp_path, IDS, f"visible/{{}}{suffix}", f"infrared/{{}}{suffix}")
    (tmp_path / f"infrared/003{suffix}").write_bytes(b"")
    (tmp_path / f"visible/005{suffix}").write_bytes(b"<html>not found</html>")
    out = tmp_path / "c.yaml"
    code, said, _ = rgbt(capsys, tmp_path, "--out", out)
    assert code == 0 and "! 2 of 20 pairs have a file that cannot be read and are left out" in said
    assert f"infrared/003{suffix}: is empty" in said
    assert DatasetCard.load(out).ids("unlabelled") == [one for one in IDS if one not in ("003", "005")]
    for one in IDS[10:]:
        (tmp_path / f"visible/{one}{suffix}").write_bytes(b"no picture")
    assert "cannot be read" not in (line := fails(capsys, tmp_path, "--out", tmp_path / "d.yaml")) and "empty" in line


def test_masks_of_equal_channels_are_indices_and_colours_are_asked_for(tmp_path, capsys):
    pictures(tmp_path, IDS)
    (tmp_path / "masks").mkdir()
    for one in IDS:
        write_image(tmp_path / f"masks/{one}.png", np.full((*SIZE, 3), 1, np.uint8))
    out = tmp_path / "c.yaml"
    assert rgbt(capsys, tmp_path, "--classes", "bole", "--out", out)[0] == 0
    card, samples = load(out, "segment")
    assert np.unique(PairDataset(card, samples, task="segment")[0, 0]["mask"]).tolist() == [1]
    write_image(tmp_path / "masks/000.png", np.full((*SIZE, 3), (1, 2, 3), np.uint8))
    assert "3 different channels: say masks.palette" in fails(capsys, tmp_path, "--out", tmp_path / "d.yaml")


def test_folders_without_digits_are_classes_and_every_split_has_them_all(tmp_path, capsys):
    pictures(tmp_path, [f"{kind}/{one}" for kind in ("dry", "ice", "snow") for one in IDS], "rgb/{}.png", "ir/{}.png")
    out = tmp_path / "c.yaml"
    code, said, _ = rgbt(capsys, tmp_path, "--out", out)
    card, _ = load(out, "classify")
    assert code == 0 and card.image_classes == ("dry", "ice", "snow") and card.tasks() == ("classify",)
    assert "the class of a picture is the folder" in said and "classify: dry, ice, snow" in said
    for split, count in {"train": 42, "val": 9, "test": 9}.items():
        labels = [sample.image_label for sample in card.samples(split)]
        assert len(labels) == count and set(labels) == {0, 1, 2}


def test_small_classes_are_in_train_first_and_are_told_of(tmp_path, capsys):
    """Also with more folders than there are splits, none of them lands in one split as a whole."""
    counts = {"dry": 20, "fog": 1, "ice": 2, "mud": 3, "slush": 4, "snow": 7, "wet": 8}
    ids = [f"{kind}/{number:02}" for kind, count in counts.items() for number in range(count)]
    pictures(tmp_path, ids, "rgb/{}.png", "ir/{}.png")
    out = tmp_path / "c.yaml"
    _, said, _ = rgbt(capsys, tmp_path, "--out", out)
    assert "! too few pairs to be in train, val and test: fog (1), ice (2)\n" in said
    assert "contiguous stretches of each class" in said and "every class is in train" in said
    card = DatasetCard.load(out)
    split_of = {one: split for split in ("train", "val", "test") for one in card.ids(split)}
    assert sorted(split_of) == ids
    for kind, count in counts.items():
        order = [split_of[one] for one in ids if one.startswith(f"{kind}/")]
        assert list(dict.fromkeys(order)) == ["train", "val", "test"][: min(3, count)], kind
        assert order.count("train") >= order.count("val") >= order.count("test"), kind


def test_a_class_in_several_recordings_is_one_class(tmp_path, capsys):
    pictures(tmp_path, [f"{day}/{kind}/{n}" for day in "ab" for kind in ("dry", "wet") for n in range(5)])
    out = tmp_path / "c.yaml"
    assert rgbt(capsys, tmp_path, "--out", out)[0] == 0
    assert DatasetCard.load(out).ids("test") == ["b/dry/3", "b/dry/4", "b/wet/3", "b/wet/4"]


def test_without_a_split_to_choose_on_init_says_so(tmp_path, capsys):
    pictures(tmp_path, ["dry/1", "ice/1"], "rgb/{}.png", "ir/{}.png")
    assert "too few labelled pairs for a split val" in rgbt(capsys, tmp_path, "--out", tmp_path / "c.yaml")[1]


def test_a_table_of_classes(tmp_path, capsys):
    pictures(tmp_path, IDS)
    text(
        tmp_path / "labels.csv",
        "image,time,class\n" + "".join(f"{one},1,{'wet' if one < '004' else 'dry'}\n" for one in IDS),
    )
    out = tmp_path / "c.yaml"
    assert rgbt(capsys, tmp_path, "--out", out)[0] == 0
    card, samples = load(out, "classify")
    assert card.image_classes == ("dry", "wet") and [sample.image_label for sample in samples[:5]] == [1, 1, 0, 0, 0]
    text(tmp_path / "labels.csv", "file_name,label\n" + "".join(f"{one}.png,wet\n" for one in IDS))
    assert rgbt(capsys, tmp_path, "--out", out, "--force")[0] == 0
    assert [sample.image_label for sample in load(out, "classify")[1]] == [0] * 20
    text(tmp_path / "labels.csv", "image,time\n000,1\n")
    assert "expected one of ids and one of classes" in fails(capsys, tmp_path, "--out", out, "--force")


def test_a_table_sorted_by_class_gives_every_split_every_class(tmp_path, capsys):
    """Unless folders are recordings: those are kept whole."""
    pictures(tmp_path, IDS)
    kinds = {one: "dry" if one < "008" else "ice" if one < "014" else "wet" for one in IDS}
    text(tmp_path / "labels.csv", "id,label\n" + "".join(f"{one},{kind}\n" for one, kind in kinds.items()))
    out = tmp_path / "c.yaml"
    _, said, _ = rgbt(capsys, tmp_path, "--out", out)
    card = DatasetCard.load(out)
    assert "contiguous stretches of each class" in said
    for split in ("train", "val", "test"):
        assert {kinds[one] for one in card.ids(split)} == {"dry", "ice", "wet"}
    cut = holdout(card, 0.25, "classify")
    assert {kinds[one] for one in cut.ids("val")} == {kinds[one] for one in cut.ids("train")} == {"dry", "ice", "wet"}
    assert len(cut.ids("val")) == held_out_count(len(card.ids("train")), 0.25)
    assert sorted((*cut.ids("train"), *cut.ids("val"))) == sorted(card.ids("train"))


@pytest.mark.parametrize(
    ("table", "said"),
    [
        ("image,class\n000,wet\n001\n", "labels.csv:3: 1 columns, the header has 2"),
        ("image,class\n000,wet\n001,\n", "labels.csv:3: no class for the pair '001'; leave out"),
        ("image,class\n000,wet\n000,dry\n", "labels.csv:3: a second row for the pair '000'"),
        (f"image,class\n000,{'x' * 140_000}\n", "labels.csv:2: not a table (field larger than field limit"),
        ('image,class\n000,"wet\n', "labels.csv:2: not a table (unexpected end of data)"),
        ("", "labels.csv:1: columns are ; expected one of ids and one of classes"),
    ],
)
def test_a_broken_table_of_classes_is_one_line(tmp_path, capsys, table, said):
    pictures(tmp_path, IDS[:3])
    text(tmp_path / "labels.csv", table)
    assert said in fails(capsys, tmp_path, "--out", tmp_path / "c.yaml")
    assert not (tmp_path / "c.yaml").exists()


def test_a_column_of_numbers_is_no_column_of_classes(tmp_path, capsys):
    ids = [f"{number:03}" for number in range(300)]
    pictures(tmp_path, ids[:2])
    text(tmp_path / "labels.csv", "image,class\n" + "".join(f"{one},{one}.5\n" for one in ids))
    assert "300 classes, more than the 253" in fails(capsys, tmp_path, "--out", tmp_path / "c.yaml")


def sixteen_bits(root, values, ids=IDS):
    pictures(root, ids)
    for one in ids:
        frame = np.random.default_rng(0).integers(*values, SIZE, np.uint16)
        frame[0, 0] = 0  # a camera writes 0 where it has no value
        write_image(root / f"infrared/{one}.png", frame)


@pytest.mark.parametrize(
    ("stored", "values", "celsius"), [("decikelvin", (2732, 3032), "0.05"), ("centikelvin", (27315, 30315), "0")]
)
def test_parts_of_kelvin_become_degrees(tmp_path, capsys, stored, values, celsius):
    sixteen_bits(tmp_path, values)
    out = tmp_path / "c.yaml"
    for unit in ([], ["--unit", "celsius"]):
        code, said, _ = rgbt(capsys, tmp_path, "--stored", stored, *unit, "--out", out, "--force")
        assert code == 0 and "thermal unit is 'celsius', made of" in said
        assert f"(thermal_spec.stored: {stored}): degrees Celsius; 16 frames hold {celsius}" in said
        card = DatasetCard.load(out)
        assert (card.thermal_spec.unit, card.thermal_spec.stored) == ("celsius", stored)
    card = card.model_copy(update={"splits": {"all": Split(ids=tuple(IDS))}}).at(out)
    frame = read_thermal(card.samples("all")[0].thermal, card.thermal_spec)
    assert frame.dtype == np.float32 and frame[1:].min() > -0.1 and frame.max() < 30.1 and frame[0, 0] == -1000
    assert check_card(card, workers=1).errors == []


def test_what_is_stored_has_to_go_with_files_and_unit(tmp_path, capsys):
    sixteen_bits(tmp_path, (27315, 30315), IDS[:3])
    out = ("--out", tmp_path / "c.yaml")
    said = fails(capsys, tmp_path, "--unit", "celsius", *out)
    assert "unit 'celsius' means float32" in said and "add --stored decikelvin or --stored centikelvin" in said
    said = fails(capsys, tmp_path, "--stored", "centikelvin", "--unit", "counts16", *out)
    assert "--stored centikelvin becomes celsius, not 'counts16'" in said
    said = fails(capsys, tmp_path, "--stored", "radiometric", *out)
    assert "000.png: no radiometric JPEG of FLIR" in said
    pictures(tmp_path / "eight", IDS[:3])
    said = fails(capsys, tmp_path / "eight", "--stored", "decikelvin", *out)
    assert "--stored decikelvin needs numbers of more than 8 bits" in said
    assert set(_choices("--stored")) | {"linear", "planck"} == set(get_args(Stored))


def _choices(option):
    parser = argparse.ArgumentParser()
    init.configure(parser)
    return next(action.choices for action in parser._actions if option in action.option_strings)


def llvip(root):
    for part, names in {"train": ("010001", "020001", "020002"), "test": ("190001",)}.items():
        pictures(root, names, f"visible/{part}/{{}}.jpg", f"infrared/{part}/{{}}.jpg")
        for name in names:
            text(root / f"Annotations/{name}.xml", voc("person"))


def test_a_public_set_is_recognised_from_its_folder(tmp_path, capsys):
    llvip(tmp_path / "LLVIP")
    out = tmp_path / "c.yaml"
    code, said, _ = rgbt(capsys, tmp_path, "--out", out, "--json")
    answer = json.loads(said)
    assert code == 0 and answer["tasks"] == ["detect"] and answer["splits"] == {"train": 2, "val": 1, "test": 1}
    assert "is laid out as LLVIP ('llvip')" in answer["assumed"][0]
    assert "is already there" in fails(capsys, tmp_path, "--out", out)
    (tmp_path / "LLVIP/visible/train/020002.jpg").write_bytes(b"")
    code, said, _ = rgbt(capsys, tmp_path, "--out", out, "--force")
    assert code == 0 and "020002.jpg: is empty" in said and "train/020002" not in DatasetCard.load(out).ids("train")


@pytest.mark.parametrize("words", [("--classes", "person"), ("--unlabelled", "ids.txt")])
def test_what_a_recognised_set_has_no_use_for_is_refused(tmp_path, capsys, words):
    llvip(tmp_path / "LLVIP")
    said = fails(capsys, tmp_path, *words, "--out", tmp_path / "c.yaml")
    assert f"laid out as LLVIP ('llvip'), with classes and splits of its own: leave out {words[0]} and edit" in said
    assert not (tmp_path / "c.yaml").exists()


def test_an_unknown_layout_names_what_was_looked_for(tmp_path, capsys):
    text(tmp_path / "notes.txt", "no pictures")
    said = fails(capsys, tmp_path, "--out", tmp_path / "c.yaml")
    for part in ("no layout that is known; looked for mfnet: images/", "llvip: visible/train", "plain folders such as"):
        assert part in said
    assert "no such folder" in fails(capsys, tmp_path / "none", "--out", tmp_path / "c.yaml")
    assert "no such file or folder of labels" in _with_labels(tmp_path, capsys, "none.json")
    text(tmp_path / "set/empty/readme.md", "")
    assert "no labels here: expected VOC (.xml), YOLO (.txt) or masks" in _with_labels(tmp_path, capsys, "empty")
    text(tmp_path / "set/labels.xls", "")
    assert "expected COCO boxes (.json) or a table of classes (.csv)" in _with_labels(tmp_path, capsys, "labels.xls")
    text(tmp_path / "set/other/x.xml", voc("dog"))
    assert "no file (first: x.xml) has the name of a pair (first: 000)" in _with_labels(tmp_path, capsys, "other")


def _with_labels(tmp_path, capsys, name):
    root = tmp_path / "set"
    pictures(root, IDS[:2])
    return fails(capsys, root / "visible", root / "infrared", root / name, "--out", tmp_path / "c.yaml")


@pytest.mark.parametrize("names", ["a,,b", "a,a", ""])
def test_names_of_classes_are_checked(names, capsys):
    assert main(["data", "init", "x", "--classes", names]) == 2
    assert "is not a list of different names" in capsys.readouterr().err
