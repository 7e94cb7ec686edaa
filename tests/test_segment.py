"""The segment head: where masks lie on the canvas, its loss by its definition, and intersection over union."""

import numpy as np
import pytest
import torch
from torch.nn import functional as F
from torchmetrics.classification import MulticlassJaccardIndex

from data import card_fields
from fusion.errors import FusionError
from fusion.normalise import Letterbox
from fusion.segment import BACKGROUND, IGNORE, SegmentHead, SegmentMetric
from pipelines.live import answer as live_answer

CHANNELS, STRIDES = [8, 8, 16, 16], (4, 8, 16, 32)
SIZE = (64, 96)
FRAME = Letterbox(SIZE, SIZE)


def head(classes=2):
    torch.manual_seed(0)
    return SegmentHead(CHANNELS, STRIDES, classes, width=16)


def masks():
    """A picture with both classes and pixels that are not judged, and one with the background alone."""
    mask = torch.zeros(2, *SIZE, dtype=torch.uint8)
    mask[0, 8:40, 16:48], mask[0, 40:60, 60:90], mask[0, :4] = 1, 2, IGNORE
    return mask


def loss_of(module, scores, mask):
    targets = module.targets({"mask": mask}, FRAME)
    return module.loss({"scores": scores}, targets, module.counts(targets))


def scores_of(mask, sure=12.0):
    """What says exactly what a mask of whole cells says."""
    cells = torch.where(mask == IGNORE, 0, mask)[:, 1::4, 1::4].long()
    return sure * F.one_hot(cells, 3).permute(0, 3, 1, 2).float()


