"""Make a folder of search queries with their items: items.parquet, queries.parquet, queries.json and a card.

Queries are made from a catalogue (a prepared dataset's items), read from your own query-item pairs, or both: the test
split from a search set with graded queries, the others made from its products' texts. Made ones come in six kinds:
title and attributes use the items' own words; question, alternative, negation and knowledge share no word with any of
their items. docs/data.md tells how. A second run with the same inputs and options does nothing.

Without --writer_base_url queries are worded from frames and paraphrases. With it, a language model behind any
OpenAI-compatible endpoint words the difficult ones: one request per query, the key from OPENAI_API_KEY, answers kept in
writer_answers.jsonl so that a killed run goes on where it was.

  python data_prep/queries.py --dataset_dir data/ml-100k --show 2
  python data_prep/queries.py --items catalogue.csv --pairs searches.csv --output_dir data/mine_queries
  python data_prep/queries.py --search ../shared/data/search_electronics --output_dir data/electronics_queries
  python data_prep/queries.py --dataset_dir data/beauty --writer_base_url http://localhost:8000/v1 \\
      --writer_model Qwen/Qwen3-8B --writer_requests_per_minute 600
"""

import argparse
import logging
import sys
from pathlib import Path

from llmrec.dataset import QueryDataset, RecDataset
from llmrec.dataset.queries import QUERY_SPLITS
from llmrec.dataset.readers.queries import read_query_pairs, read_search_folder
from llmrec.prompts.made_queries import QueryConfig
from llmrec.prompts.openai_query_writer import OpenAIQueryWriter
from llmrec.prompts.openai_writer import OpenAIWriter, WriterError
from llmrec.prompts.paraphrases import read_paraphrases
from llmrec.prompts.query_items import QueryItems
from llmrec.prompts.query_needs import KINDS
from llmrec.prompts.query_writer import QueryWriter
from llmrec.recipe.queries import CACHE_FILE, MakeWriter, MiningConfig, build_queries, queries_of_dataset
from llmrec.schema import DataError


class _Formatter(argparse.ArgumentDefaultsHelpFormatter, argparse.RawDescriptionHelpFormatter):
    """The docstring as it stands, and each option's default."""


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=_Formatter)
    parser.add_argument("--output_dir", type=Path, help="None: the dataset folder's name with _queries")
    group = parser.add_argument_group("sources, one of them")
    group.add_argument("--dataset_dir", type=Path, help="folder written by another data_prep script: its catalogue")
    group.add_argument("--items", type=Path, help="your catalogue (.csv, .jsonl, .parquet): item_id, title ...")
    group.add_argument("--pairs", type=Path, help="with --items, your queries: query, item_id, perhaps grade and kind")
    group.add_argument(
        "--search", type=Path, help="folder with items.jsonl and graded queries.jsonl, which are the test"
    )
    group = parser.add_argument_group("queries to make; of your own pairs, the four numbers are the splits' shares")
    default = QueryConfig()
    group.add_argument("--kinds", nargs="+", default=list(KINDS), choices=KINDS, metavar="KIND", help="kinds to make")
    for split in QUERY_SPLITS:
        group.add_argument(f"--{split}", type=int, default=default.sizes[split], help=f"{split} queries at most")
    group.add_argument("--max_targets", type=int, default=default.max_targets, help="items that a query has at most")
    group.add_argument("--phrasings", type=int, default=default.phrasings, help="queries for the same need at most")
    group.add_argument("--paraphrases", type=Path, help="JSON book of other words for categories; None: MovieLens'")
    group.add_argument("--prohibited", nargs="*", default=[], metavar="WORD", help="words that no keyword may hold")
    group.add_argument("--seed", type=int, default=default.seed, help="of what is made and of the splits")
    group.add_argument("--show", type=int, default=0, metavar="N", help="print so many test queries of each kind")
    _add_mining(parser)
    group = parser.add_argument_group("writer of the difficult queries")
    group.add_argument("--writer_base_url", help="OpenAI-compatible endpoint, up to and including /v1")
    group.add_argument("--writer_model", help="name of the model at that endpoint")
    group.add_argument("--writer_requests_per_minute", type=float, help="at most so many; None: no limit")
    group.add_argument("--writer_concurrency", type=int, default=4, help="requests under way at a time")
    return parser


