"""What a pretraining stage made of its pictures: input beside reconstruction or match, first and last epoch."""

import zipfile
from collections.abc import Iterable, Iterator
from html import escape
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from fusion.objectives import OBJECTIVES
from pipelines.report.shell import jpeg
from pipelines.report.stages import Span

Arrays = dict[str, NDArray[np.float32]]
"""What the objective gave for some validation pictures; see fusion.trainer."""

_WIDTH = 256
_NOTE = (
    "Validation pictures, and what the first and the last epoch made of them. Error: mean absolute difference in the "
    "network’s units, of hidden patches alone where there are any. Match: cosine similarity, dark 0 to bright 1."
)
_FADED, _CELL = 0.25, 6


def pretraining(stages: Iterable[Span], folder: Path) -> str:
    """A block for each stage whose pictures lie in ``folder``; nothing where none do."""
    blocks = [block for span in stages if not span.stage.is_task and (block := _stage(span, folder))]
    return f'<p class="note">{_NOTE}</p>\n' + "\n".join(blocks) if blocks else ""


def _stage(span: Span, folder: Path) -> str:
    epochs = {"first": "epoch 1", "last": f"epoch {span.length}"}
    if span.length == 1:
        del epochs["first"]
    found = {when: arrays for when in epochs if (arrays := _load(folder / f"{span.stage.name}-{when}.npz"))}
    if not found:
        return ""
    count = min(len(arrays["picture"]) for arrays in found.values())
    told = {epochs[when]: arrays for when, arrays in found.items()}
    rows = "".join(_row(told, index, f"{span.stage.name}, picture {index + 1}") for index in range(count))
    title = OBJECTIVES[span.stage.objective].title
    return f'<h3>{escape(span.stage.name)} <span class="note">{escape(title)}</span></h3>\n{rows}'


def _load(path: Path) -> Arrays:
    """The arrays of a file; empty when it is missing or damaged: a picture less is no reason for no report."""
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as found:
            arrays = {name: np.nan_to_num(found[name].astype(np.float32)) for name in found.files}
    except (OSError, ValueError, zipfile.BadZipFile):
        return {}
    return arrays if "picture" in arrays and {"reconstruction", "match"} & set(arrays) else {}


def _row(told: dict[str, Arrays], index: int, where: str) -> str:
    """One picture: what went in, then what each epoch made of it."""
    latest = list(told.values())[-1]
    views = list(_given({name: array[index] for name, array in latest.items()}))
    for epoch, arrays in told.items():
        views.append(_made({name: array[index] for name, array in arrays.items()}, epoch))
    figures = "".join(
        f'<figure><img src="{jpeg(picture)}" width="{picture.shape[1]}" height="{picture.shape[0]}" '
        f'alt="{escape(f"{where}: {text}")}"><figcaption class="note">{escape(text)}</figcaption></figure>'
        for text, picture in views
    )
    css = "made three" if len(views) == 3 else "made"
    return f'<div class="{css}">{figures}</div>\n'


def _given(sample: Arrays) -> Iterator[tuple[str, NDArray[np.uint8]]]:
    """Thermal, and RGB or the mask where the objective has them."""
    picture = _false_colour(sample["picture"], sample["picture"])
    yield "thermal", picture
    if "rgb_picture" in sample:
        rgb = sample["rgb_picture"].transpose(1, 2, 0)
        low, high = np.percentile(rgb, (0.5, 99.5))
        yield "RGB", _sized(_grey(rgb, low, high))
    if "mask" in sample:
        mask = _mask(sample, picture.shape[:2])
        yield f"what it saw: {1 - mask.mean():.0%}", _hatched(picture, mask)


def _made(sample: Arrays, epoch: str) -> tuple[str, NDArray[np.uint8]]:
    """Reconstruction in the input's colours with its error, or the match of both sensors' features as heat."""
    picture = np.squeeze(sample["picture"])
    if "match" in sample:
        match = np.squeeze(sample["match"])
        size = (_WIDTH, round(picture.shape[0] * _WIDTH / picture.shape[1]))
        grey = cv2.resize(_grey(match, 0.0, 1.0), size, interpolation=cv2.INTER_NEAREST)
        return f"match, {epoch}: mean {match.mean():.2f}", _coloured(grey, cv2.COLORMAP_VIRIDIS)
    made = np.squeeze(sample["reconstruction"])
    error = np.abs(made - picture)
    if "mask" in sample:
        error = error[_mask(sample, (picture.shape[0], picture.shape[1]))]
    mean = error.mean() if error.size else 0.0
    return f"{epoch}: error {mean:.2f}", _false_colour(made, picture)


def _mask(sample: Arrays, size: tuple[int, ...]) -> NDArray[np.bool_]:
    """True where the picture was hidden, at ``size`` (height, width)."""
    mask = np.squeeze(sample["mask"]).astype(np.float32)
    return np.asarray(cv2.resize(mask, (size[1], size[0]), interpolation=cv2.INTER_NEAREST) > 0.5)


def _hatched(picture: NDArray[np.uint8], mask: NDArray[np.bool_]) -> NDArray[np.uint8]:
    """Hidden patches fade and are hatched, so that they are told from a cold scene without colour."""
    rows, columns = np.indices(mask.shape)
    stripe = (rows + columns) % _CELL < 1
    shown = picture.copy()
    shown[mask] = (picture[mask] * _FADED + 40).astype(np.uint8)
    shown[mask & stripe] = 170
    return shown


def _false_colour(view: NDArray[np.float32], of: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Black to yellow over the range of ``of``."""
    low, high = np.percentile(of, (0.5, 99.5))
    return _coloured(_sized(_grey(np.squeeze(view), low, high)), cv2.COLORMAP_INFERNO)


def _grey(view: NDArray[np.float32], low: float, high: float) -> NDArray[np.uint8]:
    return np.asarray(np.clip((view - low) * (255 / max(high - low, 1e-6)), 0, 255), np.uint8)


def _coloured(grey: NDArray[np.uint8], colours: int) -> NDArray[np.uint8]:
    return np.asarray(cv2.cvtColor(cv2.applyColorMap(grey, colours), cv2.COLOR_BGR2RGB), np.uint8)


def _sized(view: NDArray[np.uint8]) -> NDArray[np.uint8]:
    height, width = view.shape[:2]
    how = cv2.INTER_AREA if width > _WIDTH else cv2.INTER_LINEAR
    return np.asarray(cv2.resize(view, (_WIDTH, round(height * _WIDTH / width)), interpolation=how), np.uint8)
