"""What stays of a run's checkpoints: what is needed, whole, and what belongs to somebody else."""

import shutil

import pytest

from fusion import checkpoint
from fusion.checkpoint import Checkpoints, State


@pytest.mark.parametrize("moment", ["a folder is renamed", "it is half gone"])
def test_a_kill_while_old_checkpoints_are_removed_leaves_whole_ones_only(moment, tmp_path, monkeypatch):
    checkpoints, state = Checkpoints(tmp_path), State(stage=0, epoch=4)
    files = {"model.safetensors", "optimizer.pt", "state.json"}
    for name in (*(f"s00-e00{epoch}" for epoch in range(5)), ".s00-e002.1a2b3c4d"):
        (checkpoints.folder / name).mkdir(parents=True)
        for file in files:
            (checkpoints.folder / name / file).write_bytes(b"x")
    (checkpoints.folder / ".DS_Store").write_bytes(b"of somebody else")
    (checkpoints.folder / ".notes").mkdir()
    rmtree = shutil.rmtree

    def killed(path):
        if "s00-e002.1a2b" in str(path):
            return rmtree(path)
        if moment == "it is half gone":
            (path / "model.safetensors").unlink()
        raise KeyboardInterrupt

    monkeypatch.setattr(checkpoint.shutil, "rmtree", killed)
    with pytest.raises(KeyboardInterrupt):
        checkpoints.prune(state, {1})
    for folder in checkpoints.folder.glob("s*"):
        assert {file.name for file in folder.iterdir()} == files, folder
    monkeypatch.undo()
    checkpoints.prune(state, {1})
    kept = {".DS_Store", ".notes", "s00-e001", "s00-e003", "s00-e004"}
    assert {path.name for path in checkpoints.folder.iterdir()} == kept
