"""What a check finds over a whole set: recordings, copies, alignment, partners; and how it is read and stopped."""

import json
import re
import threading

import cv2
import numpy as np
import pytest

from data.card import DatasetCard
from data.check.duplicates import COPY, Prints, dhash, near
from data.check.parallel import in_parallel
from data.check.run import check_card
from data.check.sequences import frozen_runs, missing_frames, recordings
from data.images import write_image
from pipelines.cli import main
from pipelines.data_commands.progress import line
from pipelines.data_commands.stats import bars

SIZE = (120, 160)


def scene(seed, shift=(0, 0)):
    """RGB and thermal of polygons at the same places with levels of their own; thermal's lie ``shift`` off."""
    rng = np.random.default_rng(seed)
    rgb, thermal = np.full((2, *SIZE), 90, np.uint8)
    for _ in range(40):
        points = rng.uniform(0, (160, 120), 2) + rng.normal(0, 18, (4, 2))
        for view, off in ((rgb, (0, 0)), (thermal, shift)):
            cv2.fillConvexPoly(view, cv2.convexHull((points + off).astype(np.int32)), int(rng.integers(5, 250)))
    return np.repeat(rgb[:, :, None], 3, axis=2), thermal


@pytest.fixture
def make(tmp_path):
    """Writes pairs (id → RGB, thermal) and a card with splits (name → ids)."""

    def build(pairs, **splits):
        for one, (rgb, thermal) in pairs.items():
            for folder, image in (("rgb", rgb), ("ir", thermal)):
                path = tmp_path / folder / f"{one}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                write_image(path, image)
        (tmp_path / "card.yaml").write_text(
            "version: 1\nname: made\nrgb: rgb/{id}.png\nthermal: ir/{id}.png\nrgb_size: [120, 160]\n"
            "thermal_size: [120, 160]\nthermal_spec: {unit: intensity8}\nsplits:\n"
            + "".join(f"  {name}: {{ids: {json.dumps(list(ids))}}}\n" for name, ids in splits.items()),
            encoding="utf-8",
        )
        return DatasetCard.load(tmp_path / "card.yaml")

    return build


def of(report, kind):
    return [finding for finding in report.findings if finding.kind == kind]


def scenes(count, shift=(0, 0)):
    return {f"p{k:03}": scene(k, shift) for k in range(count)}


# Recordings


def test_a_gap_in_a_numbered_recording_is_named():
    ids = [f"19{k:04}" for k in range(1, 241) if k != 132] + [f"0200{k:02}" for k in range(20)]
    found = missing_frames(recordings(ids))
    assert len(found) == 1 and "'190001' … '190240' (239 pairs" in found[0].text and "lacks '190132'" in found[0].text
    assert (
        missing_frames(recordings(f"a/{k:05}_n" for k in range(0, 400, 5) if k != 40))[0].text.count("'a/00040_n'") == 1
    )


@pytest.mark.parametrize(
    "ids",
    [
        [f"{k:04}" for k in range(60)],
        [f"FLIR_{k:05}" for k in np.random.default_rng(0).choice(9000, 100, replace=False)],
        [f"{k:05}N" for k in range(200) if k % 4],
        ["a", "b", "c"],
        ["0001", "0003"],
    ],
)
def test_no_gap_where_there_is_none_or_the_numbers_are_a_choice(ids):
    assert missing_frames(recordings(ids)) == []


def test_frozen_thermal_is_a_run_while_rgb_changes(make):
    pairs = scenes(8)
    for k in (3, 4, 5):
        pairs[f"p{k:03}"] = (pairs[f"p{k:03}"][0], pairs["p002"][1])
    report = check_card(make(pairs, unlabelled=pairs), align=0)
    assert [(one.level, one.where) for one in of(report, "frozen")] == [("warning", "p002")]
    assert "over 4 pairs, 'p002' to 'p005'" in of(report, "frozen")[0].text
    assert of(report, "duplicate") == [], "the same fact is told once"
    still = recordings(["s1", "s2"])
    assert frozen_runs(still, {"s1": b"t", "s2": b"t"}, {"s1": b"r", "s2": b"r"}) == [], "a still scene is not frozen"