@pytest.mark.parametrize(
    ("rgb", "canvas"),
    [((48, 64), (96, 128)), ((96, 128), (96, 128)), ((50, 70), (64, 96)), ((40, 40), (64, 96)), ((37, 91), (64, 96))],
)
def test_a_mask_comes_back_from_the_canvas_to_the_frame(rgb, canvas):
    """Placed as the pictures are, answered at stride 4, enlarged: off by a part of a cell at edges, nowhere else."""
    frame = Letterbox(rgb, canvas)
    mask = torch.zeros(1, *rgb, dtype=torch.uint8)
    top, left = rgb[0] // 3, rgb[1] // 4
    mask[0, top : rgb[0] - 6, left:] = 1
    mask[0, : rgb[0] // 4, -rgb[1] // 3 :] = 2
    placed = head().targets({"mask": mask}, frame)["mask"]
    assert placed.shape == (1, *canvas) and placed.dtype == torch.uint8
    assert (placed[:, frame.content[0] :] == IGNORE).all() and (placed[:, :, frame.content[1] :] == IGNORE).all()
    assert (placed[:, : frame.content[0], : frame.content[1]] != IGNORE).all()
    answer = head().decode({"scores": scores_of(placed)}, frame)
    assert answer["class_map"].shape == answer["confidence"].shape == (1, *rgb)
    wrong = answer["class_map"] != mask
    edges = F.max_pool2d(mask.float(), 9, 1, 4) != -F.max_pool2d(-mask.float(), 9, 1, 4)
    assert not (wrong & ~edges).any() and wrong.float().mean() < 0.12


def test_the_padding_of_the_canvas_never_reaches_the_answer():
    frame = Letterbox((40, 40), SIZE)
    scores = torch.zeros(1, 3, 16, 24)
    scores[:, 1, :, :16] = 9.0  # the content
    scores[:, 2, :, 16:] = 99.0
    assert (head().decode({"scores": scores}, frame)["class_map"] == 1).all()


def test_confidence_is_the_probability_of_the_class_that_is_answered():
    scores = torch.randn(2, 3, 16, 24)
    answer = head().decode({"scores": scores}, FRAME)
    probabilities = F.interpolate(scores, SIZE, mode="bilinear", align_corners=False).softmax(1)
    best, kind = probabilities.max(1)
    assert torch.allclose(answer["confidence"], best, atol=1e-6) and answer["confidence"].dtype == torch.float32
    assert torch.equal(answer["class_map"].long(), kind) and answer["class_map"].dtype == torch.uint8


def test_the_loss_is_cross_entropy_plus_dice_of_each_pictures_classes():
    module, mask = head(), masks()
    scores = torch.randn(2, 3, 16, 24, dtype=torch.float64)
    found = loss_of(module, scores, mask)
    large = F.interpolate(scores, SIZE, mode="bilinear", align_corners=False)
    entropy = F.cross_entropy(large, torch.where(mask == IGNORE, -100, mask.long()))
    judged = (mask != IGNORE).double()
    dice = []
    for picture, kinds in ((0, (0, 1, 2)), (1, (0,))):
        for kind in kinds:
            p = large[picture].softmax(0)[kind] * judged[picture]
            true = (mask[picture] == kind).double()
            dice.append(1 - 2 * (p * true).sum() / (p.sum() + true.sum()))
    assert found["cross_entropy"].item() == pytest.approx(entropy.item(), rel=1e-6)
    assert found["dice"].item() == pytest.approx(torch.stack(dice).mean().item(), rel=1e-6)
    assert found["loss"].item() == pytest.approx(found["cross_entropy"].item() + found["dice"].item(), rel=1e-9)


def test_pixels_that_are_not_judged_teach_nothing():
    mask = masks()
    mask[:, :, 48:] = IGNORE
    scores = torch.randn(2, 3, 16, 24, requires_grad=True)
    loss_of(head(), scores, mask)["loss"].backward()
    assert not scores.grad[:, :, :, 13:].any() and scores.grad[:, :, 4:, :11].abs().amin() > 0


def test_the_truth_has_a_smaller_loss_than_a_shifted_one():
    mask = masks()
    good = loss_of(head(), scores_of(mask), mask)["loss"]
    bad = loss_of(head(), scores_of(mask.roll(8, 2)), mask)["loss"]
    assert good < 0.3 * bad


def test_rooms_that_do_not_import_each_other_mean_the_same():
    assert card_fields.IGNORE == IGNORE and live_answer.BACKGROUND == BACKGROUND


def test_a_mask_has_no_room_for_more_classes_than_its_pixels_can_say():
    with pytest.raises(FusionError, match="room for 254 classes"):
        head(255)
    assert head(254).classes == 255


def update(metric, class_map, mask):
    metric.update({"class_map": class_map}, {"mask": mask})


def test_intersection_over_union_by_hand():
    metric = SegmentMetric(["a", "b", "never"])
    mask = np.array([[0, 0, 1, 1], [0, 0, 1, 255]], np.uint8)
    update(metric, np.array([[0, 0, 1, 0], [0, 2, 1, 1]], np.uint8), mask)
    found = metric.compute()
    assert found["per_class"] == {
        "background": {"iou": pytest.approx(3 / 5), "pixels": 4},
        "a": {"iou": pytest.approx(2 / 3), "pixels": 3},
        "b": {"iou": 0.0, "pixels": 0},  # answered, and never true: it counts; 'never' does not
    }
    assert found["miou"] == pytest.approx((3 / 5 + 2 / 3 + 0) / 3)
    assert found["miou_foreground"] == pytest.approx((2 / 3 + 0) / 2)
    assert found["confusion"] == [[3, 0, 1, 0], [1, 2, 0, 0], [0, 0, 0, 0], [0, 0, 0, 0]]


@pytest.mark.parametrize("make", [np.asarray, torch.as_tensor])
def test_it_is_torchmetrics_jaccard_index_over_all_pictures(make):
    rng, names = np.random.default_rng(0), ["a", "b", "c", "never"]
    metric, reference = SegmentMetric(names), MulticlassJaccardIndex(5, ignore_index=IGNORE)
    for size in ((20, 30), (12, 9), (16, 16)):
        answer, mask = rng.integers(0, 4, size).astype(np.uint8), rng.choice([0, 1, 2, 3, 255], size).astype(np.uint8)
        update(metric, make(answer), make(mask))
        reference.update(torch.from_numpy(answer).long(), torch.from_numpy(mask).long())
    assert metric.compute()["miou"] == pytest.approx(float(reference.compute()), abs=1e-6)


def test_pixels_are_counted_exactly_beyond_what_float32_holds():
    metric = SegmentMetric(["a"])
    update(metric, np.zeros((4, 4), np.uint8), np.zeros((4, 4), np.uint8))
    metric.records[0].confusion[0, 0], metric.records[0].confusion[1, 1] = 2**26 + 1, 2**27 + 3
    found = metric.compute()
    assert [row["pixels"] for row in found["per_class"].values()] == [2**26 + 1, 2**27 + 3] and found["miou"] == 1


def test_pictures_without_judged_pixels_count_for_nothing():
    metric = SegmentMetric(["a"])
    update(metric, np.ones((4, 4), np.uint8), np.full((4, 4), IGNORE, np.uint8))
    found = metric.compute()
    assert (found["miou"], found["miou_foreground"], found["per_class"]) == (0, 0, {})
