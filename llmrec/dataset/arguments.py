"""Command-line options that every data_prep script shares."""

import argparse
import json
import logging
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

from llmrec.dataset.config import PreparationConfig
from llmrec.dataset.folder import RecDataset, check_replaceable, find_prepared
from llmrec.dataset.preparation import prepare_dataset, protocol
from llmrec.dataset.raw_data import RawData
from llmrec.schema import DataError


def add_preparation_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the output folder and the fields of ``PreparationConfig`` to ``parser``."""
    default = PreparationConfig()
    parser.add_argument("--output_dir", required=True, help="folder to write")
    parser.add_argument("--overwrite", action="store_true", help="replace an existing output folder")
    parser.add_argument("--push_to_hub", metavar="REPO", help="send the folder to this dataset repository of the Hub")
    group = parser.add_argument_group("split", "what defines the split; all of it is recorded in dataset.json")
    group.add_argument("--k_core", type=int, default=default.k_core, help="fewest interactions of a user or item")
    group.add_argument("--min_rating", type=float, help="drop interactions rated lower; None keeps all")
    group.add_argument(
        "--duplicates", choices=("first", "last", "keep"), default=default.duplicates, help="repeats of (user, item)"
    )
    group.add_argument("--split", choices=("leave_last_out", "global_temporal"), default=default.split)
    group.add_argument(
        "--valid_fraction",
        type=float,
        default=default.valid_fraction,
        help="of interactions, global_temporal only",
    )
    group.add_argument(
        "--test_fraction", type=float, default=default.test_fraction, help="of interactions, global_temporal only"
    )
    group.add_argument("--max_history", type=int, default=default.max_history, help="latest items of a history kept")
    group.add_argument("--engine", choices=("duckdb", "pyspark"), default=default.engine, help="same rows on both")


def preparation_config(args: argparse.Namespace) -> PreparationConfig:
    """The ``PreparationConfig`` that parsed arguments describe."""
    return PreparationConfig(
        k_core=args.k_core,
        min_rating=args.min_rating,
        duplicates=args.duplicates,
        split=args.split,
        valid_fraction=args.valid_fraction,
        test_fraction=args.test_fraction,
        max_history=args.max_history,
        engine=args.engine,
    )


def reader_options(args: argparse.Namespace) -> dict[str, Any]:
    """What is a script's own among its parsed arguments, as JSON values."""
    shared = {field.name for field in fields(PreparationConfig)} | {"output_dir", "overwrite", "push_to_hub"}
    own = {name: value for name, value in sorted(vars(args).items()) if name not in shared}
    return json.loads(json.dumps(own, default=str))


def prepare_once(args: argparse.Namespace, read: Callable[[], RawData]) -> RecDataset:
    """Read and prepare what ``args`` describes, unless ``--output_dir`` holds just that; then print what it is.

    Args:
        args: parsed arguments, with those of ``add_preparation_arguments``.
        read: called only if there is something to do.

    Raises:
        SystemExit: on bad data, an option out of range or a missing engine; with the message, not a traceback.
    """
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    reader = reader_options(args)
    try:
        config = preparation_config(args)
    except ValueError as error:
        raise SystemExit(f"error: {error}") from None
    try:
        dataset = None if args.overwrite else find_prepared(args.output_dir, protocol(config), reader)
        if dataset is None:
            check_replaceable(args.output_dir)  # before reading, which may take long
            dataset = prepare_dataset(read(), args.output_dir, config, reader)
        else:
            print(f"{args.output_dir} is up to date: nothing to do (--overwrite prepares it anew).")
    except (DataError, ImportError, RuntimeError) as error:
        raise SystemExit(f"error: {error}") from None
    sizes = ", ".join(f"{dataset.info['counts'][name]:,} {name}" for name in ("users", "items", "interactions"))
    print(f"{dataset.name}: {sizes}; split {dataset.fingerprint} in {Path(args.output_dir)}")
    return dataset
