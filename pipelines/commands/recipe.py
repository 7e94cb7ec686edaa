"""``rgbt recipe``: what is shipped, and what a recipe will do."""

import argparse
import json

EXAMPLE = """examples:
  rgbt recipe list
  rgbt recipe show staged
  rgbt recipe show staged --names --set model.rgb.arch=resnet18
"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    actions = parser.add_subparsers(metavar="ACTION", required=True)
    listing = actions.add_parser("list", help="the shipped recipes")
    listing.add_argument("--json", action="store_true")
    listing.set_defaults(run=run_list)
    show = actions.add_parser("show", help="the expanded stages as a table: what trains, how fast, what is frozen")
    show.add_argument("recipe", help="name of a shipped recipe, or a YAML file")
    show.add_argument("--set", action="append", default=[], metavar="K=V", help="change a field of the recipe")
    show.add_argument("--names", action="store_true", help="the block names that patterns can match")
    show.add_argument("--yaml", action="store_true", help="the resolved recipe")
    show.set_defaults(run=run_show)


def run_list(args: argparse.Namespace) -> int:
    """Print name and sentence of each shipped recipe."""
    from pipelines.recipe_file import load_recipe, shipped

    rows = {name: load_recipe(name).about for name in shipped()}
    if args.json:
        print(json.dumps(rows, indent=1, ensure_ascii=False))
        return 0
    for name, about in rows.items():
        print(f"{name:20} {about}")
    return 0


def run_show(args: argparse.Namespace) -> int:
    """Print one recipe."""
    from pipelines.recipe_file import dump_recipe, load_recipe
    from pipelines.train import stage_table

    recipe = load_recipe(args.recipe, args.set)
    if args.yaml:
        print(dump_recipe(recipe), end="")
        return 0
    stages, counts = stage_table(recipe)
    if args.names:
        for name, count in counts.items():
            print(f"{name:24} {count:>10,} parameters")
        print(f"{'objective':24} {'':>10} the decoder of a pretraining stage")
        return 0
    print(f"{recipe.about}\n{stages}")
    return 0
