"""Stages that recipes share are trained once: what their keys depend on, what is kept, who may train."""

import importlib.metadata
import os
from pathlib import Path

import pytest

from pipelines.recipe_file import TrainRecipe
from pipelines.stage_store import StageStore, lock, stage_keys

STAGES = [
    {"name": "rgb-task", "epochs": 2, "sensors": ["rgb"], "groups": [{"match": "rgb.*|head", "lr": 0.01}]},
    {"name": "fuse", "epochs": 2, "groups": [{"match": "blend.*|head", "lr": 0.01}]},
    {"name": "all", "epochs": 2, "groups": [{"match": "*", "lr": 0.01}]},
]


def recipe(stages=STAGES, thermal=None, weights=None, **fields) -> TrainRecipe:
    model = {"size": [64, 96], "rgb": {"arch": "test_resnet", "weights": weights},
             "thermal": {"arch": "test_resnet", **(thermal or {})}}  # fmt: skip
    return TrainRecipe.model_validate({"about": "a test", "model": model, "stages": stages, **fields})


def shared(a: TrainRecipe, b: TrainRecipe, fingerprint="card") -> int:
    """How many stages from the first on two recipes have in common."""
    keys = zip(stage_keys(a, "card"), stage_keys(b, fingerprint), strict=False)
    return next((index for index, (x, y) in enumerate(keys) if x != y), min(len(a.stages), len(b.stages)))


def changed(index, **fields):
    return [stage | (fields if number == index else {}) for number, stage in enumerate(STAGES)]


def test_a_prefix_is_shared_up_to_the_first_stage_that_differs():
    assert len(set(stage_keys(recipe(), "card"))) == 3
    assert shared(recipe(), recipe()) == 3
    assert shared(recipe(), recipe(changed(2, epochs=3))) == 2
    assert shared(recipe(), recipe(changed(0, clip=1.0))) == 0
    assert shared(recipe(), recipe(STAGES[:2])) == 2


@pytest.mark.parametrize(
    "fields",
    [{"seed": 1}, {"batch": 4}, {"repeat": 2}, {"select": "last"}, {"augment": {"flip": 0.1}},
     {"thermal": {"arch": "test_convnext"}}, {"optimiser": {"weight_decay": 0.5}}],
)  # fmt: skip
def test_what_decides_the_outcome_is_in_the_key(fields):
    assert shared(recipe(), recipe(**fields)) == 0


def test_what_does_not_decide_the_outcome_is_not():
    assert shared(recipe(), recipe(about="another", workers=0)) == 3


def test_the_data_is_in_the_key():
    assert shared(recipe(), recipe(), fingerprint="another card") == 0


@pytest.mark.parametrize("package", ["rgbt-fusion", "torch", "timm", "albumentations", "opencv-python"])
def test_versions_are_in_the_key(package, monkeypatch):
    before = stage_keys(recipe(), "card")
    known = importlib.metadata.version
    monkeypatch.setattr("pipelines.versions.version", lambda name: "0.0" if name == package else known(name))
    assert set(before).isdisjoint(stage_keys(recipe(), "card"))


def test_what_computes_is_in_the_key():
    kinds = [("cpu", "32-true"), ("cuda", "32-true"), ("cuda", "bf16-mixed")]
    assert len({stage_keys(recipe(), "card", *kind)[0] for kind in kinds}) == 3


def test_how_thermal_starts_matters_from_the_first_stage_that_uses_it():
    assert shared(recipe(weights="pretrained"), recipe(weights="pretrained", thermal={"start": "copied"})) == 1


def test_the_content_of_a_weights_file_counts_and_not_its_name(tmp_path):
    paths = [tmp_path / name for name in ("a", "b", "c")]
    for path, content in zip(paths, (b"one", b"two", b"one"), strict=True):
        path.write_bytes(content)
    one, two, again = (stage_keys(recipe(thermal={"weights": str(path)}), "card")[2] for path in paths)
    assert one != two
    assert one == again
    assert shared(recipe(weights=str(paths[0])), recipe(weights=str(paths[1]))) == 0


def writes(text):
    return lambda folder: (folder / "history.json").write_text(text) and None


def test_what_is_kept_is_fetched_by_whoever_shares_the_key(tmp_path):
    mine, other = StageStore(tmp_path, ["a", "b"], "mine"), StageStore(tmp_path, ["a", "c"], "other")
    assert mine.fetch(0) is None
    mine.keep(0, writes("first"))
    assert (other.fetch(0) / "history.json").read_text() == "first"
    assert other.fetch(1) is None
    other.keep(0, writes("second"))
    assert (mine.fetch(0) / "history.json").read_text() == "first"
    assert (mine.missing(), other.missing()) == ([1], [1])
    assert (mine.shared(), other.shared()) == ([], [0])


def test_the_latest_stage_is_enough(tmp_path):
    store = StageStore(tmp_path, ["a", "b", "c"], "run")
    store.keep(1, writes("of a and b"))
    assert store.missing() == [2]


def test_a_stage_that_fails_to_be_written_is_not_there(tmp_path):
    store = StageStore(tmp_path, ["a"], "run")

    def breaks(folder: Path) -> None:
        (folder / "model.safetensors").write_text("half")
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        store.keep(0, breaks)
    assert store.fetch(0) is None
    assert list(tmp_path.iterdir()) == []


def free(claim) -> bool:
    """Whether it was granted; it is given back at once."""
    if claim is not None:
        claim.release()
    return claim is not None


def test_nobody_trains_what_another_is_training(tmp_path):
    mine, like_me, apart = (StageStore(tmp_path, keys, "x") for keys in (["a", "b"], ["a", "c"], ["d"]))
    with mine.claim():
        assert not free(like_me.claim())
        assert free(apart.claim())
        mine.keep(0, writes(""))
        assert free(like_me.claim()), "what it shares is there, the rest is its own"
        assert not free(mine.claim())
    assert free(mine.claim())


def test_all_or_nothing_is_locked(tmp_path):
    with lock([tmp_path / "b"]):
        assert not free(lock([tmp_path / "a", tmp_path / "b"]))
        assert free(lock([tmp_path / "a"]))
        assert (tmp_path / "b").read_text() == f"{os.getpid()}\n"


def test_the_claim_of_a_killed_process_ends_with_it(tmp_path):
    store = StageStore(tmp_path, ["a"], "run")
    child = os.fork()
    if child == 0:
        held = store.claim()
        (tmp_path / ".a.1234").mkdir()  # half-written
        os._exit(0 if held is not None else 1)
    assert os.waitpid(child, 0)[1] == 0
    assert (tmp_path / ".a.1234").exists()
    assert free(store.claim())
    assert not (tmp_path / ".a.1234").exists()
