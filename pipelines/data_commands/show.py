"""``rgbt data show``: draw pairs with their boxes into one picture."""

import argparse
from pathlib import Path

from data.errors import DataError
from pipelines.data_commands.numbers import seed


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument("card", type=Path, metavar="CARD")
    parser.add_argument("--out", type=Path, default=Path("grid.png"), help="PNG or JPEG (default: grid.png)")
    parser.add_argument("--split", help="default: the card's first split")
    parser.add_argument("--n", type=int, default=12, help="pairs to draw (default: 12)")
    parser.add_argument("--augment", action="store_true", help="as training changes them")
    parser.add_argument("--seed", type=seed, default=0, help="of the augmentation")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Draw a grid of pairs."""
    from data.card import DatasetCard
    from data.images import SUFFIXES, encode_image
    from data.yaml_file import atomic
    from pipelines.card_grid import card_grid

    if args.out.suffix.lower() not in SUFFIXES:
        raise DataError(f"{args.out}: a picture's name ends in one of {', '.join(SUFFIXES)}")
    card = DatasetCard.load(args.card)
    if not card.splits:
        raise DataError(f"{args.card}: no splits")
    split = args.split or next(iter(card.splits))
    grid = card_grid(card, split, max(1, args.n), args.augment, args.seed)
    with atomic(args.out) as file:
        file.write(encode_image(args.out.suffix, grid))
    print(f"wrote {args.out}: split '{split}'{', augmented' if args.augment else ''}")
    return 0
