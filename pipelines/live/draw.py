"""The answer as a picture: RGB and false-coloured thermal side by side, with boxes, class maps or labels on them."""

from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from data.frame import Image, Pair
from data.prepare import InputSpec, Prepared, fit
from pipelines.live.answer import Answer, BoxAnswer, LabelAnswer, MapAnswer

COLOURS = (
    (255, 178, 29), (72, 220, 138), (64, 186, 255), (255, 112, 112), (207, 144, 255),
    (255, 240, 90), (120, 255, 240), (255, 150, 220), (190, 230, 110), (160, 170, 255),
)  # fmt: skip
"""R, G, B of classes in their order, to be told apart on dark and on bright ground."""

_SHORTEST, _TALLEST = 360, 540
_INK = (16, 16, 16)
_OVERLAY = 0.45
"""Share of a class's colour in its pixels."""
_FONT = cv2.FONT_HERSHEY_SIMPLEX


class Composer:
    """Draws answers; the first one sets the size of all pictures (360 to 540 high), so that they fit into one video.

    Frames of another shape lie between dark bars.
    Asking twice for the same answer draws once.
    """

    def __init__(self, inputs: InputSpec, classes: Sequence[str]) -> None:
        self._inputs = inputs
        self._classes = classes
        self._panel: tuple[int, int] | None = None
        self._last: tuple[Answer, NDArray[np.uint8]] | None = None

    def __call__(self, pair: Pair, prepared: Prepared, answer: Answer) -> NDArray[np.uint8]:
        """Return H×2W×3 uint8 (R, G, B), RGB left and thermal right, height and width even."""
        if self._last is None or self._last[0] is not answer:
            panel = self._panel = self._panel or panel_size(answer.size)
            size = _within(panel, answer.size)
            rgb = blank_panel(size, "no RGB") if pair.rgb is None else fill_panel(pair.rgb.image, size)
            if pair.thermal is None:
                thermal = blank_panel(size, "no thermal")
            else:
                spec = self._inputs.thermal
                thermal = fill_panel(false_colour(seen_by_thermal(self._inputs, prepared, answer), spec.invalid), size)
            for view in (rgb, thermal):
                draw_answer(view, answer, self._classes)
            self._last = answer, np.hstack([_amid(panel, view) for view in (rgb, thermal)])
        return self._last[1]


def seen_by_thermal(inputs: InputSpec, prepared: Prepared, answer: Answer) -> Image:
    """H×W thermal as the model took it, over exactly the field of view of the delivered RGB frame."""
    if not inputs.letterbox:
        return prepared.thermal
    height, width = fit(answer.size, inputs.rgb_size)[1]
    return prepared.thermal[:height, :width]


def false_colour(thermal: Image, invalid: float, span: tuple[float, float] | None = None) -> NDArray[np.uint8]:
    """H×W thermal of any unit as H×W×3 uint8 (R, G, B), black to yellow over ``span``, or over its valid range."""
    valid = thermal != invalid
    low, high = span or cv2.minMaxLoc(thermal, valid.view(np.uint8))[:2]
    gain = 255.0 / max(high - low, 1e-6)
    grey = np.clip((thermal - np.float32(low)) * np.float32(gain), 0, 255).astype(np.uint8)
    coloured: Any = cv2.cvtColor(cv2.applyColorMap(grey, cv2.COLORMAP_INFERNO), cv2.COLOR_BGR2RGB)
    coloured[~valid] = 0
    return np.asarray(coloured, np.uint8)


def draw_answer(view: NDArray[np.uint8], answer: Answer, classes: Sequence[str], *, tags: bool = True) -> None:
    """Draw an answer onto a view of the delivered RGB frame, of any size (H×W×3, R, G, B), in place.

    Without ``tags`` boxes are not named, as in small pictures beside a large one.
    """
    match answer:
        case BoxAnswer():
            down, across = view.shape[0] / answer.size[0], view.shape[1] / answer.size[1]
            draw_boxes(
                view, answer.boxes * np.array([across, down, across, down, 1, 1], np.float32), classes, tags=tags
            )
        case MapAnswer():
            draw_map(view, answer.class_map, classes)
        case LabelAnswer():
            draw_label(view, answer.probabilities, classes)


def draw_boxes(
    image: NDArray[np.uint8], boxes: NDArray[np.float32], classes: Sequence[str], *, tags: bool = True
) -> None:
    """Draw boxes [N,6] in pixels of ``image`` (H×W×3, R, G, B), with class and score unless not ``tags``, in place."""
    size = max(0.4, image.shape[0] / 1000)
    for x1, y1, x2, y2, score, label in boxes[np.argsort(boxes[:, 4], kind="stable")].tolist():  # the surest on top
        colour = _colour(int(label))
        left, top = round(x1), round(y1)
        corner = round(x2), round(y2)
        cv2.rectangle(image, (left, top), corner, _INK, 4)  # a dark rim: thermal has every colour that classes have
        cv2.rectangle(image, (left, top), corner, colour, 2)
        if not tags:
            continue
        text = f"{classes[int(label)]} {score:.2f}"
        (_, height), below = cv2.getTextSize(text, _FONT, size, 1)
        _tag(image, text, (left, top - 3 if top > height + below else top + height + 3), colour, size)


