"""The recipe end to end on a small dataset: results, resuming, tuning modes, and a checkpoint that stands alone."""

import json
import re
import shutil
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch

from benchmarks.launch_curves import Launch, largest_difference, losses
from llmrec.hub import load_checkpoint
from llmrec.models.setrec.recommender import SetRecRecommender
from llmrec.training.checkpoints import complete_checkpoints
from tests.recipes.conftest import load_recipe
from tests.recipes.recipe_process import (
    die_before_the_checkpoint_is_marked,
    die_in_the_test,
    die_while_writing_the_optimizer,
    run,
)
from tests.tiny import make_pretrained

pytestmark = pytest.mark.slow

#: Options that make a run tiny; they change sizes only.
TINY = [
    *("--hidden_size", "32", "--num_layers", "1", "--num_semantic_tokens", "2", "--cf_dim", "16"),
    *("--sasrec_epochs", "2", "--max_history", "10", "--per_device_train_batch_size", "8", "--disable_tqdm", "True"),
]


@pytest.fixture(scope="module")
def setrec() -> ModuleType:
    return load_recipe("setrec")


def _run(setrec: ModuleType, dataset: Path, output: Path, *options: str) -> dict:
    setrec.main(["--dataset_dir", str(dataset), "--output_dir", str(output), *TINY, *options])
    return json.loads((output / "metrics.json").read_text())


def _results(output: Path) -> dict:
    return json.loads((output / "metrics.json").read_text())["results"]


def test_it_learns_the_rule_and_its_checkpoint_stands_alone(
    setrec, ring_dataset, tmp_path, capsys, monkeypatch
) -> None:
    options = ("--num_train_epochs", "40", "--early_stopping_patience", "40", "--sasrec_epochs", "20")
    metrics = _run(setrec, ring_dataset, tmp_path / "out", *options)
    assert {"setrec", "popularity", "item_knn", "sasrec"} == set(metrics["results"])
    assert "groups" not in metrics, "every item of the ring is in some training history"
    assert metrics["results"]["setrec"]["hit_rate@10"] > 0.8
    assert metrics["results"]["setrec"]["valid_rate"] == 1.0
    assert 0 <= metrics["protocol"]["beta"] <= 1
    assert "Stop" in capsys.readouterr().out
    for name in ("report.txt", "comparison.png", "catalog.parquet", "llmrec.json", "item_features.safetensors"):
        assert (tmp_path / "out" / name).stat().st_size > 0
    snippet = re.search(r"```python\n(.*?)```", (tmp_path / "out" / "README.md").read_text(), re.DOTALL)[1]
    monkeypatch.chdir(tmp_path / "out")
    exec(compile(snippet, "README.md", "exec"), {})
    assert len(capsys.readouterr().out.splitlines()) == 10
    monkeypatch.chdir(tmp_path)
    moved = shutil.move(tmp_path / "out", tmp_path / "moved")
    checkpoint = load_checkpoint(moved)
    history = checkpoint.catalog.rows_of(["3", "4", "5"])
    recommender = SetRecRecommender(checkpoint.catalog.item_ids, checkpoint.prompts["max_history"])
    ranked = recommender.recommend(checkpoint.model, [history], 5, [history], progress=False)
    assert checkpoint.catalog.rows_of(["6"])[0] in ranked[0]


def test_two_steps_then_resumed_to_four_equals_four_in_one_go(setrec, ring_dataset, tmp_path) -> None:
    steps = ("--save_strategy", "steps", "--save_steps", "2", "--max_steps", "4")
    whole = _run(setrec, ring_dataset, tmp_path / "whole", *steps)
    broken = tmp_path / "broken"
    _run(setrec, ring_dataset, broken, *steps)
    for name in ("report.txt", "metrics.json", "model.safetensors"):  # as if the run had died after its second step
        (broken / name).unlink()
    shutil.rmtree(broken / "checkpoint-4")
    resumed = _run(setrec, ring_dataset, broken, *steps)
    assert resumed["results"] == whole["results"]
    weights = [(folder / "model.safetensors").read_bytes() for folder in (broken, tmp_path / "whole")]
    assert weights[0] == weights[1]


def test_killed_again_and_again_it_ends_with_the_same_bytes(ring_dataset, tmp_path) -> None:
    def argv(output: Path) -> list[str]:
        options = ("--num_train_epochs", "2", "--save_strategy", "steps", "--save_steps", "2")
        return ["--dataset_dir", str(ring_dataset), "--output_dir", str(output), *TINY, *options]

    log, whole, broken = tmp_path / "log", tmp_path / "whole", tmp_path / "broken"
    assert run(argv(whole), log, recipe="setrec") == [0], log.read_text()
    for die in (die_while_writing_the_optimizer, die_before_the_checkpoint_is_marked, die_in_the_test):
        assert run(argv(broken), log, die, recipe="setrec") == [-9], log.read_text()
        assert complete_checkpoints(broken)
    assert run(argv(broken), log, recipe="setrec") == [0], log.read_text()
    for name in ("model.safetensors", "item_features.safetensors"):
        assert (broken / name).read_bytes() == (whole / name).read_bytes()
    assert _results(broken) == _results(whole)


