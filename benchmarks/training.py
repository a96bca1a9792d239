"""Training: TRL's defaults on one example per prefix against ours, to the same validation NDCG@10.

    python -m benchmarks.training --quick

A small target and 300 validation users, within 5 minutes on 2 cores. Without --quick: every step from the one to the
other, and full, LoRA and 4-bit LoRA tuning from a saved base, within three quarters of an hour.

All contenders share dataset, semantic IDs, model (the demo's), seed, optimizer, learning rate (1e-3), schedule and
float32. A batch has 8 prefixes, TRL's default, or 16 windows, the demo's. Each contender runs in a process of its own,
one after the other, with the same threads, until its validation NDCG@10 reaches the target. The seconds are those of
training: starting, tokenizing and validation are left out for all alike (they are in the JSON). The last line is for
machines:

    tokens_ratio         target tokens learned from in a second, ours over TRL's defaults
    time_to_ndcg_ratio   seconds to the target, TRL's defaults over ours; >= where they did not reach it in time
    memory_ratio         peak memory of a step over a vocabulary of 151,936, ours over plain transformers' full logits
"""

import argparse
import json
import subprocess
import sys
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks.decoding_measure import hardware
from benchmarks.training_contenders import CONTENDERS, TrainingSettings
from benchmarks.training_measure import versions
from benchmarks.training_process import open_movielens
from benchmarks.training_report import plot, print_tables
from benchmarks.training_step_memory import LABELS, STEPS
from llmrec.atomic import write_json

#: One example per prefix, too: only their speed is measured, since they learn what the baseline learns.
SPEED_ONLY = ("prefix", "prefix_grouped", "prefix_packed")
#: Ours on a CPU, where packing costs attention over the whole sequence.
BASELINE, OURS = "trl_defaults", "history_grouped"
QUICK: dict[str, Any] = {
    "contenders": [BASELINE, OURS],
    "steps": ["transformers", "ours"],
    "labels": ["all"],
    "step_length": 256,
    "valid_users": 300,
    "target": 0.03,
    "limit_s": 90.0,
    "prefix_rows": 6_000,
}


@dataclass(frozen=True)
class Settings:
    """What a run measures; the options of the command."""

    dataset_dir: str
    contenders: tuple[str, ...]
    steps: tuple[str, ...]
    labels: tuple[str, ...]
    step_length: int
    target: float
    limit_s: float
    ours_limit_s: float
    speed_s: float
    valid_users: int | None
    prefix_rows: int
    max_history: int
    num_beams: int
    training: TrainingSettings


def main(argv: list[str] | None = None) -> None:
    settings, output = parse(argv)
    dataset, _ = open_movielens(settings.dataset_dir)
    results: dict[str, Any] = {
        "settings": asdict(settings),
        "dataset": dataset.name,
        "split_fingerprint": dataset.fingerprint,
        "hardware": hardware(settings.training.device),
        "versions": versions(),
        "runs": {},
        "step_memory": [],
    }
    output.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        for labels in settings.labels:
            for name in settings.steps:
                say(f"memory of one step: {name}, labels on {labels} tokens")
                arguments = [name, labels, str(settings.step_length)]
                results["step_memory"].append(run_process("benchmarks.training_step_memory", arguments, Path(folder)))
        if any(CONTENDERS[name].pretrained for name in settings.contenders):
            say("a base for LoRA: a small language model of the items' texts")
            results["base"] = run_job(job_of("base", settings, folder), Path(folder))
        for name in settings.contenders:
            say(f"{CONTENDERS[name].label.strip()} ({name})")
            results["runs"][name] = run_job(job_of(name, settings, folder), Path(folder))
            write_json(output, results)
    results["summary"] = summary(results)
    write_json(output, results)
    plot(results, output.with_suffix(".png"))
    print_tables(results)
    print(last_line(results["summary"]))


