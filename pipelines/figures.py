"""The tasks' figures by name: what a table calls them, and which of them a class is judged by."""

METRICS: dict[str, str] = {
    "ap50": "AP50",
    "map": "mAP",
    "miou": "mIoU",
    "miou_foreground": "mIoU fg",
    "accuracy": "accuracy",
    "macro_f1": "macro F1",
}
"""Metric → its usual name; others are shown as they are recorded."""

BELOW: dict[str, str] = {
    "map": "IoU 0.5–0.95",
    "miou": "with background",
    "miou_foreground": "without background",
    "macro_f1": "mean over classes",
}
"""Metric → what it means, in a few words."""

BY_CLASS: dict[str, tuple[str, str]] = {"detect": ("ap50", "AP50"), "segment": ("iou", "IoU"), "classify": ("f1", "F1")}
"""Task → the figure of a class that stands for it, and its usual name."""

COUNTED: dict[str, tuple[str, str, str]] = {
    "detect": ("count", "box", "boxes"),
    "segment": ("pixels", "pixel", "pixels"),
    "classify": ("count", "picture", "pictures"),
}
"""Task → key of how much of a class there is in truth, and what is counted: one of it, and more."""

SIZES: dict[str, str] = {"small": "below 32² px", "medium": "up to 96² px", "large": "above 96² px"}
"""COCO's sizes of an object, by its area in pixels."""


def called(metric: str) -> str:
    """The usual name of a metric."""
    return METRICS.get(metric, metric)


def begins(text: str) -> str:
    """The text as a sentence begins, whatever it begins with."""
    return text[:1].upper() + text[1:]


def count_text(task: str, count: int) -> str:
    """How much of a class there is in truth, such as ``12 boxes``."""
    _, one, more = COUNTED[task]
    return f"{count:,} {one if count == 1 else more}"
