"""Prepare your own interactions (CSV, JSON lines or parquet), or a folder of RecBole's atomic files.

Interactions need user_id, item_id and timestamp (rating and review are optional); items need item_id and title
(description, brand and categories are optional). --columns maps names of your own. A second run with the same options
does nothing.

  python data_prep/interactions.py --interactions views.csv --items products.csv --output_dir data/mine \\
      --columns user_id=customer item_id=sku timestamp=viewed_at title=name
  python data_prep/interactions.py --recbole data/raw/ml-100k --output_dir data/ml-100k-recbole
"""

import argparse
import sys

from llmrec.dataset import RawData, add_preparation_arguments, prepare_once, read_interactions, read_recbole
from llmrec.dataset.readers.timestamps import TIMESTAMP_UNITS


class _Formatter(argparse.ArgumentDefaultsHelpFormatter, argparse.RawDescriptionHelpFormatter):
    """The docstring as it stands, and each option's default."""


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=_Formatter)
    parser.add_argument("--interactions", help=".csv, .tsv, .jsonl or .parquet with user_id, item_id, timestamp")
    parser.add_argument("--items", help="the same kinds of file, with item_id and title")
    parser.add_argument("--columns", nargs="+", default=[], metavar="OURS=YOURS", help="where your column names differ")
    parser.add_argument("--recbole", metavar="FOLDER", help="RecBole files instead: <name>.inter and <name>.item")
    parser.add_argument(
        "--timestamp_unit",
        choices=TIMESTAMP_UNITS,
        default="auto",
        help="of numbers; auto takes the one unit that puts all of them between 1973 and 2286, position is an order",
    )
    parser.add_argument("--name", help="of the dataset; None: the interaction file's")
    parser.add_argument("--drop_untitled", action="store_true", help="leave out items without a title or a row")
    add_preparation_arguments(parser)
    return parser


def main(arguments: list[str] | None = None) -> None:
    parser = build_parser()
    args = parser.parse_args(arguments)
    own_tables = args.interactions is not None and args.items is not None
    if own_tables == (args.recbole is not None):
        parser.error("give --interactions and --items, or --recbole")
    if unmapped := [pair for pair in args.columns if "=" not in pair]:
        parser.error(f"--columns takes OURS=YOURS, such as item_id=sku; {unmapped[0]!r} has no '='")
    dataset = prepare_once(args, lambda: _read(args))
    if args.push_to_hub:
        from llmrec.hub import push_to_hub  # noqa: PLC0415 - loads transformers, which nothing else here needs

        print(push_to_hub(dataset.folder, args.push_to_hub, repo_type="dataset"))


def _read(args: argparse.Namespace) -> RawData:
    if args.recbole is not None:
        return read_recbole(args.recbole, args.name, args.drop_untitled, args.timestamp_unit)
    columns = dict(pair.split("=", 1) for pair in args.columns)
    return read_interactions(args.interactions, args.items, columns, args.name, args.drop_untitled, args.timestamp_unit)


if __name__ == "__main__":
    try:
        main()
    except (ValueError, FileNotFoundError, ImportError, RuntimeError) as error:
        sys.exit(f"error: {error}")
