"""The report is one whole file that says the run's numbers, to every reader."""

import base64
import itertools
import re
from dataclasses import replace
from html.parser import HTMLParser

import cv2
import numpy as np
import pytest

from fusion.recipe import Recipe
from pipelines.evaluate import Evaluation, Example, Row
from pipelines.live.draw import COLOURS
from pipelines.report import page, pictures
from pipelines.report.accuracy import verdict
from pipelines.report.page import write_run_report
from pipelines.report.stages import rates, spans
from pipelines.report.style import PALETTE

NASTY = '<b>person</b> & "co"'
CLASSES = (NASTY, "vehicle", "never there")
BLOCKS = {"rgb": 6, "thermal": 6, "blend": 4}
NAMES = [f"{branch}.{i}" for branch, count in BLOCKS.items() for i in range(count)] + ["head"]
VOID = {"meta", "img", "path", "rect", "use", "link", "br"}


class Page(HTMLParser):
    """Elements with their attributes and the text below them; fails on tags that do not match."""

    def __init__(self, text):
        super().__init__()
        self.found, self.open = [], []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        element = {"tag": tag, "text": "", "in": [e["tag"] for e in self.open], **dict(attrs)}
        self.found.append(element)
        if tag not in VOID:
            self.open.append(element)

    def handle_endtag(self, tag):
        if tag not in VOID:
            assert self.open.pop()["tag"] == tag

    def handle_startendtag(self, tag, attrs):
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.open.pop()

    def handle_data(self, text):
        for element in self.open:
            element["text"] += text

    def all(self, tag, **attrs):
        return [e for e in self.found if e["tag"] == tag and all(e.get(k) == v for k, v in attrs.items())]


def group(match, lr):
    return {"match": match, "lr": lr}


@pytest.fixture(scope="module")
def recipe():
    stages = [
        {"name": "rgb-task", "sensors": ["rgb"], "epochs": 6, "groups": [group("rgb.*|head.*", 2e-3)]},
        {"name": "thermal-pretrain", "objective": "autoencode", "epochs": 3, "groups": [group("thermal.*", 2e-3)]},
        {"name": "fuse", "epochs": 4, "groups": [group("blend.*|head.*", 2e-3)]},
        {"name": "all", "epochs": 5, "groups": [group("*", 3e-4)]},
    ]
    model = {"size": [64, 64], "rgb": {"arch": "a", "weights": None}, "thermal": {"arch": "a"}}
    return Recipe.model_validate({"about": "Learn <fast>.", "model": model, "stages": stages})


def top_rates(stage):
    """Block → rate, with a smaller one for shallow blocks in the last stage."""
    trains = {"rgb-task": ("rgb", "head"), "thermal-pretrain": ("thermal",), "fuse": ("blend", "head")}
    chosen = trains.get(stage, ("rgb", "thermal", "blend", "head"))
    return {n: 1e-3 * (0.7 ** (5 - int(n[-1])) if "." in n else 1) for n in NAMES if n.split(".")[0] in chosen}


@pytest.fixture(scope="module")
def history(recipe):
    """Rows as the trainer records them: the entry of each stage, then its epochs. AP50 falls after the third."""
    rows = []
    for stage in recipe.stages:
        lr = top_rates(stage.name)
        for epoch in range(stage.epochs + 1):
            row = {"stage": stage.name, "epoch": epoch, "val_loss": 40 / (1 + epoch)}
            row["frozen"] = [n for n in NAMES if n not in lr]
            if epoch:
                row |= {"loss": 38 / (1 + epoch), "seconds": 2.0, "pairs_per_s": 12.5, "lr": lr}
            if stage.objective == "task":
                row["ap50"] = 0.6 - 0.07 * abs(epoch - 3)
            row["best"] = epoch <= 3 if stage.objective == "task" else True
            rows.append(row)
    return rows


