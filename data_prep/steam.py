"""Prepare Steam: the public review and game files as distributed (steam_reviews.json.gz, steam_games.json.gz).

Reviews are dated by day and carry no rating. Some reviewed games have no line in the game file: --drop_untitled leaves
them and their reviews out. A second run with the same options does nothing. SETRec's split:

  python data_prep/steam.py --reviews steam_reviews.json.gz --games steam_games.json.gz --drop_untitled \\
      --split global_temporal --test_fraction 0.17 --k_core 1 --output_dir data/steam
"""

import argparse
import sys

from llmrec.dataset import add_preparation_arguments, prepare_once, read_steam


class _Formatter(argparse.ArgumentDefaultsHelpFormatter, argparse.RawDescriptionHelpFormatter):
    """The docstring as it stands, and each option's default."""


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=_Formatter)
    parser.add_argument("--reviews", required=True, help="steam_reviews.json.gz, gzip or not")
    parser.add_argument("--games", required=True, help="steam_games.json.gz, gzip or not")
    parser.add_argument("--drop_untitled", action="store_true", help="leave out games without a name or a line")
    add_preparation_arguments(parser)
    return parser


def main(arguments: list[str] | None = None) -> None:
    args = build_parser().parse_args(arguments)
    dataset = prepare_once(args, lambda: read_steam(args.reviews, args.games, args.drop_untitled))
    if args.push_to_hub:
        from llmrec.hub import push_to_hub  # noqa: PLC0415 - loads transformers, which nothing else here needs

        print(push_to_hub(dataset.folder, args.push_to_hub, repo_type="dataset"))


if __name__ == "__main__":
    try:
        main()
    except (ValueError, FileNotFoundError, ImportError, RuntimeError) as error:
        sys.exit(f"error: {error}")
