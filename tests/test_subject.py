"""Which cards a run or a bundle is measured on: those whose pairs the model sees as it was trained to."""

from pathlib import Path

import pytest

from data.card import DatasetCard, Masks, Split
from data.errors import DataError
from data.thermal import Planck, ThermalSpec
from pipelines.subject import Subject

PLANCK = Planck(r1=17368.8, r2=0.0188158, b=1442.4, f=1, o=-1550)


def card(**spec):
    return DatasetCard(
        version=1, name="x", rgb="{id}_rgb.png", thermal="{id}_t.png", rgb_size=(48, 64), thermal_size=(48, 64),
        classes=("bole",), masks=Masks(path="{id}_mask.png"), thermal_spec=ThermalSpec(unit="celsius", **spec),
        splits={"val": Split(ids=("a",))},
    )  # fmt: skip


def subject(trained):
    return Subject(
        Path("run"),
        "segment",
        lambda batch: batch,
        ("rgb", "thermal"),
        trained.inputs().model_dump(mode="json"),
        ("bole",),
    )


def test_degrees_are_degrees_however_files_hold_them():
    trained = subject(card(planck=PLANCK))
    for spec in ({"stored": "radiometric"}, {"stored": "decikelvin"}, {}, {"planck": PLANCK, "blank": ((0, 0, 5, 5),)}):
        trained.require_fits(card(**spec))


@pytest.mark.parametrize("spec", [{"range": (-40, 45)}, {"polarity": "black-hot"}, {"invalid": -500.0}])
def test_another_scale_is_refused_by_its_field(spec):
    name = next(iter(spec))
    with pytest.raises(DataError, match=rf"thermal_spec\.{name} is .*, but run takes .*; use a card of the same"):
        subject(card()).require_fits(card(**spec))