def row(name, sensors, person, vehicle):
    per_class = {}
    for label, ap50, count in ((NASTY, person, 31), ("vehicle", vehicle, 1)):
        curve = [round(max(0.0, min(1.0, (ap50 - r / 100) * 8)), 4) for r in range(101)]
        recall = [r / 100 for r in range(101)]
        per_class[label] = {"ap50": ap50, "map": ap50 / 2, "count": count, "precision": curve, "recall": recall}
    metrics = {"ap50": (person + vehicle) / 2, "map": (person + vehicle) / 4}
    kind = "absent" if "absent" in name else "whole"
    return Row(name, sensors, metrics, per_class, {"small": person / 3, "large": vehicle / 3}, kind=kind)


def example(identity, height, width, thermal=True):
    noise = np.random.default_rng(0)
    rgb = noise.integers(0, 80, (height, width, 3), np.uint8)
    raw = noise.integers(21000, 21400, (height // 2, width // 2)).astype(np.uint16) * np.uint16(thermal)
    found = np.zeros((100, 6), np.float32)
    found[:3] = [[8, 20, 24, 44, 0.91, 0], [40, 24, 70, 44, 0.35, 1], [50, 5, 60, 15, 0.12, 1]]
    truth = np.array([[9, 21, 25, 45], [70, 22, 88, 46]], np.float32)
    return Example(identity, rgb, raw, {"boxes": found}, {"boxes": truth, "labels": np.array([0, 0])})


def make_evaluation():
    rows = [
        row("fused", ("rgb", "thermal"), 0.9, 0.712),
        row("fused, rgb absent", ("thermal",), 0.8, 0.2),
        row("rgb only", ("rgb",), 0.3, 0.755),
        row("thermal only", ("thermal",), 0.85, 0.1),
    ]
    examples = [example("night/001 <a>", 72, 96), example("night/002", 72, 96)]
    return Evaluation("card.yaml", "test", 1234, CLASSES, "detect", rows, examples)


@pytest.fixture
def evaluation():
    return make_evaluation()


FACTS = {"Data set": "a & b", "Command": "rgbt train demo --set a='<x>'"}


STAGES = "fuse: 4 epochs <task>\n  trains  head"


@pytest.fixture(scope="module")
def written(tmp_path_factory, history, recipe):
    out = tmp_path_factory.mktemp("run") / "new" / "report.html"
    assert write_run_report(out, "Run <1>", history, recipe, make_evaluation(), FACTS, STAGES) == out
    return out.read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def parsed(written):
    return Page(written)


def test_sections_and_headings(parsed):
    assert [e["text"] for e in parsed.all("h1")] == ["Run <1>"]
    assert [e["text"] for e in parsed.all("h2")] == [
        "Accuracy", "Robustness", "Training", "Precision and recall", "Predictions", "What trains in each stage",
    ]  # fmt: skip
    names = [e["id"] for e in parsed.all("section")]
    assert [e["href"] for e in parsed.all("a")] == [f"#{name}" for name in names]
    assert parsed.all("html")[0]["lang"] == "en"
    assert parsed.all("pre")[0]["text"] == STAGES


def test_needs_nothing_but_itself(written, parsed):
    text = re.sub(r"data:image/jpeg;base64,[\w+/=]+", "", written)
    assert not re.search(r"https?:|//|@import|<script|<link|<iframe", text)
    assert [e for e in parsed.found if "src" in e and not e["src"].startswith("data:image/")] == []
    assert all(target.startswith("#") for target in re.findall(r"url\(([^)]*)\)", written))
    assert "default-src 'none'" in written
    assert len(written) < 600_000


def test_ids_are_unique_and_references_hold(written):
    identities = re.findall(r'\sid="([^"]+)"', written)
    assert len(set(identities)) == len(identities)
    referred = re.findall(r'(?:url\(|href="|aria-labelledby=")#?([^")]+)', written)
    assert referred and set(referred) <= set(identities)


def test_names_are_escaped(written, parsed):
    for raw in ("<b>", "<1>", "<fast>", "<a>", "<x>", "<task>"):
        assert raw not in written
    assert any(e["text"].startswith(NASTY) for e in parsed.all("h3"))
    assert parsed.all("code")[0]["text"] == FACTS["Command"]
    assert [e["text"] for e in parsed.all("dt")] == list(FACTS)


def cells(parsed, label):
    """Row name → texts of its cells."""
    start = parsed.found.index(parsed.all("div", role="region", **{"aria-label": label})[0])
    rows = {}
    for element in parsed.found[start + 1 :]:
        if element["tag"] == "div":
            break
        if element["tag"] == "th" and element["scope"] == "row":
            rows[element["text"]] = current = []
        if element["tag"] == "td":
            current.append(element)
    return rows


def test_rows_with_the_best_in_bold(parsed):
    rows = cells(parsed, "Accuracy of each model")
    assert list(rows) == ["fused", "fused, rgb absent", "rgb only", "thermal only"]
    assert [c["text"] for c in rows["fused"]] == ["RGB + thermal", "0.806", "0.403", "", "0.900", "0.712"]
    assert [c["text"] for c in rows["rgb only"]] == ["RGB", "0.527", "0.264", "", "0.300", "0.755"]
    assert [c["text"] for c in rows["fused, rgb absent"]][3] == "-0.306"
    assert [e["text"] for e in parsed.all("strong") if "td" in e["in"]] == ["0.806", "0.403", "0.900", "0.755"]
    heads = [e["text"] for e in parsed.all("th", scope="col")]
    assert f"{NASTY}31 boxes" in heads and "vehicle1 box" in heads
    assert not any("never there" in head for head in heads)


def test_single_row_has_nothing_to_be_the_best_of(tmp_path, recipe, evaluation):
    del evaluation.rows[1:]
    parsed = Page(write_run_report(tmp_path / "r.html", "t", [], recipe, evaluation, {}, "").read_text())
    assert not [e for e in parsed.all("strong") if "td" in e["in"]]


def test_verdict_tells_gain_and_loss(evaluation):
    assert verdict(evaluation) == (
        "AP50 0.806 with both sensors on 1,234 pairs of the test split: 0.279 above the best single sensor (rgb only)."
    )
    evaluation.rows[3] = row("thermal only", ("thermal",), 0.9, 0.8)
    assert "0.044 below the best single sensor (thermal only)" in verdict(evaluation)
    evaluation.rows[3] = row("thermal only", ("thermal",), 0.9, 0.712)
    assert "equal to the best single sensor" in verdict(evaluation)
    del evaluation.rows[1:]
    assert verdict(evaluation) == "fused: AP50 0.806 on 1,234 pairs of the test split."


def test_verdict_names_the_worst_disturbance_of_the_first_model_alone(evaluation):
    both = ("rgb", "thermal")
    evaluation.rows[1:1] = [replace(row("fused, night", both, 0.7, 0.7), kind="degraded")]
    evaluation.rows.append(replace(row("thermal only, drift", ("thermal",), 0.1, 0.1), kind="degraded"))
    assert verdict(evaluation).endswith("Of the disturbances, the worst is “fused, night”: -0.106.")
    evaluation.rows[1] = replace(evaluation.rows[0], name="fused, night", kind="degraded")
    assert verdict(evaluation).endswith("None of the disturbances costs anything.")


def test_training_for_wide_and_narrow_screens(parsed):
    plots = [e for e in parsed.all("svg", role="img") if "Learning rate" in e["text"]]
    assert [e["class"] for e in plots] == ["plot wide-only", "plot narrow"]
    for plot in plots:
        assert "fuse, 4 epochs, trains blend, head, hands on epoch 3, ap50 0.600" in plot["aria-label"]
        for text in ("Loss", "Validation AP50", "Blocks that train", "thermal", "6 of 6", "frozen"):
            assert text in plot["text"]
    assert "rgb-task" in plots[0]["text"]


def test_results_of_the_epoch_that_was_handed_on(parsed):
    rows = cells(parsed, "Results of each stage")
    assert [c["text"] for c in rows["1 rgb-task"]] == [
        "RGB", "task", "6", "epoch 3", "9.500", "10.000", "0.600", "12.5", "–",
    ]  # fmt: skip
    assert [c["text"] for c in rows["2 thermal-pretrain"]][3:] == ["epoch 3", "9.500", "10.000", "–", "12.5", "–"]


def test_spans(history, recipe):
    stages = spans(history, recipe)
    assert [(s.start, s.end, s.role) for s in stages] == [
        (0, 6, "rgb"),
        (6, 9, "thermal"),
        (9, 13, "fused"),
        (13, 18, "fused"),
    ]
    assert stages[2].points("loss") == ([10, 11, 12, 13], [19.0, 38 / 3, 9.5, 7.6])
    assert stages[2].most("rgb") == (0, 6) and stages[2].most("head") == (1, 1)
    assert rates(stages[3].epochs[-1], "rgb") == pytest.approx([1e-3 * 0.7**k for k in (5, 4, 3, 2, 1, 0)])
    last = spans(history, recipe.model_copy(update={"select": "last"}))
    assert [s.handed_on["epoch"] for s in last] == [6, 3, 4, 5]
    assert [s.handed_on["epoch"] for s in stages] == [3, 3, 3, 3]


def test_stage_that_has_only_been_entered_is_left_out(history, recipe):
    entered = [r for r in history if r["stage"] != "all"] + [r for r in history if r["stage"] == "all"][:1]
    assert [s.stage.name for s in spans(entered, recipe)] == ["rgb-task", "thermal-pretrain", "fuse"]


def test_a_curve_for_every_class_that_occurs(parsed):
    curves = [e for e in parsed.all("svg", role="img") if e["aria-label"].startswith("Precision over recall")]
    assert [e["aria-label"] for e in curves] == [
        f"Precision over recall at IoU 0.5 for {NASTY}. "
        "AP50: fused 0.900, fused, rgb absent 0.800, rgb only 0.300, thermal only 0.850.",
        "Precision over recall at IoU 0.5 for vehicle. "
        "AP50: fused 0.712, fused, rgb absent 0.200, rgb only 0.755, thermal only 0.100.",
    ]
    assert [e["text"] for e in parsed.all("h3")][1:] == [f"{NASTY} 31 boxes", "vehicle 1 box"]


def test_plots_take_the_colours_of_the_page(written):
    drawings = "".join(re.findall(r'<svg class="plot.*?</svg>', written, re.DOTALL))
    assert {"ink", "muted", "line", "rgb", "thermal", "fused", "head"} <= set(re.findall(r"var\(--(\w+)\)", drawings))
    assert re.findall(r"#[0-9a-f]{6}\b", drawings) == []


def decode(source):
    head, encoded = source.split(",")
    assert head == "data:image/jpeg;base64"
    return cv2.cvtColor(cv2.imdecode(np.frombuffer(base64.b64decode(encoded), np.uint8), 1), cv2.COLOR_BGR2RGB)


def test_predictions_on_both_sensors(parsed):
    images = parsed.all("img")
    assert [e["alt"] for e in images] == [
        f"{sensor} view of pair {pair}. Found: 1 × {NASTY}, 1 × vehicle. True: 2 × {NASTY}."
        for pair in ("night/001 <a>", "night/002")
        for sensor in ("RGB", "Thermal")
    ]
    for image in images:
        picture = decode(image["src"])
        assert picture.shape == (int(image["height"]), int(image["width"]), 3)
        scale = picture.shape[1] / 96
        near = np.abs(picture[int(44 * scale) - 1, int(12 * scale)].astype(int) - COLOURS[0])
        assert near.max() < 60  # the lower side of the box that was found
    rgb, thermal = (decode(e["src"]).astype(int) for e in images[:2])
    assert np.abs(rgb - thermal).mean() > 20


def test_truth_is_dashed_and_low_scores_are_left_out(monkeypatch):
    shown = example("a", 72, 96)
    drawn = []
    monkeypatch.setattr(pictures, "draw_boxes", lambda picture, boxes, classes: drawn.append(boxes.copy()))
    picture = pictures._draw(np.full((72, 96, 3), 128, np.uint8), shown, CLASSES, pictures.WAYS["detect"])
    scale = picture.shape[1] / 96
    np.testing.assert_allclose(drawn[0][:, 4], [0.35, 0.91])
    np.testing.assert_allclose(drawn[0][1, :4], np.array([8, 20, 24, 44]) * scale)
    top = picture[round(22 * scale), round(70 * scale) : round(88 * scale)]
    coloured = (top == COLOURS[0]).all(1).mean()
    assert 0.4 < coloured < 0.7


def test_model_of_one_sensor_shows_one_view(tmp_path, history, recipe, evaluation):
    evaluation.examples = [example("a", 72, 96, thermal=False)]
    parsed = Page(write_run_report(tmp_path / "r.html", "t", [], recipe, evaluation, {}, "").read_text())
    assert [e["alt"].split()[0] for e in parsed.all("img")] == ["RGB"]


def test_without_history_or_evaluation(tmp_path, history, recipe, evaluation):
    headings = []
    for past, measured in (([], None), (history, None), ([], evaluation)):
        out = write_run_report(tmp_path / "r.html", "t", past, recipe, measured, {}, "")
        headings.append([e["text"] for e in Page(out.read_text()).all("h2")])
    stages = "What trains in each stage"
    assert headings == [
        [stages],
        ["Training", stages],
        ["Accuracy", "Robustness", "Precision and recall", "Predictions", stages],
    ]


def test_many_short_stages_and_a_loss_below_zero(tmp_path, history, recipe):
    first = recipe.stages[0].model_dump()
    many = recipe.model_copy(
        update={"stages": tuple(type(recipe.stages[0])(**first | {"name": f"stage-{i}"}) for i in range(14))}
    )
    past = [row | {"stage": f"stage-{i}", "val_loss": -0.1} for i in range(14) for row in history[:2]]
    parsed = Page(write_run_report(tmp_path / "r.html", "t", past, many, None, {}, "").read_text())
    assert len(cells(parsed, "Results of each stage")) == 14


def test_same_run_gives_the_same_bytes(tmp_path, history, recipe, evaluation, written):
    again = write_run_report(tmp_path / "b.html", "Run <1>", history, recipe, evaluation, FACTS, STAGES)
    assert again.read_text(encoding="utf-8") == written


def test_written_whole_or_not_at_all(tmp_path, history, recipe, evaluation, monkeypatch):
    out = tmp_path / "report.html"
    out.write_text("old")

    def full(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match="No space"):
        write_run_report(out, "t", [], recipe, None, {}, "")
    monkeypatch.setattr(page, "training_plot", lambda stages: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        write_run_report(out, "t", history, recipe, None, {}, "")
    assert out.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["report.html"]


# Machado, Oliveira and Fernandes (IEEE TVCG 2009), severity 1, on linear R, G, B.
SIGHT = {
    "all": np.eye(3),
    "protan": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
    "deutan": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.01182, 0.04294, 0.968881]],
    "tritan": [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.3039]],
}


