"""Prepare your own interactions (CSV, JSON lines or parquet), or a folder of RecBole's atomic files.

  python data_prep/interactions.py --interactions views.csv --items products.csv --output_dir data/mine \\
      --columns user_id=customer item_id=sku timestamp=viewed_at title=name
  python data_prep/interactions.py --recbole ml-100k --output_dir data/ml-100k-recbole
"""

import argparse

from llmrec.dataset import add_preparation_arguments, prepare_once, read_interactions, read_recbole
from llmrec.dataset.raw_data import RawData
from llmrec.hub import push_to_hub


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--interactions", help=".csv, .tsv, .jsonl or .parquet with user_id, item_id, timestamp")
    parser.add_argument("--items", help="the same kinds of file, with item_id and title")
    parser.add_argument("--columns", nargs="*", default=[], metavar="OURS=YOURS", help="where your column names differ")
    parser.add_argument("--recbole", metavar="FOLDER", help="RecBole files instead: <name>.inter and <name>.item")
    parser.add_argument("--name", help="of the dataset (default: the file's)")
    parser.add_argument("--drop_untitled", action="store_true", help="drop items without a title")
    add_preparation_arguments(parser)
    args = parser.parse_args()
    if (args.recbole is None) == (args.interactions is None or args.items is None):
        parser.error("give --interactions and --items, or --recbole")
    dataset = prepare_once(args, lambda: _read(args))
    if args.push_to_hub:
        push_to_hub(dataset.folder, args.push_to_hub, repo_type="dataset")


def _read(args: argparse.Namespace) -> RawData:
    if args.recbole is not None:
        return read_recbole(args.recbole, args.name, args.drop_untitled)
    columns = dict(pair.split("=", 1) for pair in args.columns)
    return read_interactions(args.interactions, args.items, columns, args.name, args.drop_untitled)


if __name__ == "__main__":
    main()