def _add_mining(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("mining, as in LREM's paper, of the items of training queries")
    group.add_argument(
        "--mining",
        default="none",
        choices=("none", "bm25"),
        help="bm25: keep the items that only query and keywords together find; none, since a made query's items are "
        "known exactly, and mining would drop some of them",
    )
    group.add_argument(
        "--relevance",
        default="targets",
        choices=("targets", "embedding"),
        help="who judges what was mined: what a query was made for, or the cosine of a text encoder",
    )
    default = MiningConfig()
    group.add_argument("--relevance_threshold", type=float, default=default.threshold, help="least cosine")
    group.add_argument("--text_encoder", default=default.text_encoder, help="sentence-transformers folder or Hub name")
    group.add_argument("--mining_k", type=int, default=default.k, help="items of a search")


def make_writer(options: argparse.Namespace, output_dir: Path) -> MakeWriter | None:
    if not options.writer_base_url and not options.writer_model:
        return None
    if not options.writer_base_url or not options.writer_model:
        raise ValueError("--writer_base_url and --writer_model go together: give both, or neither.")
    model = OpenAIWriter(
        options.writer_base_url,
        options.writer_model,
        output_dir / CACHE_FILE,
        requests_per_minute=options.writer_requests_per_minute,
        concurrency=options.writer_concurrency,
    )

    def made(items: QueryItems, easy: QueryWriter) -> QueryWriter:
        return OpenAIQueryWriter(items, model, easy)

    return made


def make(options: argparse.Namespace) -> QueryDataset:
    """The folder of queries that the options ask for."""
    sources = [name for name in ("dataset_dir", "items", "search") if getattr(options, name)]
    if len(sources) != 1 or bool(options.items) != bool(options.pairs):
        raise ValueError("Give one source: --dataset_dir, --items with --pairs, or --search.")
    if options.output_dir is None and options.dataset_dir is None:
        raise ValueError("Give --output_dir: only the queries of a dataset folder have a place of their own.")
    output_dir = options.output_dir or options.dataset_dir.with_name(f"{options.dataset_dir.name}_queries")
    sizes = {split: getattr(options, split) for split in QUERY_SPLITS}
    config = QueryConfig(
        tuple(options.kinds),
        **sizes,
        max_targets=options.max_targets,
        phrasings=options.phrasings,
        seed=options.seed,
    )
    mining = MiningConfig(
        options.mining, options.relevance, options.relevance_threshold, options.text_encoder, options.mining_k
    )
    book = read_paraphrases(options.paraphrases) if options.paraphrases else None
    writer, prohibited = make_writer(options, output_dir), options.prohibited
    if options.dataset_dir:
        dataset = RecDataset.load(options.dataset_dir)
        return queries_of_dataset(dataset, output_dir, config, mining, book, writer, prohibited)
    if options.items:
        found = read_query_pairs(options.items, options.pairs, config.sizes, config.seed)
        name, source = options.pairs.stem, f"{options.pairs.name} and {options.items.name}"
    else:
        found = read_search_folder(options.search)
        name, source = options.search.resolve().name, f"items.jsonl and queries.jsonl of {options.search.name}"
    return build_queries(output_dir, name, source, found, config, mining, book, writer, prohibited)


def show(dataset: QueryDataset, count: int) -> None:
    """Print the first test queries of each kind with their keywords and a few of their items."""
    titles = dict(zip(dataset.items["item_id"].to_pylist(), dataset.items["title"].to_pylist(), strict=True))
    shown: dict[str, int] = {}
    for row in dataset.queries("test").to_pylist():
        shown[row["kind"]] = shown.get(row["kind"], 0) + 1
        if shown[row["kind"]] <= count:
            relevant = [titles[item] for item, grade in zip(row["item_ids"], row["grades"], strict=True) if grade]
            more = f" and {len(relevant) - 3} more" if len(relevant) > 3 else ""
            print(f"\n{row['kind']}: {row['query']}\n  keywords: {', '.join(row['keywords']) or '-'}")
            print(f"  items: {'; '.join(relevant[:3])}{more}")


def main(arguments: list[str] | None = None) -> None:
    options = build_parser().parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    logging.getLogger("httpx2").setLevel(logging.WARNING)  # a line per request otherwise
    dataset = make(options)
    for split, counts in dataset.counts.items():
        kinds = ", ".join(f"{count:,} {kind}" for kind, count in counts.items() if kind != "all")
        print(f"{split}: {counts['all']:,} queries" + (f" ({kinds})" if kinds else ""))
    print(f"{dataset.name}: {dataset.items.num_rows:,} items; queries {dataset.fingerprint} in {dataset.folder}")
    show(dataset, options.show)


if __name__ == "__main__":
    try:
        main()
    except (DataError, ValueError, FileNotFoundError, ImportError, WriterError) as error:
        sys.exit(f"error: {error}")
