"""Kinds of synthetic data sets: how many pairs, in which light, how noisy."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

from data.synthetic.site import REGIMES, Regime
from data.synthetic.surface import ROAD_STATES
from data.synthetic.things import CLASSES


@dataclass(frozen=True, slots=True)
class Setting:
    """What all pairs of a data set have in common."""

    about: str
    """What it is for."""
    pairs: Mapping[str, int]
    """Split → number of pairs, unless asked for otherwise."""
    regimes: Mapping[str, Regime]
    """Split → what its scenes have in common."""
    rgb_noise: float = 1.0
    """Noise of the RGB camera, times the usual: 3 % of white by night, else 1.2 %."""
    road: bool = False
    """True: the road is in one of four states, which is the class of the picture. False: the class is the nearest
    labelled thing, and the road is always dry and mild."""

    @property
    def image_classes(self) -> tuple[str, ...]:
        """Classes of whole pictures. Either kind takes both sensors: RGB sees no animal, thermal no cone."""
        return ROAD_STATES if self.road else CLASSES


_DARK = (0.1, 0.6, 0.3)
"""Share of day, night and glare where RGB sees badly."""
_HARD = {name: replace(regime, mix=_DARK) for name, regime in REGIMES.items()}

SETTINGS: dict[str, Setting] = {
    "default": Setting(
        "many labels, all kinds of light", {"train": 240, "val": 60, "test": 60, "unlabelled": 120}, REGIMES
    ),
    "hard": Setting(
        "few labels and many unlabelled pairs of the same kind of place, night and glare: to compare recipes",
        {"train": 48, "val": 60, "test": 96, "unlabelled": 400},
        _HARD | {"unlabelled": replace(_HARD["train"], sites=24)},
        rgb_noise=2.0,
    ),
    "road": Setting(
        "the road dry, wet, under frost or black ice: to classify pictures as a whole",
        {"train": 480, "val": 80, "test": 240, "unlabelled": 120},
        {
            name: replace(REGIMES[name], sites=sites, ambient=ambient)
            for name, sites, ambient in (
                ("train", 40, (-6, 3)),
                ("val", 12, (-8, 1)),
                ("test", 24, (-4, 5)),
                ("unlabelled", 24, (-8, 5)),
            )
        },
        road=True,
    ),
}
"""Name → setting."""