# Copies


def test_one_picture_in_both_folders_is_an_error(make):
    pairs = scenes(3)
    grey = pairs["p001"][1]
    report = check_card(make({**pairs, "p001": (np.repeat(grey[..., None], 3, axis=2), grey)}, train=list(pairs)))
    (error,) = [one.text for one in of(report, "duplicate")]
    assert error.startswith("1 of 3 pairs have the same grey picture as RGB and as thermal (first: 'p001')")
    assert error in report.errors
    assert not of(check_card(make(pairs, train=list(pairs))), "duplicate")


def worse(image):
    done, jpeg = cv2.imencode(".jpg", np.clip(image * 0.9, 0, 255).astype(np.uint8), [cv2.IMWRITE_JPEG_QUALITY, 60])
    assert done
    return cv2.imdecode(jpeg, cv2.IMREAD_UNCHANGED)


def test_a_copy_that_was_encoded_anew_is_found_across_splits(make):
    pairs = scenes(12)
    pairs["copy"] = (worse(pairs["p004"][0]), worse(pairs["p004"][1]))
    ids = [one for one in pairs if one != "copy"]
    report = check_card(make(pairs, train=ids, val=["copy"]), align=0)
    found = of(report, "near-duplicate")
    assert [one.level for one in found] == ["warning"] and "1 times two pairs of 'train' and 'val'" in found[0].text
    assert "'p004' and 'copy'" in found[0].text
    assert [one.where for one in of(report, "same-view")] == ["val"]
    assert report.errors == []


def test_different_scenes_are_no_copies(make):
    pairs = scenes(24)
    half = list(pairs)[:12]
    report = check_card(make(pairs, train=half, val=list(pairs)[12:]), align=0)
    assert not of(report, "near-duplicate") and not of(report, "same-view")


