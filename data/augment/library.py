"""Transforms of albumentations for RGB's pixels; the only file that knows it."""

import os
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from data.errors import DataError

Rgb = NDArray[np.uint8]


class Library:
    """A chain of a recipe's ``augment.albumentations``; each has a seed of its own in every call."""

    def __init__(self, entries: Sequence[Mapping[str, Any]]) -> None:
        """Build the transforms that ``entries`` name.

        Raises:
            DataError: there is no such transform, it moves pixels, or it does not take these arguments.
        """
        os.environ["NO_ALBUMENTATIONS_UPDATE"] = "1"  # it would ask a server for its newest version
        import albumentations  # takes seconds, and brings scipy: only who names one of its transforms pays

        self._transforms = [_build(albumentations, number, dict(entry)) for number, entry in enumerate(entries)]

    def __call__(self, rgb: Rgb, seed: int) -> Rgb:
        """Change H×W×3 uint8; the input stays as it is."""
        own = np.random.SeedSequence(seed).generate_state(len(self._transforms)).tolist()
        for transform, its in zip(self._transforms, own, strict=True):
            transform.set_random_seed(its)
            rgb = np.asarray(transform(image=rgb)["image"], np.uint8)
        return rgb


def _build(albumentations: Any, number: int, entry: dict[str, Any]) -> Any:  # noqa: ANN401 - without types of its own
    name = entry.pop("name")
    place = f"augment.albumentations.{number}"
    kind = getattr(albumentations, name, None) if name.isidentifier() else None
    if not (isinstance(kind, type) and issubclass(kind, albumentations.ImageOnlyTransform)):
        raise DataError(
            f"{place}: albumentations has no transform '{name}' of a picture's pixels alone, such as CLAHE; "
            "what moves pixels is a field of augment itself"
        )
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # an argument that it does not know is a warning to it
            return kind(**entry)
    except (TypeError, ValueError, UserWarning) as error:
        raise DataError(f"{place}: {name}: {' '.join(str(error).split())}") from None
