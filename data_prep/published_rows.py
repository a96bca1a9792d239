"""Prepare published validation and test rows as they are, to compare with the numbers measured on them.

--folder holds items.jsonl and sequences.jsonl (a log with timestamps), as for data_prep/sequences.py, and valid.jsonl
and test.jsonl: lines with user, history (item ids, oldest first) and target. Trained on is what the log holds before
--train_before, which should be where validation starts. A second run with the same options does nothing.

  python data_prep/published_rows.py --folder ../shared/data/amazon2018_industrial --train_before 1495152000 \\
      --output_dir data/industrial
"""

import argparse
import logging
import sys
from pathlib import Path

from llmrec.dataset import prepare_published_rows, read_sequences
from llmrec.dataset.folder import PUBLISHED_ROWS, check_replaceable, find_prepared


class _Formatter(argparse.ArgumentDefaultsHelpFormatter, argparse.RawDescriptionHelpFormatter):
    """The docstring as it stands, and each option's default."""


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=_Formatter)
    parser.add_argument("--folder", required=True, help="that holds the four files")
    parser.add_argument("--name", help="of the dataset; None: the folder's")
    parser.add_argument("--train_before", type=int, required=True, help="Unix second at which training ends")
    parser.add_argument("--output_dir", required=True, help="folder to write")
    parser.add_argument("--overwrite", action="store_true", help="replace an existing output folder")
    parser.add_argument("--push_to_hub", metavar="REPO", help="send the folder to this dataset repository of the Hub")
    return parser


def main(arguments: list[str] | None = None) -> None:
    args = build_parser().parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    reader = {"folder": args.folder, "name": args.name}
    split = {"split": PUBLISHED_ROWS, "train_before": args.train_before}
    dataset = None if args.overwrite else find_prepared(args.output_dir, split, reader)
    if dataset is None:
        check_replaceable(args.output_dir)
        rows: dict[str, str | Path] = {name: Path(args.folder) / f"{name}.jsonl" for name in ("valid", "test")}
        raw = read_sequences(args.folder, args.name)
        dataset = prepare_published_rows(raw, rows, args.output_dir, args.train_before, reader)
    counts = ", ".join(f"{dataset.info['counts'][name]:,} {name}" for name in ("items", "interactions", "test_users"))
    print(f"{dataset.name}: {counts}; split {dataset.fingerprint} in {args.output_dir}")
    if args.push_to_hub:
        from llmrec.hub import push_to_hub  # noqa: PLC0415 - loads transformers, which nothing else here needs

        print(push_to_hub(dataset.folder, args.push_to_hub, repo_type="dataset"))


if __name__ == "__main__":
    try:
        main()
    except (ValueError, FileNotFoundError, ImportError, RuntimeError) as error:
        sys.exit(f"error: {error}")
