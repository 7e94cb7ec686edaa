"""What `rgbt data show` draws of boxes, masks and classes of pictures."""

import numpy as np
import pytest

from data.augment.spec import AugmentSpec
from data.card import DatasetCard
from data.images import write_image
from data.thermal import ThermalSpec
from pipelines.card_grid import card_grid
from pipelines.live.draw import COLOURS

SIZE = (96, 256)


@pytest.fixture
def card(tmp_path):
    """One pair, grey, whose mask is nothing, class ``thing``, and not judged, each a third."""
    for name in ("rgb", "thermal", "masks"):
        (tmp_path / name / "dry").mkdir(parents=True)
    mask = np.zeros(SIZE, np.uint8)
    mask[:, 85:170], mask[:, 170:] = 1, 255
    write_image(tmp_path / "rgb/dry/1.png", np.full((*SIZE, 3), 90, np.uint8))
    write_image(tmp_path / "thermal/dry/1.png", np.full(SIZE, 900, np.uint16))
    write_image(tmp_path / "masks/dry/1.png", mask)
    fields = {"classes": ["thing"], "image_classes": ["wet", "dry"], "image_labels": {"format": "folder"}}
    return DatasetCard(
        version=1, name="x", rgb="rgb/{id}.png", thermal="thermal/{id}.png", rgb_size=SIZE, thermal_size=SIZE,
        thermal_spec=ThermalSpec(unit="counts16"), splits={"train": {"ids": ["dry/1"]}},
        masks="masks/{id}.png", **fields,
    ).at(tmp_path / "card.yaml")  # fmt: skip


def test_masks_tint_and_what_is_not_judged_is_dark(card):
    grid = card_grid(card, "train", 1, None, 0)
    assert grid.shape == (2 * SIZE[0], SIZE[1], 3), "RGB above thermal"
    middle = grid[60]
    assert (middle[40] == 90).all() and (middle[220] == 30).all()
    np.testing.assert_allclose(middle[128], 0.55 * 90 + 0.45 * np.array(COLOURS[0]), atol=2)


def test_the_class_of_the_picture_is_written(card):
    named = card_grid(card, "train", 1, None, 0)
    silent = card.model_copy(update={"image_labels": None}).at(card.path)
    changed = np.argwhere((named != card_grid(silent, "train", 1, None, 0)).any(-1))
    assert len(changed) and changed[:, 0].min() > SIZE[0] - 20 and changed[:, 0].max() < SIZE[0], "in the title alone"


def test_masks_move_with_augmented_pictures(card):
    grids = [card_grid(card, "train", 1, AugmentSpec(), seed)[: SIZE[0]] for seed in range(4)]
    assert len({grid.tobytes() for grid in grids}) == 4
    for grid in grids:
        tint = np.argwhere(grid[..., 0].astype(int) - grid[..., 2] > 40)
        assert len(tint) > 200, "the tinted third is still there"
