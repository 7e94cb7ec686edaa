"""The guard and early stop, from rows of history alone."""

import math
from typing import Any

import pytest

from fusion.guard import Verdict, exhausted, factor, lineage, refuge, verdict
from fusion.recipe import EarlyStop, Guard


def rows(metric: str, *values: float | str) -> list[dict[str, Any]]:
    """One row for each value, from epoch 0; text is a rolled-back epoch whose figure would be the best of all."""
    return [
        {"epoch": e, metric: v}
        if not isinstance(v, str)
        else {"epoch": e, metric: -9.0 if "loss" in metric else 9.0, "rolled_back": v}
        for e, v in enumerate(values)
    ]


def judge(metric: str, *values: float | str, **fields: Any) -> Verdict | None:
    return verdict(Guard(metric=metric, **fields), rows(metric, *values))


@pytest.mark.parametrize(
    ("metric", "within", "beyond"),
    [
        ("val_loss", [2.0, 1.0, 1.05], [2.0, 1.0, 1.06]),  # 5 % of the best, not of the last
        ("val_loss", [1.0, 1.04, 1.05], [1.0, 1.04, 1.06]),
        ("val_loss", [3.0, -1.0, -0.86], [3.0, -1.0, -0.84]),  # 5 % of the 3 it once was
        ("val_loss", [-2.0, -4.0, -3.8], [-2.0, -4.0, -3.7]),
        ("val_loss", [0.0, 0.0], [0.0, 0.01]),
        ("ap50", [0.5, 0.7, 0.65], [0.5, 0.7, 0.6499]),  # points, not a share
        ("ap50", [0.7, 0.9], [0.7, 0.6]),
        ("ap50_rgb", [0.05, 0.0], [0.06, 0.0]),
        ("forgetting_rgb", [0.0, -0.3, 0.05], [0.0, -0.3, 0.051]),  # the tolerance itself, whatever was gained
    ],
)
def test_a_jump_is_what_lies_beyond_the_tolerance(metric: str, within: list[float], beyond: list[float]) -> None:
    assert judge(metric, *within) is None
    found = judge(metric, *beyond)
    assert found is not None and found.action == "rollback"


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("metric", ["val_loss", "ap50", "forgetting_rgb"])
def test_what_is_no_number_has_jumped(metric: str, value: float) -> None:
    found = judge(metric, 0.0, value)
    assert found is not None and "no number" in found.text
    assert judge(metric, math.nan, 0.01) is None  # and is nothing to compare with


def test_the_sentences() -> None:
    found = judge("val_loss", 2.0, 1.0, 1.5)
    assert found == Verdict(
        "rollback",
        "epoch 2: val_loss rose from 1 to 1.5, 50 % above epoch 1 (5 % tolerated); back to epoch 1 with rates × 0.5 "
        "(rollback 1 of 3)",
        1,
    )
    found = judge("ap50", 0.8, 0.7, on_jump="stop", tolerance="2%")
    assert found == Verdict(
        "stop",
        "epoch 1: ap50 fell from 0.8 to 0.7, 10.0 points below the stage's entry (2 tolerated); the stage ends",
        0,
    )
    found = judge("forgetting_rgb", 0.0, 0.02, 0.071, on_jump="warn")
    assert found == Verdict("warn", "epoch 2: forgetting_rgb is 7.1 points, more than the 5 tolerated", 1)


def test_what_was_rolled_back_is_no_reference() -> None:
    assert judge("val_loss", 1.0, "jump", 1.04) is None
    assert judge("ap50", 0.5, "jump", 0.46) is None
    found = judge("val_loss", 1.0, "jump", 2.0)
    assert found is not None and found.epoch == 0 and "rollback 2 of 3" in found.text


def test_after_at_most_rollbacks_a_jump_stops() -> None:
    found = judge("val_loss", 1.0, "jump", "jump", 2.0, at_most=2)
    assert found is not None and found.action == "stop" and found.text.endswith("the stage ends after 2 rollbacks")
    found = judge("val_loss", 1.0, "jump", 2.0, at_most=2)
    assert found is not None and found.action == "rollback"
    found = judge("val_loss", 1.0, 2.0, at_most=0)
    assert found is not None and found.action == "stop"
    found = judge("val_loss", 1.0, "jump", 2.0, at_most=1, on_jump="warn")
    assert found is not None and found.action == "warn"


def test_the_first_row_cannot_jump() -> None:
    assert judge("val_loss", 1.0) is None