@pytest.mark.parametrize(
    "options",
    [
        ("--architecture", "t5"),
        ("--architecture", "t5", "--attention_rule", "bidirectional", "--history_loss", "prefix"),
        ("--attention_rule", "causal"),
        ("--history_loss", "prefix"),
        ("--num_semantic_tokens", "0"),
        ("--refit", "True", "--beta", "0.3"),
    ],
    ids=["t5", "released_t5", "causal", "prefix", "cf_only", "refit"],
)
def test_every_way_to_train_runs(setrec, ring_dataset, tmp_path, options) -> None:
    metrics = _run(setrec, ring_dataset, tmp_path, "--max_steps", "2", *options)
    assert metrics["results"]["setrec"]["valid_rate"] == 1.0


@pytest.mark.parametrize("architecture", ["qwen3", "t5"])
def test_lora_leaves_a_plain_checkpoint(setrec, ring_dataset, tmp_path, architecture) -> None:
    pretrained = make_pretrained(tmp_path / "pretrained", architecture, ["Stop 1 of the ring", "some other text"])
    options = ("--model_name_or_path", str(pretrained), "--use_peft", "True", "--lora_r", "4", "--max_steps", "2")
    metrics = _run(setrec, ring_dataset, tmp_path / "out", *options)
    assert metrics["protocol"]["tuning"] == "LoRA"
    model = load_checkpoint(tmp_path / "out").model
    assert not any("lora" in name for name, _ in model.named_parameters())
    assert torch.isfinite(model.query(torch.tensor([[1, 2]]))).all()


def test_what_would_fail_after_training_is_refused_before(setrec, ring_dataset, tmp_path) -> None:
    for options, message in (
        (["--attention_rule", "bidirectional"], "--history_loss prefix"),
        (["--beta", "2"], "beta is 2"),
        (["--refit", "True"], "give --beta"),
        (["--attention_rule", "causal", "--architecture", "t5"], "not for t5"),
        (["--num_semantic_tokens", "-1"], "0 or more"),
        (["--save_strategy", "no"], "steps or epoch"),
        (["--use_peft", "True", "--load_in_4bit", "True"], "no --load_in_4bit"),
        (["--attn_implementation", "eager"], "pretrained model only"),
    ):
        with pytest.raises(ValueError, match=message):
            _run(setrec, ring_dataset, tmp_path / "out", *options)
    assert not (tmp_path / "out").exists()


def test_lora_over_sharded_weights_is_refused(setrec, tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("ACCELERATE_USE_DEEPSPEED", "true")
    monkeypatch.setenv("ACCELERATE_DEEPSPEED_ZERO_STAGE", "3")
    args, config, model_args = setrec.parse_arguments(["--output_dir", str(tmp_path), "--use_peft", "True"])
    with pytest.raises(ValueError, match="whole on every process"):
        setrec.check_arguments(args, config, model_args)


def test_users_are_ranked_alike_alone_and_together(setrec, ring_dataset, tmp_path) -> None:
    _run(setrec, ring_dataset, tmp_path, "--max_steps", "2")
    checkpoint = load_checkpoint(tmp_path)
    histories = [[1, 2, 3], [4], [5, 6, 7, 8, 9, 10, 11]]
    recommender = SetRecRecommender(checkpoint.catalog.item_ids, 10, batch_size=2)
    together = recommender.recommend(checkpoint.model, histories, 5, progress=False)
    alone = [recommender.recommend(checkpoint.model, [history], 5, progress=False)[0] for history in histories]
    assert np.array_equal(together, np.stack(alone))


@pytest.fixture(scope="module")
def single(ring_dataset, tmp_path_factory) -> Path:
    """The output of one process."""
    output = tmp_path_factory.mktemp("launches") / "cpu"
    _launch("cpu", 1, ring_dataset, output)
    return output


def _launch(name: str, num_processes: int, dataset: Path, output: Path) -> str:
    log = output.with_suffix(".log")
    steps = ("--max_steps", "4", "--save_strategy", "steps", "--save_steps", "2", "--logging_steps", "1")
    options = ("--dataset_dir", str(dataset), *TINY, *steps, "--dropout", "0")
    Launch(name, num_processes, options, recipe="setrec").run(output, log)
    return log.read_text()


@pytest.mark.parametrize("name", ["cpu_2proc", "zero3"])
def test_two_processes_train_as_one_does(single, ring_dataset, tmp_path, name) -> None:
    if name.startswith("zero"):
        pytest.importorskip("deepspeed", reason="needs the deepspeed extra")
    printed = _launch(name, 2, ring_dataset, tmp_path / name)
    assert largest_difference(losses(tmp_path / name), losses(single)) < 1e-3
    results, expected = (
        json.loads((folder / "metrics.json").read_text())["results"] for folder in (tmp_path / name, single)
    )
    assert results["setrec"]["ndcg@10"] == pytest.approx(expected["setrec"]["ndcg@10"], abs=0.05)
    assert results["sasrec"] == expected["sasrec"]
    assert printed.count("full catalogue") == 1, "one process reports"