def linear(text):
    value = np.array([int(text[i : i + 2], 16) for i in (1, 3, 5)]) / 255
    return np.where(value <= 0.04045, value / 12.92, ((value + 0.055) / 1.055) ** 2.4)


def contrast(one, other):
    low, high = sorted(float(linear(c) @ [0.2126, 0.7152, 0.0722]) for c in (one, other))
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_contrast(scheme):
    shades = {role: getattr(shade, scheme) for role, shade in PALETTE.items()}
    for ground in ("page", "card", "band"):
        assert min(contrast(shades[text], shades[ground]) for text in ("ink", "muted")) >= 4.5
        assert min(contrast(shades[s], shades[ground]) for s in ("rgb", "thermal", "fused", "head")) >= 3


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("sight", list(SIGHT))
def test_series_are_told_apart(scheme, sight):
    def lab(role):
        seen = np.clip(np.array(SIGHT[sight]) @ linear(getattr(PALETTE[role], scheme)), 0, 1)
        return cv2.cvtColor(seen[None, None].astype(np.float32), cv2.COLOR_LRGB2LAB)[0, 0]

    for one, other in itertools.combinations(("rgb", "thermal", "fused", "head"), 2):
        assert np.linalg.norm(lab(one) - lab(other)) > 12, (one, other)
