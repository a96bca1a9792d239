"""Prepare histories in JSON lines: a folder with sequences.jsonl (one user a line) and items.jsonl (one item a line).

  python data_prep/sequences.py --folder ../shared/data/amazon2014_beauty --title_columns title idgenrec_text \\
      --output_dir data/beauty
"""

import argparse

from llmrec.dataset import add_preparation_arguments, prepare_once, read_sequences
from llmrec.hub import push_to_hub


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", required=True, help="that holds sequences.jsonl and items.jsonl")
    parser.add_argument("--name", help="of the dataset (default: the folder's)")
    parser.add_argument(
        "--title_columns", nargs="+", default=["title"], help="an item's title is the first of these that is not empty"
    )
    parser.add_argument("--drop_untitled", action="store_true", help="drop items without a title")
    add_preparation_arguments(parser)
    args = parser.parse_args()
    dataset = prepare_once(
        args, lambda: read_sequences(args.folder, args.name, tuple(args.title_columns), args.drop_untitled)
    )
    if args.push_to_hub:
        push_to_hub(dataset.folder, args.push_to_hub, repo_type="dataset")


if __name__ == "__main__":
    main()
