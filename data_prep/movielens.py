"""Prepare MovieLens-100K: a local copy, GroupLens' archive, or the RecBole wheel, tried in that order.

python data_prep/movielens.py --output_dir data/ml-100k
python data_prep/movielens.py --output_dir data/ml-100k-temporal --split global_temporal
"""

import argparse

from llmrec.dataset import add_preparation_arguments, prepare_once, read_movielens
from llmrec.hub import push_to_hub


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--path", help="folder with u.data and u.item, or with ml-100k.inter and ml-100k.item")
    parser.add_argument("--cache_dir", default="data/raw", help="where downloads are kept (default: %(default)s)")
    add_preparation_arguments(parser)
    args = parser.parse_args()
    dataset = prepare_once(args, lambda: read_movielens(args.path, args.cache_dir))
    if args.push_to_hub:
        push_to_hub(dataset.folder, args.push_to_hub, repo_type="dataset")


if __name__ == "__main__":
    main()
