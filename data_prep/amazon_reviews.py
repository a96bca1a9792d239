"""Prepare Amazon reviews: the raw 2014, 2018 or 2023 files as distributed, or a 2023 category by its name on the Hub.

Files may be gzip or not; review texts are kept. Many products have no title: --drop_untitled leaves them and their
reviews out. A second run with the same options does nothing.

  python data_prep/amazon_reviews.py --output_dir data/gift-cards \\
      --reviews ../shared/data/amazon2018_giftcards_raw/Gift_Cards_5.json.gz \\
      --metadata ../shared/data/amazon2018_giftcards_raw/meta_Gift_Cards.json.gz
  python data_prep/amazon_reviews.py --release 2023 --category All_Beauty --drop_untitled --output_dir data/beauty-2023
"""

import argparse
import sys

from llmrec.dataset import RawData, add_preparation_arguments, prepare_once, read_amazon_reviews
from llmrec.dataset.readers.amazon_reviews import fetch_amazon_reviews


class _Formatter(argparse.ArgumentDefaultsHelpFormatter, argparse.RawDescriptionHelpFormatter):
    """The docstring as it stands, and each option's default."""


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=_Formatter)
    parser.add_argument("--reviews", help="review file, such as reviews_Beauty_5.json.gz")
    parser.add_argument("--metadata", help="product file, such as meta_Beauty.json.gz")
    parser.add_argument("--release", choices=("2014", "2018", "2023"), default="2018", help="of the files")
    parser.add_argument("--category", help="of the 2023 release, fetched from the Hub instead of files")
    parser.add_argument("--drop_untitled", action="store_true", help="leave out products without a title or a line")
    add_preparation_arguments(parser)
    return parser


def main(arguments: list[str] | None = None) -> None:
    parser = build_parser()
    args = parser.parse_args(arguments)
    files = args.reviews is not None and args.metadata is not None
    if files == (args.category is not None):
        parser.error("give --reviews and --metadata, or --release 2023 --category")
    if args.category is not None and args.release != "2023":
        parser.error(f"--category fetches the 2023 release; add --release 2023 (given: {args.release})")
    dataset = prepare_once(args, lambda: _read(args))
    if args.push_to_hub:
        from llmrec.hub import push_to_hub  # noqa: PLC0415 - loads transformers, which nothing else here needs

        print(push_to_hub(dataset.folder, args.push_to_hub, repo_type="dataset"))


def _read(args: argparse.Namespace) -> RawData:
    reviews, metadata = (args.reviews, args.metadata) if args.category is None else fetch_amazon_reviews(args.category)
    return read_amazon_reviews(reviews, metadata, args.release, args.drop_untitled)


if __name__ == "__main__":
    try:
        main()
    except (ValueError, FileNotFoundError, ImportError, RuntimeError) as error:
        sys.exit(f"error: {error}")
