"""``rgbt data show``: draw pairs with their boxes into one picture."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from data.errors import DataError
from pipelines.data_commands.numbers import whole

if TYPE_CHECKING:
    from data.augment.spec import AugmentSpec

_SUFFIXES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp")


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument("card", type=Path, metavar="CARD")
    parser.add_argument("--out", type=Path, default=Path("grid.png"), help="a picture (default: grid.png)")
    parser.add_argument("--split", help="default: the card's first split")
    parser.add_argument("--n", type=whole, default=12, help="pairs to draw (default: 12)")
    parser.add_argument("--augment", action="store_true", help="as training changes them, sensors left out included")
    parser.add_argument("--recipe", metavar="NAME", help="whose augment is meant (default: staged); implies --augment")
    parser.add_argument(
        "--set", action="append", default=[], metavar="K=V", help="such as augment.night=1; implies --augment"
    )
    parser.add_argument("--seed", type=whole, default=0, help="of the augmentation")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Draw a grid of pairs."""
    from data.card import DatasetCard
    from data.images import encode_image
    from data.yaml_file import atomic
    from pipelines.card_grid import card_grid

    augment = _augment(args)
    if args.out.suffix.lower() not in _SUFFIXES:
        raise DataError(f"{args.out}: a picture's name ends in one of {', '.join(_SUFFIXES)}")
    card = DatasetCard.load(args.card)
    if not card.splits:
        raise DataError(f"{args.card}: no splits")
    split = args.split or next(iter(card.splits))
    grid = card_grid(card, split, max(1, args.n), augment, args.seed)
    with atomic(args.out) as file:
        file.write(encode_image(args.out.suffix, grid))
    print(f"wrote {args.out}: split '{split}'{'' if augment is None else ', augmented'}")
    return 0


def _augment(args: argparse.Namespace) -> "AugmentSpec | None":
    from data.augment.spec import AugmentSpec

    if not (args.recipe or args.set):
        return AugmentSpec() if args.augment else None
    from pipelines.recipe_file import load_recipe

    return load_recipe(args.recipe or "staged", args.set).augment
