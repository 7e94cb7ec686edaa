"""What our training loop costs beyond a bare PyTorch loop over the same model and the same batches in memory.

Ours is a whole ``Trainer.fit``: its batches come from here, and between two short blocks of them the bare loop runs, in
the same process. Ours is first in one pair of blocks and second in the next, and the answer is the median of the pairs'
ratios: a machine that slows down or speeds up meanwhile favours neither.
"""

import itertools
import statistics
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from time import perf_counter, process_time
from typing import Any

import torch
from lightning.fabric import Fabric
from torch import Tensor, nn
from torch.utils.data import DataLoader, IterableDataset

from data.errors import DataError
from data.prepare import InputSpec
from data.thermal import ThermalSpec
from export.bench import machine
from fusion.checkpoint import Row
from fusion.context import Loaders
from fusion.model import FusionModel, ModelConfig, RgbEncoder, ThermalEncoder, build_model
from fusion.objectives import Batch
from fusion.recipe import Recipe
from fusion.trainer import Trainer

BLOCK = 1
"""Steps of a block: as short as can be, beside a machine that drifts."""
WARM_UP = 4
"""Steps of each loop that are not measured."""
_BATCHES = 4
_OBJECTS = 6
_RATE, _DECAY, _CLIP = 1e-4, 0.02, 5.0
_PACKAGES = ("torch", "torchvision", "timm", "lightning")


@dataclass(frozen=True)
class Block:
    """What one block of steps took."""

    wall_s: float
    cpu_s: float
    """User and system time of this process, over all its threads."""


