"""Versions of what a run's outcome depends on."""

from importlib.metadata import version

PACKAGES = (
    "rgbt-fusion",
    "torch",
    "torchvision",
    "timm",
    "lightning",
    "torchmetrics",
    "faster-coco-eval",
    "albumentations",
    "opencv-python",
    "numpy",
)


def versions() -> dict[str, str]:
    """Package → version of all that training and measuring compute with.

    Our own among them changes with a release, not with a commit: who changes the code of training between two commits
    gets the outcomes of the code before from what is kept by version, and has to remove it by hand.
    """
    return {package: version(package) for package in PACKAGES}
