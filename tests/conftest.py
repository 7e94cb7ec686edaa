"""Generated data that several tests share; nothing is checked in."""

from pathlib import Path

import pytest

from data.synthetic.dataset import write_dataset
from data.synthetic.video import write_video

SHARED = Path(__file__).parents[2] / "shared" / "data"


@pytest.fixture(scope="session")
def synthetic_card(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """card.yaml of 12 / 6 / 6 pairs (train / val / test) and 6 unlabelled ones, 64×96 RGB, 48×80 counts16.

    For reading only: a test that changes files copies the folder first.
    """
    out = tmp_path_factory.mktemp("synthetic")
    pairs = {"train": 12, "val": 6, "test": 6, "unlabelled": 6}
    return write_dataset(out, pairs, seed=0, rgb_size=(64, 96), thermal_size=(48, 80))


@pytest.fixture(scope="session")
def synthetic_video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with one second of rgb.mp4 (30/s), thermal.mkv (25/s, 80 ms behind), rig.yaml and truth.json."""
    out = tmp_path_factory.mktemp("video")
    return write_video(out, seconds=1, seed=0, rgb_size=(64, 96), thermal_size=(48, 80))


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real pairs that lies beside a checkout; tests that need it skip without it."""
    if not SHARED.is_dir():
        pytest.skip(f"no real pairs at {SHARED}")
    return SHARED