def measure_train(
    arch: str = "mobilenetv4_conv_small",
    size: tuple[int, int] = (256, 256),
    batch: int = 8,
    steps: int = 40,
    threads: int | None = None,
    accelerator: str = "auto",
) -> dict[str, Any]:
    """Measure a pair of branches of one architecture, with random weights: a step costs the same whatever was learnt.

    Args:
        arch: Both encoders, as a recipe names them.
        size: Height and width of both frames and of the canvas; multiples of 32.
        batch: Pairs of one step.
        steps: Steps of each loop that are measured; rounded up to an even number of blocks.
        threads: CPU threads of torch; None: as torch is set.
        accelerator: As Fabric takes it.

    Returns:
        ``train_ratio`` and what it was made from, as plain JSON: see ``figures``.

    Raises:
        DataError: a number is out of range.
        FusionError: no such architecture.
    """
    _require(size, batch, steps, threads)
    fabric = Fabric(accelerator=accelerator, devices=1)
    with torch_threads(threads) as used:
        batches = make_batches(_BATCHES, batch, size)
        bare = BareLoop(build_pair(arch, size), batches, fabric.device)
        source = Interleaved(batches, bare, 2 * -(-steps // (2 * BLOCK)), fabric.device)
        train_ours(build_pair(arch, size), source, fabric)
    what = f"{arch} ×2, canvas {size[0]}×{size[1]}, batch {batch}, all blocks train, AdamW, clipped gradients"
    return figures(source.pairs) | {
        "model": what,
        "device": str(fabric.device),
        "threads": used,
        "machine": machine(),
        "versions": {name: version(name) for name in _PACKAGES},
    }


def _require(size: tuple[int, int], batch: int, steps: int, threads: int | None) -> None:
    for name, value in (("batch", batch), ("steps", steps), ("threads", threads)):
        if value is not None and value < 1:
            raise DataError(f"--{name} is {value}; give at least 1")
    if any(length < 32 or length % 32 for length in size):
        raise DataError(f"--size is {size[0]} {size[1]}; give height and width as multiples of 32")


@contextmanager
def torch_threads(count: int | None) -> Iterator[int]:
    """Let torch use so many CPU threads for a while; None leaves it as it is."""
    before = torch.get_num_threads()
    torch.set_num_threads(count or before)
    try:
        yield count or before
    finally:
        torch.set_num_threads(before)


def figures(pairs: Sequence[tuple[Block, Block]]) -> dict[str, Any]:
    """Sum up pairs of blocks (ours, bare), each of ``BLOCK`` steps."""
    ratios = [bare.wall_s / ours.wall_s for ours, bare in pairs]
    low, _, high = statistics.quantiles(ratios, n=4, method="inclusive")
    loops = dict(zip(("ours", "bare"), zip(*pairs, strict=True), strict=True))
    rates = {f"{k}_steps_per_s": BLOCK / statistics.median(b.wall_s for b in v) for k, v in loops.items()}
    cpu = {f"{k}_cpu_ms": statistics.mean(b.cpu_s for b in v) / BLOCK * 1e3 for k, v in loops.items()}
    return {
        "train_ratio": round(statistics.median(ratios), 4),
        "train_ratio_quartiles": [round(low, 4), round(high, 4)],
        "train_ratio_range": [round(min(ratios), 4), round(max(ratios), 4)],
        "cpu_ratio": round(statistics.median(bare.cpu_s / ours.cpu_s for ours, bare in pairs), 4),
        **{name: round(value, 3) for name, value in (rates | cpu).items()},
        "repeats": len(pairs),
        "steps": BLOCK * len(pairs),
    }


class Interleaved(IterableDataset[Batch]):
    """Batches for our loop; between two blocks of them the bare loop runs, and what each block took is noted."""

    def __init__(
        self, batches: Sequence[Batch], bare: Callable[[int], None], pairs: int, device: torch.device | None = None
    ) -> None:
        self.batches, self.bare, self.count = batches, bare, pairs
        self.device = device or torch.device("cpu")
        self.pairs: list[tuple[Block, Block]] = []
        """(ours, bare) for each pair of blocks."""

    def __len__(self) -> int:
        return WARM_UP + self.count * BLOCK

    def __iter__(self) -> Iterator[Batch]:
        """Yield all batches; the next is asked for when the step on the one before is done."""
        source = itertools.cycle(self.batches)
        yield from itertools.islice(source, WARM_UP)
        self.bare(WARM_UP)
        for number in range(self.count):
            before = self._bare_block() if number % 2 else None
            start = self._now()
            yield from itertools.islice(source, BLOCK)
            ours = self._since(start)
            self.pairs.append((ours, before or self._bare_block()))

    def _bare_block(self) -> Block:
        start = self._now()
        self.bare(BLOCK)
        return self._since(start)

    def _now(self) -> tuple[float, float]:
        if self.device.type != "cpu":
            torch.accelerator.synchronize(self.device)
        return perf_counter(), process_time()

    def _since(self, start: tuple[float, float]) -> Block:
        wall_s, cpu_s = self._now()
        return Block(wall_s - start[0], cpu_s - start[1])


class BareLoop:
    """What one writes by hand: nothing is checked, scheduled, logged or read back from the device."""

    def __init__(self, model: FusionModel, batches: Sequence[Batch], device: torch.device | None = None) -> None:
        self.device = device or torch.device("cpu")
        self.model = model.to(self.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.model.train()
        self._batches = itertools.cycle(batches)
        matrices = [p for p in model.parameters() if p.dim() > 1]
        vectors = [p for p in model.parameters() if p.dim() <= 1]
        groups: list[dict[str, Any]] = [{"params": matrices}, {"params": vectors, "weight_decay": 0.0}]
        self._optimiser = torch.optim.AdamW(groups, lr=_RATE, weight_decay=_DECAY)

    def __call__(self, steps: int) -> None:
        """Train for ``steps`` optimiser steps."""
        for batch in itertools.islice(self._batches, steps):
            rgb, thermal, present = (batch[key].to(self.device) for key in ("rgb", "thermal", "present"))
            self._optimiser.zero_grad(set_to_none=True)
            loss = self._loss(self.model.maps(rgb, thermal, present), batch)
            loss.backward()  # type: ignore[no-untyped-call]
            nn.utils.clip_grad_norm_(self.model.parameters(), _CLIP)
            self._optimiser.step()

    def _loss(self, maps: dict[str, Tensor], batch: Batch) -> Tensor:
        truth = {key: [one.to(self.device) for one in batch[key]] for key in ("boxes", "labels")}
        targets = self.model.targets(truth)
        loss: Tensor = self.model.loss(maps, targets, self.model.head.counts(targets))["loss"]
        return loss


def train_ours(model: FusionModel, source: Interleaved, fabric: Fabric) -> None:
    """Train a model through one stage of one epoch as ``rgbt train`` does: the same loop, checks and files."""
    group = {"match": "rgb.* | thermal.* | blend.* | head", "lr": _RATE, "norm": "train"}
    schedule = {"kind": "constant", "warmup": 0.0}
    stage = {"name": "bench", "epochs": 1, "groups": [group], "clip": _CLIP, "schedule": schedule}
    section = model.config.model_dump(exclude={"classes", "inputs"})
    recipe = Recipe.model_validate(
        {
            "about": "All blocks train.",
            "model": section,
            "stages": [stage],
            "batch": len(source.batches[0]["ids"]),
            "optimiser": {"kind": "adamw", "weight_decay": _DECAY},
            "select": "last",
        }
    )
    fit_once(model, recipe, _InMemory(source), fabric)


def fit_once(model: FusionModel, recipe: Recipe, loaders: Loaders, fabric: Fabric) -> list[Row]:
    """Train silently, in a folder that is thrown away; return the history."""
    with tempfile.TemporaryDirectory(prefix="rgbt-bench-") as run:
        return Trainer(model, recipe, loaders, Path(run), fabric, say=lambda _: None).fit()


class _InMemory:
    """The same batches for every epoch; see fusion.context.Loaders."""

    def __init__(self, train: Interleaved) -> None:
        self._train = train

    def train(self, kind: str, order: tuple[int | str, ...], skip: int = 0) -> DataLoader[Any]:
        return as_loader(self._train)

    def validation(self) -> DataLoader[Any]:
        return as_loader(Cut(self._train.batches, 1))


class Cut(IterableDataset[Batch]):
    """The first of some batches."""

    def __init__(self, batches: Any, count: int) -> None:  # noqa: ANN401 - a list, or a DataLoader
        self._batches, self._count = batches, count

    def __len__(self) -> int:
        return min(self._count, len(self._batches))

    def __iter__(self) -> Iterator[Batch]:
        yield from itertools.islice(self._batches, self._count)


def as_loader(batches: IterableDataset[Batch]) -> DataLoader[Any]:
    """Fabric takes nothing but a DataLoader; this one hands on what it is given."""
    return DataLoader(batches, batch_size=None, collate_fn=lambda batch: batch)


def build_pair(arch: str, size: tuple[int, int]) -> FusionModel:
    """A model of two equal branches and a detect head, always with the same random weights."""
    inputs = InputSpec(rgb_size=size, thermal_size=size, thermal=ThermalSpec(unit="counts16"))
    rgb, thermal = RgbEncoder(arch=arch, weights=None), ThermalEncoder(arch=arch)
    config = ModelConfig(
        size=size, rgb=rgb, thermal=thermal, classes=("person", "car"), inputs=inputs.model_dump(mode="json")
    )
    model, _ = build_model(config, seed=0)
    return model


def make_batches(count: int, batch: int, size: tuple[int, int]) -> list[Batch]:
    """Generated batches as data.dataset.unpack makes them, in memory: noise, and up to six boxes in each picture."""
    random = torch.Generator().manual_seed(0)
    return [_make_batch(torch.arange(i * batch, (i + 1) * batch), size, random) for i in range(count)]


def _make_batch(index: Tensor, size: tuple[int, int], random: torch.Generator) -> Batch:
    count, (height, width) = len(index), size
    objects = torch.randint(1, _OBJECTS + 1, (count,), generator=random).tolist()
    corners = [torch.rand(n, 2, generator=random) * 0.7 for n in objects]
    sides = [0.05 + torch.rand(n, 2, generator=random) * 0.25 for n in objects]
    scale = torch.tensor([width, height, width, height])
    return {
        "rgb": torch.randint(0, 256, (count, height, width, 3), dtype=torch.uint8, generator=random),
        "thermal": torch.randint(21_000, 23_000, (count, height, width), generator=random).float(),
        "present": torch.ones(count, 2),
        "boxes": [torch.cat([c, c + s], 1) * scale for c, s in zip(corners, sides, strict=True)],
        "labels": [torch.randint(0, 2, (n,), generator=random) for n in objects],
        "ids": [str(i) for i in index.tolist()],
        "index": index,
        "seed": index,
    }
