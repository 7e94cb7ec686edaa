"""Each known layout on a miniature of the real set: its names, depths, channels, lists and quirks, none of its data."""

import json
import re
from collections.abc import Callable
from itertools import combinations
from pathlib import Path

import cv2
import numpy as np
import pytest

from data.card import DatasetCard
from data.dataset import PairDataset
from data.errors import DataError
from data.layouts.found import MARGIN, Found, has, hold_out, hold_out_stretches, list_ids, read_list, stretches
from data.layouts.known import LAYOUTS, find_layout, looked_for
from data.layouts.recognise import recognise_set
from pipelines.cli import main
from pipelines.recipe_file import load_recipe

CONTRIBUTING = Path(__file__).parents[1] / "CONTRIBUTING.md"
EXAMPLE_NEEDS = Found, has
"""What the layout that CONTRIBUTING.md shows uses beside the names of this file."""
SIZE = (48, 64)
"""Height, width of every picture here."""
BOX = "<object><name>{name}</name><bndbox><xmin>4</xmin><ymin>5</ymin><xmax>30</xmax><ymax>40</ymax></bndbox></object>"


def draw(path: Path, channels: int, dtype: type = np.uint8, top: int = 200) -> None:
    """Write a picture of noise, different for each path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(list(path.as_posix().encode()))
    shape = SIZE if channels == 1 else (*SIZE, channels)
    assert cv2.imwrite(str(path), noise.integers(1, top, shape).astype(dtype))


def mask(path: Path, classes: int) -> None:
    """Write indices 0 … classes, each in a block of its own."""
    path.parent.mkdir(parents=True, exist_ok=True)
    indices = np.arange(SIZE[0] * SIZE[1]).reshape(SIZE) * (classes + 1) // (SIZE[0] * SIZE[1])
    assert cv2.imwrite(str(path), indices.astype(np.uint8))


def text(path: Path, *lines: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def voc(path: Path, *names: str) -> None:
    size = f"<size><width>{SIZE[1]}</width><height>{SIZE[0]}</height><depth>3</depth></size>"
    boxes = "".join(BOX.format(name=name) for name in names)
    text(path, f"<annotation><folder>x</folder><filename>other_name.jpg</filename>{size}{boxes}</annotation>")


def mfnet(root: Path) -> dict[str, int]:
    ids = {"train": ["00001D", "00002D", "00003N"], "val": ["00006N"], "test": ["00004D", "00008N"]}
    for one in (*ids["train"], *ids["val"], *ids["test"], "00001D_flip"):
        draw(root / f"images/{one}.png", 4)
        mask(root / f"labels/{one}.png", 8)
    text(root / "train.txt", *ids["train"], "00001D_flip ")
    text(root / "val.txt", *ids["val"])
    text(root / "test.txt", *ids["test"], "")
    text(root / "test_day.txt", "00004D")
    text(root / "test_night.txt", "00008N")
    for name in ("black_list.txt", "make_flip.py", "readme.txt"):
        text(root / name, "# 00007N")
    return {"train": 3, "val": 1, "test": 2, "test_day": 1, "test_night": 1}


def msrs(root: Path) -> dict[str, int]:
    numbers = range(1, 241)
    for number in numbers:
        part = "test" if number % 4 == 0 else "train"  # as the real set is split
        name = f"{number:05}{'D' if number > 120 else 'N'}.png"
        if number % 20 < 5:
            draw(root / part / "vi" / name, 3)
            draw(root / part / "ir" / name, 1)
            mask(root / part / "Segmentation_labels" / name, 8)
    draw(root / "detection/vi/1042.png", 3)
    text(root / "detection/labels/1042.txt", "0 0.672656 0.751042 0.173437 0.497917")
    return {"train": 33, "val": 3, "test": 24}


def pst900(root: Path) -> dict[str, int]:
    for part, bags in {"train": ("10_bag11", "22_bag1a", "31_bag1a"), "test": ("5_bag21",)}.items():
        for bag in bags:
            for frame in range(7, 7 + (2 if bag == "22_bag1a" else 4)):
                name = f"{bag}_rect_rgb_frame{frame:010}.png"
                draw(root / part / "rgb" / name, 3)
                draw(root / part / "thermal" / name, 1)
                draw(root / part / "thermal_raw" / name, 1, np.uint16, 30000)
                draw(root / part / "depth" / name, 1, np.uint16, 9000)
                mask(root / part / "labels" / name, 4)
    return {"train": 8, "val": 2, "test": 4}


def fmb(root: Path) -> dict[str, int]:
    for part, numbers in {"train": range(0, 120, 2), "test": range(1, 11, 2)}.items():
        for number in numbers:
            name = f"{number:05}.png"
            draw(root / part / "Visible" / name, 3)
            draw(root / part / "Infrared" / name, 1)
            mask(root / part / "Label" / name, 14)
            draw(root / part / "color" / name, 3)
    return {"train": 47, "val": 10, "test": 5}


def kaist(root: Path, frames: int = 40) -> dict[str, int]:
    for video in ("set00/V000", "set00/V001", "set03/V000", "set03/V001", "set05/V000", "set06/V000", "set09/V000"):
        for frame in range(frames):
            for sensor in ("visible", "lwir"):
                path = root / "images" / video / sensor / f"I{frame:05}.jpg"
                if frame % 20 in (1, 2, 3, 19):
                    draw(path, 3 if sensor == "visible" else 1)
                else:  # what the official rule leaves out is not even looked at
                    text(path, "no picture")
            text(
                root / "annotations" / video / f"I{frame:05}.txt",
                "% bbGt version=3",
                "person 4 5 20 56 1 0 0 0 0 0 0",
                "person 9 5 20 56 2 0 0 0 0 0 0",
                "person 2 5 10 30 0 0 0 0 0 0 0",
                "people 1 1 9 9 0 0 0 0 0 0 0",
                "person? 1 1 9 9 1 0 0 0 0 0 0",
                "cyclist 1 1 9 9 0 0 0 0 0 0 0",
            )
    draw(root / "images/samples/visible/best.jpg", 3)  # in no set
    draw(root / "images/samples/lwir/best.jpg", 1)
    for video in ("set00/V000", "set00/V001", "set03/V000", "set03/V001", "set05/V000"):
        with (root / "imageSets/train-all-02.txt").open("a") if (root / "imageSets").is_dir() else _made(root) as file:
            file.writelines(f"{video}/I{frame:05}\n" for frame in range(frames) if frame % 20 in (1, 3, 19))
    return {"train": 24, "val": 6, "test": 4}


def _made(root: Path):
    (root / "imageSets").mkdir(parents=True)
    return (root / "imageSets/train-all-02.txt").open("w")


def llvip(root: Path) -> dict[str, int]:
    for part, cameras in {"train": (1, 2, 3, 4), "test": (19, 20)}.items():
        for camera in cameras:
            for frame in range(1, 4):
                name = f"{camera:02}{frame:04}"
                draw(root / "visible" / part / f"{name}.jpg", 3)
                draw(root / "infrared" / part / f"{name}.jpg", 3 if frame == 4 else 1)
                voc(root / f"Annotations/{name}.xml", *["person"] * (frame - 1))
    return {"train": 9, "val": 3, "test": 6}


def flir_aligned(root: Path) -> dict[str, int]:
    root = root / "align"  # the archive has a folder of its own
    lists = {"train": range(2, 122), "validation": range(8864, 8868)}
    for part, numbers in lists.items():
        names = [f"FLIR_{number:05}" for number in numbers]
        text(root / f"align_{part}.txt", *(f"{name}_PreviewData" for name in names))
        for name in names:
            draw(root / f"JPEGImages/{name}_RGB.jpg", 3)
            draw(root / f"JPEGImages/{name}_PreviewData.jpeg", 1)
            voc(root / f"Annotations/{name}_PreviewData.xml", "car", "person", "dog")
    return {"train": 97, "val": 20, "test": 4}


def m3fd(root: Path) -> dict[str, int]:
    for number in range(150):
        draw(root / f"Vis/{number:05}.png", 3)
        draw(root / f"Ir/{number:05}.png", 1)
        voc(root / f"Annotation/{number:05}.xml", "People", "Lamp")
    return {"train": 47, "val": 47, "test": 50}


TREES: dict[str, Callable[[Path], dict[str, int]]] = {
    "mfnet": mfnet,
    "msrs": msrs,
    "pst900": pst900,
    "fmb": fmb,
    "kaist": kaist,
    "llvip": llvip,
    "flir-aligned": flir_aligned,
    "m3fd": m3fd,
}
"""Layout → function that writes a miniature of its set and returns split → pairs."""
SIZES = {
    "mfnet": (480, 640), "msrs": (480, 640), "pst900": (720, 1280), "fmb": (600, 800), "kaist": (512, 640),
    "llvip": (512, 640), "flir-aligned": (512, 640), "m3fd": (480, 640),
}  # fmt: skip
"""Recipe → height, width that the literature trains at; canvases are the next multiples of 32."""


@pytest.fixture(scope="module", params=LAYOUTS)
def made(request, tmp_path_factory):
    """Name of a layout, its miniature tree, split → pairs, and the card that was written for it."""
    root = tmp_path_factory.mktemp(request.param)
    counts = TREES[request.param](root)
    out = tmp_path_factory.mktemp("cards") / "card.yaml"
    layout = recognise_set(root, out)
    assert layout is not None
    layout.write(out)
    return request.param, root, counts, DatasetCard.load(out), layout


def test_a_layout_is_recognised_and_its_splits_are_the_official_ones(made):
    name, root, counts, card, layout = made
    key, _, found = find_layout(root)
    assert key == name and card.name == found.name and found.name in layout.assumed[0]
    assert layout.counts == counts == {split: len(card.samples(split)) for split in card.splits}


def test_no_other_layout_takes_it_for_its_own(made):
    name, root, *_ = made
    folders = [root, *(path for path in root.iterdir() if path.is_dir())]
    assert {key for key, (read, _) in LAYOUTS.items() for folder in folders if read(folder)} == {name}


def test_every_pair_of_every_split_loads_with_its_labels(made):
    *_, card, _ = made
    for split in card.splits:
        samples = card.samples(split)
        for task in card.tasks() or ("detect",):
            pairs = PairDataset(card, samples, task=task)
            for number in (0, len(samples) - 1):
                pair = pairs[number, 0]
                assert pair["rgb"].shape == (*SIZE, 3) and pair["thermal"].shape == SIZE
                assert samples[number].has(task) or not card.tasks()
            if task == "segment":
                first = 1 if card.masks.zero == "ignore" else 0
                assert set(np.unique(pair["mask"])) - {255} == set(range(first, len(card.classes) + 1))
        if "detect" in card.tasks():
            labels = {int(label) for sample in samples for label in sample.labels if label >= 0}
            assert labels and labels <= set(range(len(card.classes)))


def test_no_pair_is_learned_from_and_judged(made):
    *_, card, _ = made
    ids = {split: {sample.id for sample in card.samples(split)} for split in ("train", "val", "test")}
    for one, other in combinations(ids, 2):
        assert not ids[one] & ids[other], (one, other)


@pytest.mark.parametrize("name", SIZES)
def test_a_set_has_a_recipe_of_its_name(name, tmp_path):
    card, _ = built(tmp_path, name)
    recipe = load_recipe(name)
    assert (recipe.model.head.kind,) == card.tasks()
    assert card.name in recipe.about and set(recipe.model.sensors) == {"rgb", "thermal"}
    assert all(0 <= canvas - edge < 32 for canvas, edge in zip(recipe.model.size, SIZES[name], strict=True))


def test_the_layout_that_contributing_shows_is_one(tmp_path, monkeypatch):
    (block,) = re.findall(r"```python\n(.*?)```", CONTRIBUTING.read_text(encoding="utf-8"), re.DOTALL)
    assert block.count("\n") <= 15
    room = dict(globals())
    exec(block, room)
    counts = room["roadscene_tree"](tmp_path)
    monkeypatch.setitem(LAYOUTS, "roadscene", (room["roadscene"], "crop_LR_visible, cropinfrared"))
    layout = recognise_set(tmp_path, tmp_path / "card.yaml")
    assert layout.counts == counts and layout.card.name == "RoadScene"


# What single sets are like


def built(tmp_path, name, change=lambda root: None):
    TREES[name](tmp_path / "set")
    change(tmp_path / "set")
    out = tmp_path / "card.yaml"
    layout = recognise_set(tmp_path / "set", out)
    layout.write(out)
    return DatasetCard.load(out), layout


def test_mfnet_reads_thermal_from_the_fourth_channel_and_leaves_mirrored_copies_out(tmp_path):
    card, layout = built(tmp_path, "mfnet")
    raw = cv2.imread(str(tmp_path / "set/images/00003N.png"), cv2.IMREAD_UNCHANGED)
    pair = PairDataset(card, card.samples("train"), task="segment")[2, 0]
    assert np.array_equal(pair["thermal"], raw[..., 3]) and np.array_equal(pair["rgb"], raw[..., 2::-1])
    assert [sample.scene for sample in card.samples("train")] == ["day", "day", "night"]
    assert any("1 mirrored" in line for line in layout.assumed)


def test_official_parts_of_a_split_are_no_error_to_check(tmp_path, capsys):
    card, _ = built(tmp_path, "mfnet")
    assert main(["data", "check", str(card.path), "--json"]) == 0, capsys.readouterr().err
    pixels = {split: counts["pixels"] for split, counts in json.loads(capsys.readouterr().out)["splits"].items()}
    assert main(["data", "check", str(card.path)]) == 0
    assert re.search(r"test_night: 1 pairs, 1 labelled: background [\d.]+%, .*person [\d.]+%", capsys.readouterr().out)
    assert 0 < pixels["test_night"]["person"] < pixels["test"]["person"]
    (tmp_path / "card.val.txt").write_text("00004D\n")
    assert main(["data", "check", str(card.path)]) == 1
    assert "pair '00004D' is in the splits 'val' and 'test'" in capsys.readouterr().err


def test_msrs_and_pst900_hold_out_whole_sequences(tmp_path):
    for name, sequence in (("msrs", lambda one: (one[-1], int(one[-6:-1]) // 50)), ("pst900", lambda one: one[:14])):
        card, _ = built(tmp_path / name, name)
        train, val = ({sequence(sample.id) for sample in card.samples(split)} for split in ("train", "val"))
        assert val and not train & val


def test_pst900_leaves_the_holes_of_thermal_out(tmp_path):
    card, _ = built(tmp_path, "pst900")
    assert card.thermal_spec.marked and card.thermal_spec.unit == "intensity8"


def test_kaist_counts_persons_alone_and_knows_night(tmp_path):
    card, layout = built(tmp_path, "kaist")
    (sample,) = {s.id: s for s in card.samples("test") if s.id == "set09/V000/I00019"}.values()
    assert sample.labels.tolist() == [0, *[~0] * 5], "heavily hidden, low, people, person?, cyclist: neither way"
    assert sample.boxes[0].tolist() == [4, 5, 24, 48] and sample.scene == "night"
    assert {one.id[-6:] for one in card.samples("test")} == {"I00019", "I00039"}, "every 20th frame"
    assert any("imageSets/train-all-02.txt" in line for line in layout.assumed)
    videos = [{one.id.rpartition("/")[0] for one in card.samples(split)} for split in ("train", "val")]
    assert not videos[0] & videos[1]


def test_kaist_without_lists_of_its_own_takes_every_second_frame(tmp_path):
    def change(root):
        (root / "imageSets/train-all-02.txt").unlink()
        for path in (root / "images").rglob("*.jpg"):
            draw(path, 3 if "visible" in path.parts else 1)

    card, layout = built(tmp_path, "kaist", change)
    assert layout.counts["train"] + layout.counts["val"] == 5 * 20
    assert {int(one.id[-1]) % 2 for one in card.samples("train")} == {1}


def test_kaist_reads_its_xml_annotations(tmp_path):
    def change(root):
        for path in list((root / "annotations").rglob("*.txt")):
            video = path.relative_to(root / "annotations").with_suffix(".xml")
            file = root / "annotations-xml-new" / video
            voc(file, "person", "people")
            real = "<x>4</x><y>5</y><w>26</w><h>56</h>"  # of the set's own files: no corner at the bottom right
            content = file.read_text(encoding="utf-8")
            file.write_text(re.sub(r"<xmin>.*?</ymax>", real, content), encoding="utf-8")
        (root / "annotations").rename(root / "annotations-old")

    card, _ = built(tmp_path, "kaist", change)
    assert card.labels.format == "voc" and card.samples("test")[0].boxes.tolist() == [[4, 5, 30, 48]] * 2
    assert card.samples("test")[0].labels.tolist() == [0, ~0]


def test_m3fd_uses_lists_where_there_are_some(tmp_path):
    def change(root):
        text(root / "meta/train.txt", *(f"{number:05}.png" for number in range(100)))
        text(root / "meta/val.txt", *(f"{number:05}.png" for number in range(100, 150)))

    _, layout = built(tmp_path, "m3fd", change)
    assert layout.counts == {"train": 100, "val": 50}


def test_pairs_that_are_not_there_are_told_of(tmp_path):
    card, layout = built(tmp_path, "mfnet", lambda root: (root / "images/00002D.png").unlink())
    assert [sample.id for sample in card.samples("train")] == ["00001D", "00003N"]
    assert "! 1 of 3 pairs of train are not here (first: 00002D)" in layout.assumed


def test_a_set_without_a_single_pair_is_an_error(tmp_path):
    llvip(tmp_path)
    for path in (tmp_path / "infrared").rglob("*.jpg"):
        path.rename(path.with_suffix(".jpeg"))
        path.touch() if path.parent.name == "train" and path.name == "010001.jpg" else None
    (tmp_path / "visible/train/010001.jpg").unlink()
    with pytest.raises(DataError, match=r"laid out as LLVIP, but no pair has both of its files"):
        recognise_set(tmp_path, tmp_path / "card.yaml")


def test_an_official_list_that_leads_out_of_the_set_is_refused(tmp_path):
    mfnet(tmp_path)
    text(tmp_path / "train.txt", "../../etc/passwd")
    with pytest.raises(DataError, match=r"train\.txt.*climbs out"):
        recognise_set(tmp_path, tmp_path / "card.yaml")


def test_two_sets_in_one_folder_are_not_guessed_between(tmp_path):
    mfnet(tmp_path / "a")
    llvip(tmp_path / "b")
    with pytest.raises(DataError, match=r"holds several sets: a \(mfnet\), b \(llvip\); name one of them"):
        find_layout(tmp_path)


def test_a_folder_that_is_no_set(tmp_path):
    assert find_layout(tmp_path) is None and recognise_set(tmp_path, tmp_path / "card.yaml") is None
    for name in LAYOUTS:
        assert f"{name}: " in looked_for()
    with pytest.raises(DataError, match="no such folder"):
        find_layout(tmp_path / "none")


# What layouts are made of


def test_holding_out_tears_no_sequence_and_spreads():
    ids = [f"s{number // 10:02}/{number}" for number in range(400)]
    parts = hold_out(ids, lambda one: one[:3])
    chosen = sorted({one[:3] for one in parts["val"]})
    assert sorted(parts["train"] + parts["val"]) == sorted(ids) and chosen[0] != "s00"
    assert 0.1 <= len(parts["val"]) / 400 <= 0.15 and int(chosen[-1][1:]) - int(chosen[0][1:]) > 20
    assert hold_out(["a/1", "a/2", "b/1"], lambda one: one[0]) == {"train": ["a/1", "a/2"], "val": ["b/1"]}
    assert hold_out(["a/1", "a/2"], lambda one: one[0]) == {"train": ["a/1"], "val": ["a/2"]}, "the end of the only one"
    assert hold_out([], str) == {"train": [], "val": []}


def test_neighbours_of_a_stretch_held_out_are_not_learned_from():
    ids = [f"{number:04}" for number in range(1000)]
    assumed: list[str] = []
    parts = hold_out_stretches(ids, stretches(ids), assumed)
    val, train = ({int(one) for one in parts[split]} for split in ("val", "train"))
    assert min(abs(a - b) for a in val for b in train) == MARGIN + 1
    assert sorted(parts["val"]) == sorted(hold_out(ids, stretches(ids))["val"])
    lost = 1000 - len(val) - len(train)
    assert 0 < lost < 30 and assumed[0].startswith(f"{lost} pairs are in no split: the {MARGIN} neighbours")
    few: list[str] = []
    assert hold_out_stretches(ids[:20], stretches(ids[:20]), few) == hold_out(ids[:20], stretches(ids[:20])) and not few


def test_m3fd_keeps_neighbours_of_test_and_val_apart(tmp_path):
    ids = [f"{number:05}" for number in range(600)]
    for one in ids:
        for name in (f"Vis/{one}.png", f"Ir/{one}.png"):
            text(tmp_path / name)
    text(tmp_path / "Annotation/00000.xml")
    found = LAYOUTS["m3fd"][0](tmp_path)
    assert found is not None
    train, val, test = ([int(one) for one in found.splits[split]] for split in ("train", "val", "test"))
    for a, b in ((train, val), (train, test), (val, test)):
        assert min(abs(x - y) for x in a for y in b) > MARGIN
    assert sum("are in no split" in line for line in found.assumed) == 2


def test_stretches_are_neighbours():
    sequence = stretches([f"{number:03}" for number in range(120)])
    assert [sequence(one) for one in ("000", "049", "050", "119")] == ["0", "0", "1", "2"]


def test_ids_are_listed_by_pattern_and_lists_by_their_first_word(tmp_path):
    for name in ("train/vi/1.png", "train/ir/1.png", "train/vi/2.jpg", "other/3.png"):
        draw(tmp_path / name, 1)
    assert list_ids(tmp_path, "{dir}/vi/{name}.png") == ["train/1"]
    assert list_ids(tmp_path, "other/{id}.png") == ["3"]
    text(tmp_path / "list.txt", "00001.png 5", "", "00002", "00001")
    assert read_list(tmp_path / "list.txt") == ["00001", "00002"]


def test_the_card_stays_beside_the_set_or_elsewhere(tmp_path):
    llvip(tmp_path / "set")
    inside, outside = tmp_path / "set/card.yaml", tmp_path / "cards/mine.yaml"
    for out, root in ((inside, "."), (outside, str((tmp_path / "set").resolve()))):
        layout = recognise_set(tmp_path / "set", out, name="mine")
        layout.write(out)
        card = DatasetCard.load(out)
        assert (card.root, card.name) == (root, "mine") and card.samples("val")[0].rgb.is_file()
    assert sorted(path.name for path in outside.parent.iterdir()) == [
        "mine.test.txt", "mine.train.txt", "mine.val.txt", "mine.yaml",
    ]  # fmt: skip


def test_scenes_lie_beside_the_card(tmp_path):
    mfnet(tmp_path / "set")
    out = tmp_path / "card.yaml"
    recognise_set(tmp_path / "set", out).write(out)
    assert json.loads((tmp_path / "card.scenes.json").read_text())["00008N"] == "night"