def test_forgetting_is_nothing_at_the_entry() -> None:
    history = [{"epoch": 0, "ap50": 0.5}, {"epoch": 1, "forgetting_rgb": 0.1}]
    found = verdict(Guard(metric="forgetting_rgb"), history)
    assert found is not None and found.epoch == 0


def test_where_a_rollback_goes() -> None:
    loss, forgotten = Guard(metric="val_loss"), Guard(metric="forgetting_rgb")
    assert refuge(loss, rows("val_loss", 3.0, 1.0, 1.02, "jump")) == 1
    assert refuge(loss, rows("val_loss", 3.0, 1.0, 1.0)) == 1
    assert refuge(Guard(metric="ap50"), rows("ap50", 0.1, 0.5, 0.48)) == 1
    # The least forgetful epoch is the entry; the newest within the tolerance has learned most.
    assert refuge(forgotten, rows("forgetting_rgb", 0.0, 0.01, 0.03)) == 2
    assert refuge(forgotten, rows("forgetting_rgb", 0.0, 0.01, 0.08)) == 1


def test_what_forgets_too_much_goes_back_to_the_newest_epoch_that_did_not() -> None:
    found = judge("forgetting_thermal", 0.0, 0.01, 0.03, 0.2)
    assert found == Verdict(
        "rollback",
        "epoch 3: forgetting_thermal is 20.0 points, more than the 5 tolerated; back to epoch 2 with rates × 0.5 "
        "(rollback 1 of 3)",
        2,
    )
    found = judge("forgetting_thermal", 0.0, 0.06)
    assert found is not None and (found.action, found.epoch) == ("rollback", 0)
    found = judge("forgetting_thermal", 0.0, 0.01, "jump", 0.06, at_most=1)
    assert found is not None and (found.action, found.epoch) == ("stop", 1)


def test_the_epochs_that_the_weights_have_in_them() -> None:
    def after(*goals: int | None) -> tuple[int, ...]:
        rows: list[dict[str, Any]] = [{"epoch": 0}]
        for epoch, goal in enumerate(goals, 1):
            rows.append({"epoch": epoch} | ({} if goal is None else {"rolled_back": "why", "back_to": goal}))
        return lineage(rows)

    assert after() == () and after(None, None) == (1, 2)
    assert after(None, None, 1) == (1,) and after(None, None, 1, None) == (1, 4)
    assert after(None, 0, None) == (3,)
    assert after(None, None, 1, None, 4) == (1, 4)  # to an epoch that itself came after a rollback


def test_rates_fall_with_each_rollback() -> None:
    guard = Guard(lr_factor=0.5)
    assert factor(guard, rows("val_loss", 1.0, 0.9)) == 1
    assert factor(guard, rows("val_loss", 1.0, "jump", 0.9, "no number")) == 0.25


@pytest.mark.parametrize(
    ("metric", "values", "fields", "ends"),
    [
        ("val_loss", [1.0, 1.0, 1.1], {"patience": 2}, True),
        ("val_loss", [1.0, 1.1, 0.9, 1.0], {"patience": 2}, False),
        ("val_loss", [1.0, 0.99, 0.98, 0.97], {"patience": 2, "min_delta": 0.015}, False),  # small steps add up
        ("val_loss", [1.0, 0.99, 0.986], {"patience": 2, "min_delta": 0.015}, True),
        ("ap50", [0.5, 0.4, 0.5], {"patience": 2}, True),
        ("ap50", [0.5, 0.4, 0.6], {"patience": 2}, False),
        ("ap50", [0.5, "jump", 0.4], {"patience": 2}, False),  # an epoch that was thrown away does not count
        ("ap50", [0.5, "jump", 0.4, 0.3], {"patience": 2}, True),
        ("forgetting_rgb", [0.0, 0.01, 0.0], {"patience": 2}, True),
        ("val_loss", [1.0, math.nan, math.nan], {"patience": 2}, True),
    ],
)
def test_early_stop(metric: str, values: list[float | str], fields: dict[str, Any], ends: bool) -> None:
    assert (exhausted(EarlyStop(metric=metric, **fields), rows(metric, *values)) is not None) == ends


def test_early_stop_says_why() -> None:
    history = rows("ap50", 0.4, 0.5123, 0.512, 0.513)
    found = exhausted(EarlyStop(metric="ap50", patience=2, min_delta=0.01), history)
    assert (
        found == "ap50 has not improved by more than 0.01 for 2 epochs (best 0.5123 at epoch 1); the stage ends early"
    )
