"""The benchmark of training: its counting, its clock, its last line, and a whole run at toy size."""

import json
import math
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from benchmarks import training, training_gpu, training_process
from benchmarks.training_contenders import CONTENDERS, TrainingSettings
from benchmarks.training_measure import Counts, Progress, count_batch
from benchmarks.training_report import markdown
from benchmarks.training_setup import Workload, made_up_catalog, made_up_histories, prefix_table
from llmrec.models.from_config import train_text_tokenizer
from llmrec.prompts.renderer import SegmentRenderer
from llmrec.training.epochs import EpochExamples
from llmrec.vocabulary import ItemVocabulary
from tests.recipes import conftest

CATALOG = made_up_catalog(60, (4, 4, 8), seed=0)
ring_dataset = conftest.ring_dataset


def _workload(prefix_rows: int = 10**6) -> Workload:
    tokenizer = train_text_tokenizer(CATALOG.titles, 300)
    renderer = SegmentRenderer(CATALOG, ItemVocabulary.add_to(tokenizer, CATALOG.codebook_sizes))
    histories = [items[: 3 + number] for number, items in enumerate(made_up_histories(CATALOG, 12, seed=0))]
    return Workload(renderer, histories, max_history=50, prefix_rows=prefix_rows, seed=0)


@pytest.mark.parametrize("kind", ["prefix", "history"])
def test_both_ways_of_training_ask_for_the_same_items(kind) -> None:
    workload = _workload()
    examples = EpochExamples([workload.source(kind)], 0, False, 1024)
    rows = [examples.dataset()[row] for row in range(len(examples))]
    labels = sum(label != -100 for row in rows for label in row["labels"])
    assert workload.targets(kind, labels, len(rows)) == sum(len(items) - 1 for items in workload.histories)


def test_a_sample_of_prefixes_has_no_repeats_and_none_that_is_not_one() -> None:
    histories = _workload().histories
    table = prefix_table(histories, 4, 20, seed=1)
    rows = [(row["user_id"], len(row["history"]), row["item"][0]["value"]) for row in table.to_pylist()]
    pairs = {
        (user, [segment["value"] for segment in row["history"]].__repr__(), row["item"][0]["value"])
        for (user, _, _), row in zip(rows, table.to_pylist(), strict=True)
    }
    every = {
        (str(user), repr(items[max(0, end - 4) : end]), items[end])
        for user, items in enumerate(histories)
        for end in range(1, len(items))
    }
    assert len(rows) == 20
    assert pairs <= every


def test_counts_know_padding_packs_and_labels() -> None:
    rows = [
        {"input_ids": [1] * 5, "labels": [-100] * 2 + [1] * 3, "seq_lengths": [2, 3]},
        {"input_ids": [1, 2], "labels": [-100, 2], "seq_lengths": [2]},
    ]
    batch = {
        "input_ids": torch.ones(2, 5),
        "labels": torch.tensor([[-100, -100, 1, 1, 1], [-100, 2, -100, -100, -100]]),
    }
    counted = count_batch(rows, batch)
    assert counted == Counts(examples=3, tokens=7, positions=10, label_tokens=4, squares=4 + 9 + 4)
    assert (
        count_batch([{"input_ids": [1, 2]}], {"input_ids": torch.ones(1, 2), "labels": torch.ones(1, 2)}).examples == 1
    )
    assert counted + counted == Counts(6, 14, 20, 8, 34)


def test_validation_is_not_training_time_and_the_target_ends_it(monkeypatch) -> None:
    now = iter(range(0, 10_000, 10))
    monkeypatch.setattr("benchmarks.training_measure.time.perf_counter", lambda: float(next(now)))
    scores = iter([0.1, 0.2, 0.3])
    progress = Progress(lambda: None, limit_s=1000, validate=lambda _: next(scores), target=0.2)
    state, control = SimpleNamespace(global_step=0, max_steps=99), SimpleNamespace(should_training_stop=False)
    progress.on_train_begin(None, state, control)
    while not control.should_training_stop:
        state.global_step += 1
        progress.on_step_end(None, state, control, model=None)
    assert progress.reached
    # every look at the clock takes 10 s: one ends a step, two enclose a validation
    assert progress.step_seconds == [10, 30]
    assert [place["ndcg@10"] for place in progress.validations] == [0.1, 0.2]
    last = progress.validations[-1]
    assert last["seconds_with_validation"] - last["seconds"] == 20


def test_the_last_line_says_where_a_ratio_is_a_bound_or_unknown() -> None:
    run = {"targets_per_s": 10.0, "seconds": 100.0, "reached": False}
    ours = {"targets_per_s": 100.0, "seconds": 10.0, "reached": True}
    steps = [
        {"name": "transformers", "labels": "all", "peak_bytes": 8},
        {"name": "ours", "labels": "all", "peak_bytes": 2},
    ]
    results = {"runs": {"trl_defaults": run, "history_grouped": ours}, "step_memory": steps}
    line = training.last_line(training.summary(results))
    assert line == "tokens_ratio=10 time_to_ndcg_ratio=>=10 memory_ratio=0.25"
    results["runs"]["trl_defaults"]["reached"] = True
    assert "time_to_ndcg_ratio=10 " in training.last_line(training.summary(results))
    ours["reached"] = False
    assert "time_to_ndcg_ratio=unknown" in training.last_line(training.summary(results))