def draw_map(image: NDArray[np.uint8], class_map: NDArray[np.uint8], classes: Sequence[str]) -> None:
    """Tint the pixels of ``image`` (H×W×3, R, G, B) by a class map of any size, outline them, name them, in place.

    The background stays as it is; so do pixels of 255, which nobody judged.
    """
    height, width = image.shape[:2]
    shown: Any = cv2.resize(class_map, (width, height), interpolation=cv2.INTER_NEAREST)
    tints = np.zeros((256, 3), np.uint8)
    tints[1 : len(classes) + 1] = [_colour(index) for index in range(len(classes))]
    is_named = (shown > 0) & (shown <= len(classes))
    tint = tints[shown]
    mixed: Any = cv2.addWeighted(image, 1 - _OVERLAY, tint, _OVERLAY, 0)
    image[is_named] = mixed[is_named]
    edges = is_named & (shown != cv2.erode(shown, np.ones((3, 3), np.uint8)))
    image[edges] = tint[edges]
    size, base = max(0.4, height / 1000), 0
    for index in np.unique(shown[is_named]).tolist():
        (_, tall), below = cv2.getTextSize(classes[index - 1], _FONT, size, 1)
        base += tall + below + 4
        _tag(image, classes[index - 1], (3, base), _colour(index - 1), size)


def draw_label(image: NDArray[np.uint8], probabilities: NDArray[np.float32], classes: Sequence[str]) -> None:
    """Write the likeliest class and its probability into a corner of ``image`` (H×W×3, R, G, B), in place."""
    best = int(probabilities.argmax())
    size = max(0.5, image.shape[0] / 600)
    text = f"{classes[best]} {probabilities[best]:.2f}"
    (_, tall), below = cv2.getTextSize(text, _FONT, size, 1)
    _tag(image, text, (3, tall + below + 2), _colour(best), size)


def _colour(index: int) -> tuple[int, int, int]:
    return COLOURS[index % len(COLOURS)]


def _tag(image: NDArray[np.uint8], text: str, at: tuple[int, int], colour: tuple[int, int, int], size: float) -> None:
    """Dark text on a coloured ground; ``at``: left end and base line."""
    (width, height), below = cv2.getTextSize(text, _FONT, size, 1)
    left, base = max(0, min(at[0], image.shape[1] - width - 3)), at[1]  # whole, also at the right edge
    cv2.rectangle(image, (left, base - height - 2), (left + width + 2, base + below - 1), colour, cv2.FILLED)
    cv2.putText(image, text, (left + 1, base), _FONT, size, _INK, 1, cv2.LINE_AA)


def panel_size(size: tuple[int, int]) -> tuple[int, int]:
    """Height, width of the picture of a frame of that size: 360 to 540 high, both even."""
    scale = min(max(size[0], _SHORTEST), _TALLEST) / size[0]
    return max(2, round(size[0] * scale / 2) * 2), max(2, round(size[1] * scale / 2) * 2)


def _within(panel: tuple[int, int], size: tuple[int, int]) -> tuple[int, int]:
    """Height, width of a frame of that size (height, width) scaled onto a panel; no bars of a pixel or two."""
    content = fit(size, panel)[1]
    is_whole = panel[0] - content[0] <= 2 and panel[1] - content[1] <= 2
    return panel if is_whole else (max(1, content[0]), max(1, content[1]))


def _amid(panel: tuple[int, int], view: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """A view in the middle of a panel (height, width)."""
    if view.shape[:2] == panel:
        return view
    placed = np.zeros((*panel, 3), np.uint8)
    top, left = (panel[0] - view.shape[0]) // 2, (panel[1] - view.shape[1]) // 2
    placed[top : top + view.shape[0], left : left + view.shape[1]] = view
    return placed


def fill_panel(image: Image, panel: tuple[int, int]) -> NDArray[np.uint8]:
    """Scale H×W×3 uint8 onto a panel (height, width); always a copy, to be drawn on."""
    if image.shape[:2] == panel:
        return image.copy()
    how = cv2.INTER_AREA if image.shape[0] >= 2 * panel[0] else cv2.INTER_LINEAR
    return np.asarray(cv2.resize(image, (panel[1], panel[0]), interpolation=how), np.uint8)


def blank_panel(panel: tuple[int, int], text: str) -> NDArray[np.uint8]:
    """A dark panel (height, width) that says what is missing."""
    view = np.full((*panel, 3), 24, np.uint8)
    cv2.putText(view, text, (12, panel[0] // 2), _FONT, 0.7, (150, 150, 150), 1, cv2.LINE_AA)
    return view