def parse(argv: list[str] | None) -> tuple[Settings, Path]:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help=f"a small run; other defaults: {QUICK}")
    parser.add_argument("--dataset_dir", default="data/ml-100k", help="prepared where it is missing")
    parser.add_argument("--contenders", nargs="+", choices=CONTENDERS, default=list(CONTENDERS))
    parser.add_argument(
        "--steps",
        nargs="+",
        choices=STEPS,
        default=["transformers", "trl_defaults", "ours", "ours_checkpointing"],
        help="of memory",
    )
    parser.add_argument("--labels", nargs="+", default=["all"], choices=LABELS, help="tokens under their loss")
    parser.add_argument("--step_length", type=int, default=512, help="tokens of each of the 8 sequences of those steps")
    parser.add_argument("--target", type=float, default=0.04, help="validation NDCG@10 at which a run ends")
    parser.add_argument("--limit_s", type=float, default=900.0, help="seconds of training that TRL's defaults get")
    parser.add_argument("--ours_limit_s", type=float, default=150.0, help="seconds that each of ours gets")
    parser.add_argument(
        "--speed_s", type=float, default=45.0, help=f"seconds of {', '.join(SPEED_ONLY)}, never validated"
    )
    parser.add_argument("--valid_users", type=int, help="a random sample; all by default")
    parser.add_argument("--prefix_rows", type=int, default=40_000, help="random prefixes that are written down")
    parser.add_argument("--max_history", type=int, default=50)
    parser.add_argument("--num_beams", type=int, default=20)
    parser.add_argument("--prefix_batch_size", type=int, default=8, help="examples of a batch; TRL's own default")
    parser.add_argument("--history_batch_size", type=int, default=16, help="windows of a batch; the demo's")
    parser.add_argument("--packed_batch_size", type=int, default=4, help="packed sequences of a batch")
    parser.add_argument("--max_length", type=int, default=512, help="of a packed sequence")
    parser.add_argument("--prefix_learning_rate", type=float, default=1e-3)
    parser.add_argument("--history_learning_rate", type=float, default=1e-3)
    parser.add_argument("--lora_learning_rate", type=float, default=5e-3)
    parser.add_argument("--max_steps", type=int, default=-1, help="ends a run earlier")
    parser.add_argument("--seed", type=int, default=42)
    parser.add_argument("--output", type=Path, help="JSON file; the picture goes beside it")
    if "--quick" in (sys.argv[1:] if argv is None else argv):
        parser.set_defaults(**QUICK)
    args = parser.parse_args(argv)
    training = TrainingSettings(
        device="cpu",
        bf16=False,
        batch_sizes={"prefix": args.prefix_batch_size, "history": args.history_batch_size},
        packed_batch_size=args.packed_batch_size,
        max_length=args.max_length,
        learning_rates={
            "prefix": args.prefix_learning_rate,
            "history": args.history_learning_rate,
            "lora": args.lora_learning_rate,
        },
        epochs={"prefix": 1, "history": 8},
        max_steps=args.max_steps,
        seed=args.seed,
    )
    names = set(Settings.__dataclass_fields__) - {"training"}
    values = {name: value for name, value in vars(args).items() if name in names}
    values |= {name: tuple(values[name]) for name in ("contenders", "steps", "labels")}
    output = args.output or Path("benchmarks/results") / ("training_quick.json" if args.quick else "training.json")
    return Settings(training=training, **values), output


def job_of(name: str, settings: Settings, folder: str) -> dict[str, Any]:
    """What a contender's process, or that of the base, needs to know."""
    limit = settings.limit_s if name == BASELINE else settings.ours_limit_s
    return {
        "contender": name,
        "settings": asdict(settings.training),
        "dataset_dir": settings.dataset_dir,
        "base_folder": f"{folder}/base",
        "max_history": settings.max_history,
        "prefix_rows": settings.prefix_rows,
        "valid_users": settings.valid_users,
        "num_beams": settings.num_beams,
        "target": None if name in SPEED_ONLY else settings.target,
        "limit_s": settings.speed_s if name in SPEED_ONLY else limit,
    }


def run_job(job: dict[str, Any], folder: Path) -> dict[str, Any]:
    write_json(folder / "job.json", job)
    return run_process("benchmarks.training_process", [str(folder / "job.json")], folder)


def run_process(module: str, arguments: list[str], folder: Path) -> dict[str, Any]:
    """What a module writes into the JSON file that is its last argument.

    Raises:
        RuntimeError: with the end of its output, if it fails.
    """
    result = folder / "result.json"
    result.unlink(missing_ok=True)
    command = [sys.executable, "-m", module, *arguments, str(result)]
    process = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    for line in process.stdout.splitlines():
        if "ndcg@10" in line:
            say(line)
    if process.returncode != 0:
        raise RuntimeError(f"{' '.join(command)} ended with {process.returncode}:\n{process.stdout[-4000:]}")
    return json.loads(result.read_text())


def summary(results: dict[str, Any]) -> dict[str, Any]:
    """The figures of the last line, from what was run; a figure whose runs are missing is None."""
    baseline, ours = (results["runs"].get(name) for name in (BASELINE, OURS))
    steps = {(step["name"], step["labels"]): step["peak_bytes"] for step in results["step_memory"]}
    plain, chunked = steps.get(("transformers", "all")), steps.get(("ours", "all"))
    both = baseline is not None and ours is not None
    return {
        "tokens_ratio": ours["targets_per_s"] / baseline["targets_per_s"] if both else None,
        "time_to_ndcg_ratio": baseline["seconds"] / ours["seconds"] if both and ours["reached"] else None,
        "time_to_ndcg_is_lower_bound": both and ours["reached"] and not baseline["reached"],
        "memory_ratio": chunked / plain if plain and chunked else None,
    }


def last_line(figures: dict[str, Any]) -> str:
    def text(name: str) -> str:
        return "unknown" if figures[name] is None else f"{figures[name]:.4g}"

    bound = ">=" if figures["time_to_ndcg_is_lower_bound"] else ""
    return (
        f"tokens_ratio={text('tokens_ratio')} time_to_ndcg_ratio={bound}{text('time_to_ndcg_ratio')} "
        f"memory_ratio={text('memory_ratio')}"
    )


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