def test_contenders_differ_from_trl_in_what_their_row_says_only() -> None:
    settings = TrainingSettings(
        "cpu",
        False,
        {"prefix": 8, "history": 16},
        4,
        512,
        {"prefix": 1e-3, "history": 1e-3, "lora": 1e-2},
        {"prefix": 1, "history": 8},
        -1,
        0,
    )
    baseline = settings.arguments(CONTENDERS["trl_defaults"], "out")
    assert "gradient_checkpointing" not in baseline
    assert settings.arguments(CONTENDERS["prefix"], "out") == baseline
    grouped = settings.arguments(CONTENDERS["prefix_grouped"], "out")
    assert {name for name in grouped if grouped[name] != baseline.get(name)} == {"train_sampling_strategy"}


@pytest.mark.slow
def test_the_chunked_loss_needs_less_memory_than_full_logits(tmp_path) -> None:
    peaks = {}
    for name in ("transformers", "ours"):  # a process of its own each: what one has freed, the next would not need
        result = tmp_path / f"{name}.json"
        command = [sys.executable, "-m", "benchmarks.training_step_memory", name, "all", "128", str(result)]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        peaks[name] = json.loads(result.read_text())["peak_bytes"]
    assert 0 < peaks["ours"] < 0.5 * peaks["transformers"]


@pytest.mark.slow
def test_a_run_ends_with_its_figures(ring_dataset, tmp_path, capsys, monkeypatch) -> None:
    output = tmp_path / "training.json"

    def run_job_here(job: dict, folder: Path) -> dict:  # a process for each contender takes 10 s to start
        (folder / "job.json").write_text(json.dumps(job))
        training_process.main(str(folder / "job.json"), str(folder / "result.json"))
        return json.loads((folder / "result.json").read_text())

    monkeypatch.setattr(training, "run_job", run_job_here)
    contenders = ["trl_defaults", "prefix_packed", "history_grouped", "pretrained_lora_4bit"]
    options = f"--dataset_dir {ring_dataset} --max_steps 5 --target 0.9 --valid_users 10 --prefix_rows 80 --steps ours"
    training.main(
        [
            *options.split(),
            "--labels",
            "all",
            "--step_length",
            "8",
            "--contenders",
            *contenders,
            "--output",
            str(output),
        ]
    )
    last = capsys.readouterr().out.strip().splitlines()[-1]
    figures = dict(pair.split("=", 1) for pair in last.split(" "))
    assert list(figures) == ["tokens_ratio", "time_to_ndcg_ratio", "memory_ratio"]
    assert float(figures["tokens_ratio"]) > 1
    assert figures["time_to_ndcg_ratio"] == figures["memory_ratio"] == "unknown"  # not reached, and not run
    results = json.loads(output.read_text())
    assert list(results["runs"]) == contenders
    assert results["split_fingerprint"]
    for run in results["runs"].values():
        assert run["steps"] == 5
        assert math.isfinite(run["tokens_per_s"])
    assert (
        results["runs"]["pretrained_lora_4bit"]["trained_parameters"]
        < results["runs"]["history_grouped"]["trained_parameters"]
    )
    assert output.with_suffix(".png").stat().st_size > 1000
    assert len(markdown(results).splitlines()) == 2 + len(contenders)


@pytest.mark.slow
def test_the_gpu_benchmark_loses_nothing_to_a_contender_that_fails(tmp_path, monkeypatch) -> None:
    output = tmp_path / "training_gpu.json"
    load = training_gpu.load_model

    def load_but_for_lora(contender, *arguments) -> torch.nn.Module:
        if contender.tuning == "lora":
            raise torch.OutOfMemoryError
        return load(contender, *arguments)

    monkeypatch.setattr(training_gpu, "load_model", load_but_for_lora)
    sizes = "--device cpu --models tiny --steps 3 --tokens_a_batch 256 --max_length 256 --users 10"
    contenders = ["lora", "trl_defaults", "history_packed", "lora_4bit"]
    training_gpu.main([*sizes.split(), "--contenders", *contenders, "--output", str(output)])
    runs = json.loads(output.read_text())["models"]["tiny"]["runs"]
    assert "OutOfMemoryError" in runs["lora"]["failed"]
    assert "OutOfMemoryError" in markdown(json.loads(output.read_text()))
    assert all(runs[name]["flops_per_s"] > 0 for name in contenders[1:])
    assert runs["history_packed"]["tokens_per_target"] < runs["trl_defaults"]["tokens_per_target"]
