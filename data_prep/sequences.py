"""Prepare histories in JSON lines: a folder with sequences.jsonl (one user a line) and items.jsonl (one item a line).

A line of sequences.jsonl has user and items (oldest first), perhaps timestamps and ratings; without timestamps the
order of the items is kept as it is. A line of items.jsonl has item_id and title, perhaps description, brand and
categories. A second run with the same options does nothing.

  python data_prep/sequences.py --folder ../shared/data/amazon2014_beauty --output_dir data/beauty \\
      --title_columns title idgenrec_text
"""

import argparse
import sys

from llmrec.dataset import add_preparation_arguments, prepare_once, read_sequences


class _Formatter(argparse.ArgumentDefaultsHelpFormatter, argparse.RawDescriptionHelpFormatter):
    """The docstring as it stands, and each option's default."""


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=_Formatter)
    parser.add_argument("--folder", required=True, help="that holds sequences.jsonl and items.jsonl")
    parser.add_argument("--name", help="of the dataset; None: the folder's")
    parser.add_argument(
        "--title_columns", nargs="+", default=["title"], help="an item's title is the first of these that is not empty"
    )
    parser.add_argument("--drop_untitled", action="store_true", help="leave out items without a title or a line")
    add_preparation_arguments(parser)
    return parser


def main(arguments: list[str] | None = None) -> None:
    args = build_parser().parse_args(arguments)
    dataset = prepare_once(args, lambda: read_sequences(args.folder, args.name, args.title_columns, args.drop_untitled))
    if args.push_to_hub:
        from llmrec.hub import push_to_hub  # noqa: PLC0415 - loads transformers, which nothing else here needs

        print(push_to_hub(dataset.folder, args.push_to_hub, repo_type="dataset"))


if __name__ == "__main__":
    try:
        main()
    except (ValueError, FileNotFoundError, ImportError, RuntimeError) as error:
        sys.exit(f"error: {error}")
