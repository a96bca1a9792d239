"""Make the instruction tables of LC-Rec's alignment tasks from a dataset folder.

Writes one parquet file per task; templates are drawn when training reads the rows. A second run with the same dataset
and options does nothing. Only training interactions are used or shown to a writer.

The tasks itemsearch and preferenceobtain need texts about what users look for and like. Without --writer_base_url they
are built from titles, categories and reviews. With it, a language model behind any OpenAI-compatible endpoint writes
them: two requests per user, the key from OPENAI_API_KEY, answers kept in writer_answers.jsonl so that a killed run goes
on where it was. A run that names no writer keeps texts that are there already, whoever wrote them.

  python data_prep/instructions.py --dataset_dir data/ml-100k --show 2
  python data_prep/instructions.py --dataset_dir data/ml-100k --tasks seqrec fusionseqrec --fusion_samples 20000
  python data_prep/instructions.py --dataset_dir data/beauty --writer_base_url http://localhost:8000/v1 \\
      --writer_model Qwen/Qwen3-8B --writer_requests_per_minute 600
"""

import argparse
import logging
import sys
from pathlib import Path

import pyarrow as pa

from llmrec.dataset import RecDataset
from llmrec.prompts.instructions import build_instructions
from llmrec.prompts.lcrec import TASKS, Example, draw_template, render
from llmrec.prompts.openai_writer import OpenAIWriter, WriterError
from llmrec.prompts.segments import readable
from llmrec.prompts.writer import Writer
from llmrec.schema import DataError

CACHE_FILE = "writer_answers.jsonl"


class _Formatter(argparse.ArgumentDefaultsHelpFormatter, argparse.RawDescriptionHelpFormatter):
    """The docstring as it stands, and each option's default."""


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=_Formatter)
    parser.add_argument("--dataset_dir", type=Path, required=True, help="folder written by another data_prep script")
    parser.add_argument("--output_dir", type=Path, help="None: instructions inside the dataset folder")
    parser.add_argument("--tasks", nargs="+", default=list(TASKS), choices=TASKS, metavar="TASK", help="tasks to make")
    parser.add_argument("--max_history", type=int, help="latest items of a history; None: as the dataset's evaluation")
    parser.add_argument("--fusion_samples", type=int, help="rows of fusionseqrec to keep, drawn at random; None: all")
    parser.add_argument("--refit", action="store_true", help="sequence tasks also cover the validation items")
    parser.add_argument("--seed", type=int, default=42, help="of the rows kept, and of the wording that --show draws")
    parser.add_argument("--show", type=int, default=0, metavar="N", help="print so many rendered examples of each task")
    group = parser.add_argument_group("writer of intentions and preferences")
    group.add_argument("--writer_base_url", help="OpenAI-compatible endpoint, up to and including /v1")
    group.add_argument("--writer_model", help="name of the model at that endpoint")
    group.add_argument("--writer_requests_per_minute", type=float, help="at most so many; None: no limit")
    group.add_argument("--writer_concurrency", type=int, default=4, help="requests under way at a time")
    return parser


def make_writer(options: argparse.Namespace, output_dir: Path) -> Writer | None:
    if not options.writer_base_url and not options.writer_model:
        return None
    if not options.writer_base_url or not options.writer_model:
        raise ValueError("--writer_base_url and --writer_model go together: give both, or neither.")
    return OpenAIWriter(
        options.writer_base_url,
        options.writer_model,
        output_dir / CACHE_FILE,
        requests_per_minute=options.writer_requests_per_minute,
        concurrency=options.writer_concurrency,
    )


def show(tables: dict[str, pa.Table], titles: dict[str, str], count: int, seed: int) -> None:
    """Print the first examples of each task as the model would see them, items as their titles in brackets."""
    for task, table in tables.items():
        for row, values in enumerate(table.slice(0, count).to_pylist()):
            example = Example.from_row(values)
            prompt, completion = render(example, draw_template(example, seed, 0, row))
            print(f"\n--- {task} {row} ---\n{readable(prompt, titles)}{readable(completion, titles)}")


def main(arguments: list[str] | None = None) -> None:
    options = build_parser().parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    logging.getLogger("httpx2").setLevel(logging.WARNING)  # a line per request otherwise
    output_dir = options.output_dir or options.dataset_dir / "instructions"
    dataset = RecDataset.load(options.dataset_dir)
    tables = build_instructions(
        dataset,
        output_dir,
        options.tasks,
        make_writer(options, output_dir),
        max_history=options.max_history,
        fusion_samples=options.fusion_samples,
        seed=options.seed,
        refit=options.refit,
    )
    for task, table in tables.items():
        writer = table["writer"][0].as_py() if table.num_rows else None
        print(
            f"{output_dir / task}.parquet: {table.num_rows:,} examples" + (f", written by {writer}" if writer else "")
        )
    titles = dict(zip(dataset.items["item_id"].to_pylist(), dataset.items["title"].to_pylist(), strict=True))
    show(tables, titles, options.show, options.seed)


if __name__ == "__main__":
    try:
        main()
    except (DataError, ValueError, FileNotFoundError, ImportError, WriterError) as error:
        sys.exit(f"error: {error}")
