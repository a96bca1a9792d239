"""Prepare MovieLens-100K: a local copy, GroupLens' archive, or the copy in the RecBole wheel, tried in that order.

What was downloaded is kept in --cache_dir and is the local copy of the next run. A second run with the same options
does nothing.

  python data_prep/movielens.py --output_dir data/ml-100k
  python data_prep/movielens.py --output_dir data/ml-100k-temporal --split global_temporal
"""

import argparse
import sys

from llmrec.dataset import add_preparation_arguments, prepare_once, read_movielens


class _Formatter(argparse.ArgumentDefaultsHelpFormatter, argparse.RawDescriptionHelpFormatter):
    """The docstring as it stands, and each option's default."""


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=_Formatter)
    parser.add_argument(
        "--path", help="folder with u.data and u.item, or ml-100k.inter and ml-100k.item; None: look in --cache_dir"
    )
    parser.add_argument("--cache_dir", default="data/raw", help="where downloads are kept")
    add_preparation_arguments(parser)
    return parser


def main(arguments: list[str] | None = None) -> None:
    args = build_parser().parse_args(arguments)
    dataset = prepare_once(args, lambda: read_movielens(args.path, args.cache_dir))
    if args.push_to_hub:
        from llmrec.hub import push_to_hub  # noqa: PLC0415 - loads transformers, which nothing else here needs

        print(push_to_hub(dataset.folder, args.push_to_hub, repo_type="dataset"))


if __name__ == "__main__":
    try:
        main()
    except (ValueError, FileNotFoundError, ImportError, RuntimeError) as error:
        sys.exit(f"error: {error}")
