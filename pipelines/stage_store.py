"""Outputs of stages, kept by what they depend on: a prefix that recipes share is trained once."""

import fcntl
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Sequence
from functools import lru_cache
from pathlib import Path
from typing import IO, Any, Self

from fusion.folder import atomic_folder
from pipelines.recipe_file import TrainRecipe
from pipelines.versions import versions

NOTE = "stage.json"
_NO_MATTER = {"about", "workers", "stages"}
"""Fields of a recipe on which a stage's outcome does not depend, or not as a whole."""


def stage_keys(
    recipe: TrainRecipe, fingerprint: str, accelerator: str = "cpu", precision: str = "32-true"
) -> list[str]:
    """For each stage a hash of all that its outcome depends on: the stages up to it, model, data, seed, machine.

    How the thermal branch starts matters only from the first stage on that uses it. Versions count, our own too; but
    ours stays the same from one commit to the next, so that whoever changes the code of training has to remove the
    folder of stages, or take another, to have them trained by the new code.

    Args:
        recipe: Resolved, with its seed.
        fingerprint: Of the card, from ``pipelines.loaders.CardLoaders``.
        accelerator: Which kind of device computes: cpu, cuda or mps.
        precision: As ``pipelines.train.train`` takes it.
    """
    content = recipe.model_dump(mode="json", by_alias=True)
    common = {key: value for key, value in content.items() if key not in _NO_MATTER}
    common |= {"card": fingerprint, "versions": versions(), "accelerator": accelerator, "precision": precision}
    for sensor in ("rgb", "thermal"):
        content["model"][sensor]["weights"] = _file_hash(content["model"][sensor]["weights"])
    keys, used = [], False
    for index, stage in enumerate(recipe.stages):
        used = used or "thermal" in recipe.sensors_of(stage)
        material: dict[str, Any] = common | {"stages": content["stages"][: index + 1]}
        if not used:
            thermal = {k: v for k, v in content["model"]["thermal"].items() if k != "start"}
            material["model"] = content["model"] | {"thermal": thermal}
        text = json.dumps(material, sort_keys=True)
        keys.append(hashlib.sha256(text.encode()).hexdigest()[:24])
    return keys


@lru_cache
def _file_hash(weights: str | None) -> str | None:
    """Of a local file's content; weights by name are pinned by timm's version."""
    if weights is None or not Path(weights).is_file():
        return weights
    return hashlib.sha256(Path(weights).read_bytes()).hexdigest()


class StageStore:
    """Where one run finds the outcome of stages that another has trained, and leaves its own."""

    def __init__(self, folder: Path, keys: Sequence[str], owner: str) -> None:
        """Look into ``folder``.

        Args:
            folder: Holds a folder for each key.
            keys: What ``stage_keys`` gave for the run's recipe.
            owner: Name of the run, noted beside what it keeps.
        """
        self.folder, self.keys, self.owner = folder, keys, owner

    def fetch(self, index: int) -> Path | None:
        """The folder with what all stages up to and with ``index`` made; None when nobody has trained them yet."""
        path = self.folder / self.keys[index]
        return path if path.is_dir() else None  # whole: it appears by a rename

    def keep(self, index: int, write: Callable[[Path], None]) -> None:
        """Keep the outcome of stage ``index``: ``write`` fills an empty folder. What is there already stays."""
        if self.fetch(index) is not None:
            return
        with atomic_folder(self.folder / self.keys[index]) as folder:
            write(folder)
            (folder / NOTE).write_text(json.dumps({"owner": self.owner}))

    def missing(self) -> list[int]:
        """The stages that this run would have to train from its start."""
        known = [index for index in range(len(self.keys)) if self.fetch(index) is not None]
        return list(range(known[-1] + 1 if known else 0, len(self.keys)))

    def shared(self) -> list[int]:
        """The stages whose outcome another run has made."""
        return [index for index in range(len(self.keys)) if self._owner(index) not in (None, self.owner)]

    def claim(self, *others: Path) -> "Claim | None":
        """Take the right to train the missing stages; None while another run is training one of them.

        Args:
            others: Further files to lock with them.
        """
        missing = [self.keys[index] for index in self.missing()]
        claim = lock([*others, *(self.folder / f"{key}.lock" for key in missing)])
        if claim is not None:
            for key in missing:  # what a killed run left half-written
                for leftover in self.folder.glob(f".{key}.*"):
                    shutil.rmtree(leftover)
        return claim

    def _owner(self, index: int) -> str | None:
        found = self.fetch(index)
        if found is None:
            return None
        owner: str = json.loads((found / NOTE).read_text())["owner"]
        return owner


class Claim:
    """Locks on files that no other process gets; the system gives them back when the process ends, however it ends."""

    def __init__(self, files: Sequence[IO[str]]) -> None:
        self._files = files

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.release()

    def release(self) -> None:
        """Give the locks back."""
        for file in self._files:
            file.close()


def lock(paths: Sequence[Path]) -> Claim | None:
    """Lock all files, each made where it lacks, with our process id in it; None, and none locked, when one is taken.

    The files stay: removing one would let two processes each lock a file of that name.
    """
    files: list[IO[str]] = []
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = path.open("a")
        files.append(file)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            Claim(files).release()
            return None
        file.truncate(0)
        file.write(f"{os.getpid()}\n")
        file.flush()
    return Claim(files)
