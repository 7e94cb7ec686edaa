"""What auto unfreezing decides, from a plan, rows of history and answers alone."""

import numpy as np
import pytest

from fusion.bootstrap import resampled
from fusion.plan import plan_stages
from fusion.recipe import Recipe
from fusion.records import BoxRecord
from fusion.unfreezing import anchor, decide, is_due, undecided

BRANCH = [f"{s}.{b}" for s in ("rgb", "thermal") for b in ("stem", "blocks.0", "blocks.1")]
TRUTH = np.array([[0, 0, 9, 9]], np.float32)


def plan_of(match="blend.*|head", epochs=8, **line):
    model = {"size": [64, 96], "rgb": {"arch": "resnet18", "weights": None}, "thermal": {"arch": "resnet18"}}
    line = {"branch": "thermal", "every": 2, "auto": True} | line
    stage = {"name": "one", "epochs": epochs, "groups": [{"match": match, "lr": 1e-3}], "unfreeze": line}
    recipe = Recipe.model_validate({"about": "x", "model": model, "stages": [stage]})
    return plan_stages(recipe, [*BRANCH, "blend.0", "blend.1", "head"])[0]


def answers(*found):
    """The metric of pictures with one thing each: whether it was found."""
    box = np.array([[0, 0, 9, 9, 0.9, 0]], np.float32)
    records = [BoxRecord(box if one else box[:0], TRUTH, np.zeros(1, np.int64)) for one in found]
    return resampled("detect", records, 1)


@pytest.mark.parametrize(
    ("fields", "epochs"),
    [
        ({}, [2, 4]),  # blocks 1, 0 and the stem open at 0, 2 and 4: nothing is left to open at 6
        ({"every": 1}, [1, 2]),
        ({"epochs": 4}, [2]),  # the stem would open after the stage's end
        ({"branch": "both"}, [2, 4]),
        ({"auto": False}, []),
    ],
)
def test_something_is_decided_where_a_block_waits(fields, epochs):
    plan = plan_of(**fields)
    assert [epoch for epoch in range(9) if is_due(plan, epoch)] == epochs


@pytest.mark.parametrize(
    ("match", "branch", "counts"),
    [
        ("blend.*|head", "thermal", [1, 2, 3]),
        ("blend.*|head|thermal.blocks.-1", "thermal", [1, 2, 3]),  # whoever has the first block, it is one
        ("blend.*|head|rgb.*", "thermal", [1, 2, 3]),  # another branch's are not the line's
        ("blend.*|head", "both", [2, 4, 6]),
    ],
)
def test_blocks_are_counted_whoever_has_them(match, branch, counts):
    plan = plan_of(match, branch=branch)
    assert [undecided(plan, epoch)["decision"]["blocks"] for epoch in (2, 4, 6)] == counts


def test_deeper_only_by_more_than_one_standard_error():
    plan, few = plan_of(), answers(*[True] * 5 + [False] * 15)
    found = decide(plan, 2, answers(*[True] * 20), few)
    assert found["decision"]["deeper"] and found["decision"]["gain"] > found["decision"]["se"] > 0
    assert "stopped" not in found
    for now in (few, answers(*[True] * 4 + [False] * 16)):
        found = decide(plan, 2, now, few)
        assert not found["decision"]["deeper"] and "unfreezing stops at 1 block: the metric changed" in found["stopped"]


def test_what_is_compared_with():
    rows = [{"epoch": epoch} for epoch in range(7)]
    assert anchor(rows[:2]) == 0
    rows[2]["decision"], rows[4]["decision"], rows[6]["decision"] = ({"deeper": d} for d in (True, True, False))
    assert [anchor(rows[: n + 1]) for n in (2, 3, 4, 6)] == [2, 2, 4, 4]
