"""Prepare Amazon reviews: the raw 2014, 2018 or 2023 files as distributed, or a 2023 category by its name on the Hub.

python data_prep/amazon_reviews.py --reviews Gift_Cards_5.json.gz --metadata meta_Gift_Cards.json.gz \\
      --output_dir data/gift-cards
python data_prep/amazon_reviews.py --release 2023 --category All_Beauty --drop_untitled --output_dir data/beauty-2023
"""

import argparse

from llmrec.dataset import add_preparation_arguments, prepare_once, read_amazon_reviews
from llmrec.dataset.raw_data import RawData
from llmrec.dataset.readers.amazon_reviews import fetch_amazon_reviews
from llmrec.hub import push_to_hub


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--reviews", help="review file, gzip or not")
    parser.add_argument("--metadata", help="product file, gzip or not")
    parser.add_argument("--release", choices=("2014", "2018", "2023"), default="2018", help="of the files")
    parser.add_argument("--category", help="of the 2023 release, fetched from the Hub instead")
    parser.add_argument("--drop_untitled", action="store_true", help="drop products without a title, and their reviews")
    add_preparation_arguments(parser)
    args = parser.parse_args()
    if (args.category is None) == (args.reviews is None or args.metadata is None):
        parser.error("give --reviews and --metadata, or --category (2023 release)")
    dataset = prepare_once(args, lambda: _read(args))
    if args.push_to_hub:
        push_to_hub(dataset.folder, args.push_to_hub, repo_type="dataset")


def _read(args: argparse.Namespace) -> RawData:
    if args.category is not None:
        reviews, metadata = fetch_amazon_reviews(args.category)
        return read_amazon_reviews(reviews, metadata, "2023", args.drop_untitled)
    return read_amazon_reviews(args.reviews, args.metadata, args.release, args.drop_untitled)


if __name__ == "__main__":
    main()
