"""The ``llmrec`` command: serve a checkpoint, recommend for a file of histories, or embed a catalogue."""

import argparse
import logging
import os
import sys
from collections.abc import Sequence
from dataclasses import fields
from importlib.util import find_spec
from pathlib import Path
from typing import Any, TypeVar

from llmrec.schema import DataError

T = TypeVar("T")

_SERVE = """Serve a checkpoint over HTTP, compatible with the openai client. It answers with catalogue items only.

    llmrec serve outputs/lcrec                      # transformers, or vLLM where it is installed
    llmrec serve you/model --engine vllm --host 0.0.0.0

Keys come from the environment, so that they show in no process list: LLMREC_API_KEYS (several with commas between
them) and LLMREC_ADMIN_KEY (for reloading the catalogue). docs/serving.md has the routes and rules.
"""

_RECOMMEND = """Recommend for every row of a parquet file of histories.

    llmrec recommend outputs/lcrec --histories histories.parquet --output recommendations.parquet

The file has a column `history` (lists of item ids, oldest first), and may have `user_id`, `seen_item_ids` and
`exclude`. An interrupted run goes on where it was with the same command.
"""


_EMBED = """Embed a catalogue with an LREM checkpoint.

    llmrec embed outputs/lrem --output vectors.safetensors                          # the checkpoint's own items
    llmrec embed outputs/lrem --items items.parquet --output vectors.safetensors --index approximate

The file of items has the columns of a prepared dataset's items.parquet. An interrupted run goes on where it was with
the same command.
"""


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command line; bad input ends with one line on stderr and exit status 2."""
    args = build_parser().parse_args(argv)
    logging.basicConfig(format="%(asctime)s %(name)s: %(message)s", datefmt="%H:%M:%S")
    logging.getLogger("llmrec").setLevel(logging.INFO)
    if (args.engine or ("vllm" if find_spec("vllm") else "transformers")) != "vllm":
        # before torch is imported: threads that spin while they wait take the cores from clients and each other
        os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    try:
        args.run(args)
    except (DataError, ValueError, FileNotFoundError, ImportError) as error:
        print(f"llmrec {args.command}: {error}", file=sys.stderr)
        sys.exit(2)


def build_parser() -> argparse.ArgumentParser:
    """The parser of all subcommands."""
    parser = argparse.ArgumentParser(prog="llmrec", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    _add_serve(commands)
    _add_recommend(commands)
    _add_embed(commands)
    return parser


def _add_command(commands: "argparse._SubParsersAction", name: str, text: str, summary: str) -> argparse.ArgumentParser:
    parser = commands.add_parser(
        name, help=summary, description=text, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("checkpoint", help="folder of a recipe that has finished, or a Hub name")
    return parser


def _add_engine_options(parser: argparse.ArgumentParser) -> "argparse._ArgumentGroup":
    group = parser.add_argument_group("engine")
    group.add_argument("--scores", choices=["vocabulary", "catalog"], help="what beams are ranked by; as validated")
    group.add_argument("--device", default="auto", help="of the transformers engine (auto)")
    group.add_argument("--dtype", default="auto", help="float32, bfloat16, ...; auto: as saved")
    group.add_argument(
        "--index",
        choices=["exact", "approximate"],
        default="exact",
        help="SETRec, LREM: look at every item, or at a part of a catalogue too large for that (exact)",
    )
    return group


def _add_serve(commands: "argparse._SubParsersAction") -> None:
    parser = _add_command(commands, "serve", _SERVE, "serve a checkpoint over HTTP")
    parser.add_argument(
        "--engine", choices=["transformers", "vllm"], help="vllm where it is installed and runs the model"
    )
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (127.0.0.1: this machine only)")
    parser.add_argument("--port", type=int, default=8000, help="(8000)")
    parser.add_argument("--model_name", help="name of the model in requests; the folder's or Hub's own")
    parser.add_argument("--log_level", choices=["debug", "info", "warning", "error"], default="info", help="(info)")
    group = _add_engine_options(parser)
    group.add_argument("--max_batch_size", type=int, default=32, help="transformers: lists in one batch (32)")
    group.add_argument(
        "--num_workers", type=int, help="transformers: batches at a time; 1 on a GPU, up to 4 on a CPU's cores"
    )
    group.add_argument("--tensor_parallel_size", type=int, default=1, help="vllm: GPUs the model is split over (1)")
    group.add_argument("--data_parallel_size", type=int, default=1, help="vllm: copies of the model (1)")
    group.add_argument(
        "--beam_search", choices=["llmrec", "stock"], default="llmrec", help="vllm: our beams, or its own loop (llmrec)"
    )
    limits = parser.add_argument_group("limits, each named in the answer to a request that exceeds it")
    limits.add_argument("--max_history_items", type=int, default=2000, help="items of one history (2000)")
    limits.add_argument("--max_k", type=int, default=100, help="length of a list (100)")
    limits.add_argument("--max_num_beams", type=int, default=100, help="search width (100)")
    limits.add_argument("--max_users_per_request", type=int, default=256, help="(256)")
    limits.add_argument("--max_body_bytes", type=int, default=2_000_000, help="(2000000)")
    limits.add_argument("--max_queue", type=int, default=1024, help="lists that wait or are being ranked (1024)")
    limits.add_argument("--max_prompt_tokens", type=int, default=8192, help="of a raw prompt (8192)")
    limits.add_argument("--max_text_tokens", type=int, default=1024, help="of free text (1024)")
    limits.add_argument("--shutdown_seconds", type=int, default=30, help="for requests in flight at SIGTERM (30)")
    parser.set_defaults(run=_serve)


def _serve(args: argparse.Namespace) -> None:
    try:
        from llmrec.serving.http.server import run_server  # noqa: PLC0415 -- fastapi is an extra
        from llmrec.serving.http.settings import ServerSettings  # noqa: PLC0415 -- as above
    except ModuleNotFoundError as error:
        raise ImportError(f'{error.name} is not installed; serving needs it: pip install "llmrec[serve]"') from error
    from llmrec.serving.checkpoint import EngineOptions, default_engine, make_engine, open_served  # noqa: PLC0415

    checkpoint = open_served(args.checkpoint)
    options = _options(EngineOptions, args)
    engine = make_engine(args.engine or default_engine(checkpoint), checkpoint, options)
    # set but empty, as by a secret that is missing, is an error of ServerSettings, not an open server
    keys = tuple(os.environ["LLMREC_API_KEYS"].split(",")) if "LLMREC_API_KEYS" in os.environ else ()
    settings = _options(ServerSettings, args, api_keys=keys, admin_key=os.environ.get("LLMREC_ADMIN_KEY"))
    run_server(checkpoint, engine, settings)


def _add_recommend(commands: "argparse._SubParsersAction") -> None:
    parser = _add_command(commands, "recommend", _RECOMMEND, "recommend for a parquet file of histories")
    parser.add_argument("--histories", type=Path, required=True, help="parquet file, or a folder of them")
    parser.add_argument("--output", type=Path, required=True, help="parquet file to write")
    parser.add_argument("--k", type=int, default=10, help="items for each user (10)")
    parser.add_argument("--num_beams", type=int, help="search width; the one that the checkpoint was validated with")
    parser.add_argument(
        "--engine", choices=["transformers", "vllm", "ray"], default="transformers", help="(%(default)s)"
    )
    parser.add_argument("--batch_size", type=int, default=32, help="users ranked at a time (32)")
    parser.add_argument("--block_size", type=int, default=2048, help="users between two points to resume from (2048)")
    parser.add_argument("--include_seen", action="store_true", help="recommend items of the history too")
    parser.add_argument("--unknown_items", choices=["refuse", "skip"], default="refuse", help="(%(default)s)")
    parser.add_argument("--exclude_column", help="lists of item ids that a user must not get (exclude, if there)")
    parser.add_argument("--num_workers", type=int, default=2, help="ray: copies of the model (2)")
    parser.add_argument("--overwrite", action="store_true", help="start anew where there is an output already")
    _add_engine_options(parser)
    parser.set_defaults(run=_recommend)


def _recommend(args: argparse.Namespace) -> None:
    from llmrec.serving.batch.recommend import RecommendOptions, recommend_file  # noqa: PLC0415 -- torch: --help is quick

    options = _options(RecommendOptions, args)
    print(recommend_file(args.checkpoint, args.histories, args.output, options))


def _add_embed(commands: "argparse._SubParsersAction") -> None:
    parser = _add_command(commands, "embed", _EMBED, "embed a catalogue with an LREM checkpoint")
    parser.add_argument("--items", type=Path, help="parquet file of items; the checkpoint's own catalogue")
    parser.add_argument("--output", type=Path, required=True, help="safetensors file to write")
    parser.add_argument(
        "--index", choices=["exact", "approximate"], help="write a faiss index of them too, as the output's .faiss"
    )
    parser.add_argument("--engine", choices=["transformers", "ray"], default="transformers", help="(%(default)s)")
    parser.add_argument("--device", default="auto", help="(auto)")
    parser.add_argument("--dtype", default="auto", help="float32, bfloat16, ...; auto: as saved")
    parser.add_argument("--batch_size", type=int, default=32, help="items embedded at a time (32)")
    parser.add_argument("--rows_per_part", type=int, default=1024, help="items between two saves (1024)")
    parser.add_argument("--num_workers", type=int, default=2, help="ray: copies of the model (2)")
    parser.add_argument("--overwrite", action="store_true", help="start anew where there is an output already")
    parser.set_defaults(run=_embed)


def _embed(args: argparse.Namespace) -> None:
    from llmrec.serving.batch.embed import EmbedOptions, embed_file  # noqa: PLC0415 -- torch: --help is quick

    print(embed_file(args.checkpoint, args.items, args.output, _options(EmbedOptions, args)))


def _options(kind: type[T], args: argparse.Namespace, **more: Any) -> T:
    """The dataclass ``kind`` from the arguments of the same names, and ``more``."""
    names = {field.name for field in fields(kind)}  # type: ignore[arg-type]
    return kind(**{name: value for name, value in vars(args).items() if name in names}, **more)


if __name__ == "__main__":
    main()