@pytest.mark.parametrize(("flips", "least"), [(16, 200), (COPY, 194), (COPY + 1, 0)])
def test_planted_copies_are_found_among_many(flips, least):
    rng = np.random.default_rng(0)
    count, planted = 4000, 200
    words = rng.integers(0, 2**63, (count, 2, 4)).astype(np.uint64)
    for k in range(planted):
        bits = np.unpackbits(words[k].view(np.uint8).reshape(2, 32), axis=1)
        for row in bits:
            row[rng.choice(256, flips, replace=False)] ^= 1
        words[count - 1 - k] = np.packbits(bits, axis=1).view(np.uint64)
    hashes = [{"RGB": rgb, "thermal": thermal} for rgb, thermal in words]
    ids = [str(k) for k in range(count)]
    found = near(Prints(ids, ["train"] * (count // 2) + ["val"] * (count // 2), [{}] * count, hashes))
    number = int(found[0].text.split()[0]) if found else 0
    assert least <= number <= (planted if flips <= COPY else 0)
    assert not found or "two pairs of 'train' and 'val'" in found[0].text


def test_the_hash_holds_when_a_picture_is_scaled_or_darkened():
    def apart(a, b):
        return int(np.unpackbits((dhash(a) ^ dhash(b)).view(np.uint8)).sum())

    for seed in range(10):
        image = scene(seed)[1]
        assert apart(image, cv2.resize(worse(image), (320, 240))) <= COPY < apart(image, scene(seed + 50)[1])
        assert apart(image, image.astype(np.float32) * 0.1 - 20) <= COPY, "and in another unit"


# Alignment, partners, values


def test_alignment_of_a_set_is_told(make):
    aligned = check_card(make(scenes(8), unlabelled=scenes(8)))
    assert aligned.alignment.verdict == "aligned" and aligned.warnings == []
    moved = check_card(make(scenes(8, (5, -3)), unlabelled=scenes(8)))
    assert moved.alignment.verdict == "shifted" and np.allclose(moved.alignment.systematic, (20, -12), atol=1.5)
    assert any("12 px too far up and 20 px too far right" in text for text in moved.warnings)
    mixed = {one: (rgb, scene(900 + k)[1]) for k, (one, (rgb, _)) in enumerate(scenes(8).items())}
    unrelated = check_card(make(mixed, unlabelled=mixed))
    assert unrelated.alignment.verdict == "not pixel-aligned"
    assert any(text.startswith("not pixel-aligned") for text in unrelated.warnings)


def test_one_pair_that_lies_off_is_named(make):
    pairs = {**scenes(9), "off": scene(77, (6, 0))}
    report = check_card(make(pairs, unlabelled=pairs))
    assert report.alignment.worst()[0][0] == "off"
    assert any("1 pairs lie beyond 3 px (farthest: 'off', (+24, " in text for text in report.warnings)


def test_a_rig_that_moves_thermal_back_makes_a_set_aligned(make, tmp_path):
    pairs = scenes(6, (5, -3))
    make(pairs, unlabelled=pairs)
    (tmp_path / "rig.yaml").write_text(
        "rgb_size: [120, 160]\nthermal_size: [120, 160]\nhomography: [[1, 0, -5], [0, 1, 3], [0, 0, 1]]\n"
    )
    with (tmp_path / "card.yaml").open("a", encoding="utf-8") as file:
        file.write("rig: rig.yaml\n")
    assert check_card(DatasetCard.load(tmp_path / "card.yaml")).alignment.verdict == "aligned"


def test_pictures_without_a_partner_and_pairs_in_no_split(make, tmp_path):
    pairs = scenes(5)
    card = make(pairs, unlabelled=list(pairs)[:3])
    (tmp_path / "ir/p004.png").unlink()
    (tmp_path / "rgb/loop").symlink_to(tmp_path / "rgb")
    report = check_card(card, align=0)
    assert [one.text for one in of(report, "unpaired")] == [
        "1 RGB pictures have no thermal partner ('p004'); no split names them"
    ]
    assert [one.text for one in of(report, "unused")] == ["1 pairs on the disk are in no split ('p003')"]
    assert report.errors == []


def test_the_other_sensor_s_files_in_one_folder_are_no_pictures_without_a_partner(make, tmp_path):
    card = make(scenes(3), train=scenes(3))
    for number in range(3):
        (tmp_path / f"ir/p00{number}.png").rename(tmp_path / f"rgb/p00{number}_ir.png")
        write_image(tmp_path / f"rgb/p00{number}_mask.png", np.zeros((8, 8), np.uint8))
    text = card.path.read_text(encoding="utf-8").replace("thermal: ir/{id}.png", "thermal: rgb/{id}_ir.png")
    card.path.write_text(text + "classes: [a]\nmasks: rgb/{id}_mask.png\n", encoding="utf-8")
    report = check_card(DatasetCard.load(card.path), align=0)
    assert of(report, "unpaired") == [] and of(report, "unused") == []
    (tmp_path / "rgb/p009_ir.png").touch()
    report = check_card(DatasetCard.load(card.path), align=0)
    assert "1 thermal pictures have no RGB partner ('p009')" in of(report, "unpaired")[0].text


def test_values_that_do_not_fit_the_card(make, tmp_path):
    pairs = scenes(4)
    hot = {one: (rgb, np.where(thermal > 150, 255, thermal).astype(np.uint8)) for one, (rgb, thermal) in pairs.items()}
    report = check_card(make(hot, unlabelled=hot), align=0)
    assert any("at the upper end" in one.text and "clipped" in one.text for one in of(report, "range"))
    text = (tmp_path / "card.yaml").read_text().replace("unit: intensity8", "unit: intensity8, range: [0, 60]")
    (tmp_path / "card.yaml").write_text(text)
    report = check_card(DatasetCard.load(tmp_path / "card.yaml"), align=0)
    assert any("outside of the card's thermal_spec.range [0.0, 60.0]" in one.text for one in of(report, "range"))


# Reading many at once


def test_the_answer_does_not_depend_on_workers(make):
    pairs = scenes(10)
    card = make(pairs, train=list(pairs)[:6], val=list(pairs)[6:])
    assert check_card(card, workers=1).as_json() == check_card(card, workers=5).as_json()


def test_ctrl_c_stops_at_once_and_leaves_no_thread(make, capsys, monkeypatch, tmp_path):
    def stop(done, total):
        raise KeyboardInterrupt

    pairs = scenes(30)
    card = make(pairs, unlabelled=pairs)
    before = threading.active_count()
    with pytest.raises(KeyboardInterrupt):
        check_card(card, stop, workers=2)
    assert threading.active_count() == before
    monkeypatch.setattr(
        "pipelines.data_commands.progress.Progress.__call__", lambda self, done, total: stop(done, total)
    )
    assert main(["data", "check", str(card.path), "--html", str(tmp_path / "s.html")]) == 130
    assert "interrupted" in capsys.readouterr().err and not (tmp_path / "s.html").exists()


def test_work_is_in_order_bounded_and_ends_with_an_error():
    begun = []

    def task(number):
        begun.append(number)
        if number == 40:
            raise ValueError("forty")
        return number * 2

    assert list(in_parallel(lambda number: number * 2, range(50), 4)) == list(range(0, 100, 2))
    with pytest.raises(ValueError, match="forty"):
        list(in_parallel(task, iter(range(10**9)), 2))
    assert max(begun) < 100
    before = cv2.getNumThreads()
    list(in_parallel(task, range(3), 2))
    assert cv2.getNumThreads() == before


def test_progress_says_rate_and_time_left():
    assert line("pairs", 120, 1391, 2.0) == "120/1391 pairs, 60/s, 0:21 left"
    assert line("pairs", 10, 100_010, 20.0) == "10/100010 pairs, 0.5/s, 55:33:20 left"
    assert line("pairs", 0, 5, 0.0) == "0/5 pairs"
    assert bars([0, 1, 8]) == " ▁█"


# The commands


def test_the_command_answers_programs_and_writes_a_sheet(make, capsys, tmp_path):
    pairs = {**scenes(9), "<off>": scene(77, (6, 0))}
    card = make(pairs, unlabelled=pairs)
    sheet = tmp_path / "sheet.html"
    assert main(["data", "check", str(card.path), "--json", "--html", str(sheet)]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert answer["errors"] == [] and answer["alignment"]["verdict"] == "aligned"
    assert {"level", "kind", "where", "text"} == set(answer["findings"][0])
    page = sheet.read_text(encoding="utf-8")
    assert page.count("<img") == 4 and "&lt;off&gt;" in page and "<off>" not in page
    assert not re.findall(r'(?:src|href)="(?!data:image/jpeg;base64,|#)', page), "it needs nothing else"
    (tmp_path / "ir/p003.png").unlink()
    assert main(["data", "check", str(card.path), "--html", str(sheet), "--align", "0"]) == 1
    assert "missing thermal file of pair &#x27;p003&#x27;" in sheet.read_text(encoding="utf-8")
    assert "error: " in capsys.readouterr().err


def test_a_sheet_that_cannot_be_written_is_one_line(make, capsys, tmp_path):
    card = make(scenes(3), unlabelled=scenes(3))
    (tmp_path / "taken").write_text("x")
    assert main(["data", "check", str(card.path), "--html", str(tmp_path / "taken/s.html")]) == 1
    assert "Traceback" not in capsys.readouterr().err


def test_stats_are_those_of_the_files(synthetic_card, make, capsys):
    assert main(["data", "stats", str(synthetic_card), "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    train = answer["splits"]["train"]
    card = DatasetCard.load(synthetic_card)
    assert train["pairs"] == 12 and train["sizes"] == {"RGB": {"96×64": 12}, "thermal": {"80×48": 12}}
    assert sum(train["values"]["thermal"]["counts"]) == 12 * 80 * 48
    boxes = np.concatenate([sample.boxes for sample in card.samples("train")])
    assert sum(one["count"] for one in train["boxes"].values()) == len(boxes)
    assert sum(one["small"] for one in train["boxes"].values()) == int(
        (np.sqrt((boxes[:, 2:] - boxes[:, :2]).prod(axis=1)) < 32).sum()
    )
    pair = make({"a": (np.full((*SIZE, 3), 7, np.uint8), np.repeat(np.arange(160, dtype=np.uint8)[None], 120, axis=0))},
                unlabelled=["a"])  # fmt: skip
    assert main(["data", "stats", str(pair.path)]) == 0
    printed = capsys.readouterr().out
    assert "50% 80 " in printed and "unlabelled: 1 pairs" in printed
