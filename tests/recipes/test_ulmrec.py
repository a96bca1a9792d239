"""The recipe end to end on a small dataset: results, resuming, answers in IDs and titles, and what indices are for."""

import json
import re
import shutil
from pathlib import Path
from types import ModuleType

import pytest
import torch

from benchmarks.launch_curves import Launch, largest_difference, losses
from llmrec.hub import load_checkpoint
from llmrec.training.checkpoints import complete_checkpoints
from tests.recipes.conftest import TINY as LCREC_TINY
from tests.recipes.conftest import load_recipe
from tests.recipes.recipe_process import die_in_the_test, die_while_writing_the_optimizer, run
from tests.tiny import make_pretrained

pytestmark = pytest.mark.slow

#: Options that make a run tiny; they change sizes only.
TINY = [
    *LCREC_TINY,
    *("--cf_dim", "16", "--sasrec_epochs", "2", "--user_codebooks", "2", "--user_codebook_size", "8"),
    *("--user_quantizer", "residual_kmeans"),
]


@pytest.fixture(scope="module")
def ulmrec() -> ModuleType:
    return load_recipe("ulmrec")


def _run(ulmrec: ModuleType, dataset: Path, output: Path, *options: str) -> dict:
    ulmrec.main(["--dataset_dir", str(dataset), "--output_dir", str(output), *TINY, *options])
    return json.loads((output / "metrics.json").read_text())


@pytest.mark.parametrize("answer", ["semantic_ids", "titles"])
def test_it_learns_the_rule_and_its_checkpoint_stands_alone(
    ulmrec, ring_dataset, tmp_path, answer, capsys, monkeypatch
) -> None:
    options = ("--num_train_epochs", "30", "--learning_rate", "5e-3", "--answer", answer)
    metrics = _run(ulmrec, ring_dataset, tmp_path / "out", *options)
    assert {"ulmrec", "popularity", "item_knn", "sasrec"} == set(metrics["results"])
    assert metrics["results"]["ulmrec"]["hit_rate@10"] > 0.8
    assert metrics["results"]["ulmrec"]["valid_rate"] == 1.0
    for name in ("report.txt", "comparison.png", "catalog.parquet", "llmrec.json", "README.md"):
        assert (tmp_path / "out" / name).stat().st_size > 0
    snippet = re.search(r"```python\n(.*?)```", (tmp_path / "out" / "README.md").read_text(), re.DOTALL)[1]
    monkeypatch.chdir(tmp_path / "out")
    capsys.readouterr()
    exec(compile(snippet, "README.md", "exec"), {})
    assert len(capsys.readouterr().out.splitlines()) == 10
    monkeypatch.chdir(tmp_path)
    checkpoint = load_checkpoint(shutil.move(tmp_path / "out", tmp_path / "moved"))
    assert checkpoint.method == "ulmrec"
    assert len({checkpoint.users.codes(user_id) for user_id in checkpoint.users.user_ids}) == 60
    assert torch.isfinite(checkpoint.model(torch.tensor([[1, 2]])).logits).all()


def test_two_steps_then_resumed_to_four_equals_four_in_one_go(ulmrec, ring_dataset, tmp_path) -> None:
    steps = ("--save_strategy", "steps", "--save_steps", "2", "--max_steps", "4")
    whole = _run(ulmrec, ring_dataset, tmp_path / "whole", *steps)
    broken = tmp_path / "broken"
    _run(ulmrec, ring_dataset, broken, *steps)
    for name in ("report.txt", "metrics.json", "model.safetensors"):  # as if the run had died after its second step
        (broken / name).unlink()
    shutil.rmtree(broken / "checkpoint-4")
    resumed = _run(ulmrec, ring_dataset, broken, *steps)
    assert resumed["results"] == whole["results"]
    weights = [(folder / "model.safetensors").read_bytes() for folder in (broken, tmp_path / "whole")]
    assert weights[0] == weights[1]


def test_killed_again_and_again_it_ends_with_the_same_bytes(ring_dataset, tmp_path) -> None:
    def argv(output: Path) -> list[str]:
        steps = ("--max_steps", "6", "--save_strategy", "steps", "--save_steps", "2")
        return ["--dataset_dir", str(ring_dataset), "--output_dir", str(output), *TINY, *steps]

    log, whole, broken = tmp_path / "log", tmp_path / "whole", tmp_path / "broken"
    assert run(argv(whole), log, recipe="ulmrec") == [0], log.read_text()
    for die in (die_while_writing_the_optimizer, die_in_the_test):
        assert run(argv(broken), log, die, recipe="ulmrec") == [-9], log.read_text()
        assert complete_checkpoints(broken)
    assert run(argv(broken), log, recipe="ulmrec") == [0], log.read_text()
    assert (broken / "model.safetensors").read_bytes() == (whole / "model.safetensors").read_bytes()
    codes = [load_checkpoint(folder).users.codes("u1") for folder in (broken, whole)]
    assert codes[0] == codes[1]


@pytest.mark.parametrize(
    "options",
    [
        ("--user_index", "subword"),
        ("--user_index", "shuffled"),
        ("--user_index", "none"),
        ("--user_quantizer", "rqvae", "--user_index_epochs", "20"),
        ("--tasks", "history2index"),
        ("--refit", "True"),
        ("--answer", "titles", "--refit", "True"),
        ("--answer", "letters"),
        ("--answer", "letters", "--refit", "True", "--user_index", "none", "--retriever", "sasrec"),
    ],
    ids=["subword", "shuffled", "none", "rqvae", "one_task", "refit", "titles_refit", "letters", "letters_refit"],
)
def test_every_way_to_train_runs(ulmrec, ring_dataset, tmp_path, options) -> None:
    metrics = _run(ulmrec, ring_dataset, tmp_path, "--max_steps", "2", *options)
    assert metrics["results"]["ulmrec"]["valid_rate"] == 1.0


@pytest.mark.parametrize(
    ("user_index", "answer"),
    [("added_tokens", "semantic_ids"), ("subword", "semantic_ids"), ("subword", "letters"), ("added_tokens", "titles")],
)
def test_lora_leaves_a_plain_checkpoint(ulmrec, ring_dataset, tmp_path, user_index, answer) -> None:
    pretrained = make_pretrained(tmp_path / "pretrained", "qwen3", ["Stop 1 of the ring", "some other text"])
    options = ("--model_name_or_path", str(pretrained), "--use_peft", "True", "--lora_r", "4", "--max_steps", "2")
    metrics = _run(ulmrec, ring_dataset, tmp_path / "out", *options, "--user_index", user_index, "--answer", answer)
    assert metrics["protocol"]["tuning"] == "LoRA"
    checkpoint = load_checkpoint(tmp_path / "out")
    assert not any("lora" in name for name, _ in checkpoint.model.named_parameters())
    has_tokens = "<user_a_1>" in checkpoint.tokenizer.get_vocab()
    assert has_tokens == (user_index == "added_tokens")


def test_letters_say_what_the_paper_would(ulmrec, ring_dataset, tmp_path) -> None:
    metrics = _run(ulmrec, ring_dataset, tmp_path, "--answer", "letters", "--max_steps", "4")
    found = json.loads((tmp_path / "candidates.json").read_text())
    assert found["overall"]["ndcg@10"] == pytest.approx(metrics["results"]["ulmrec"]["ndcg@10"])
    assert found["overall"]["hit_rate@10"] == pytest.approx(
        found["subset"]["hit_rate@10"] * found["retriever_hit_rate"]
    )
    assert metrics["protocol"]["retriever"] == "item_knn"
    assert "Position bias" in (tmp_path / "report.txt").read_text()


def test_what_would_fail_after_training_is_refused_before(ulmrec, ring_dataset, tmp_path) -> None:
    for options, message in (
        (["--answer", "letters", "--num_candidates", "27"], "allowed are 20 to 26"),
        (["--answer", "letters", "--retriever", str(tmp_path / "nothing")], "neither a folder"),
        (["--answer", "titles", "--max_length", "40"], "give --max_length"),
        (["--tasks", "dreams"], "tasks holds dreams"),
        (["--num_beams", "5"], "num_beams is 5"),
        (["--save_strategy", "no"], "steps or epoch"),
        (["--load_in_4bit", "True"], "for a pretrained model only"),
    ):
        with pytest.raises((ValueError, FileNotFoundError), match=message):
            _run(ulmrec, ring_dataset, tmp_path / "out", *options)
    assert not list((tmp_path / "out").glob("checkpoint-*"))


def test_two_processes_train_as_one_does(ring_dataset, tmp_path) -> None:
    steps = ("--max_steps", "4", "--save_strategy", "steps", "--save_steps", "2", "--logging_steps", "1")
    options = ("--dataset_dir", str(ring_dataset), *TINY, *steps, "--answer", "letters")
    for name, processes in (("cpu", 1), ("cpu_2proc", 2)):
        Launch(name, processes, options, recipe="ulmrec").run(tmp_path / name, tmp_path / f"{name}.log")
    assert largest_difference(losses(tmp_path / "cpu_2proc"), losses(tmp_path / "cpu")) < 1e-3
    found, expected = (
        json.loads((tmp_path / name / "metrics.json").read_text())["results"] for name in ("cpu_2proc", "cpu")
    )
    assert found["ulmrec"]["ndcg@10"] == pytest.approx(expected["ulmrec"]["ndcg@10"], abs=0.05)
    assert (tmp_path / "cpu_2proc.log").read_text().count("full catalogue") == 1, "one process reports"


def test_a_checkpoint_finds_candidates_if_it_was_trained_on_this_split(ulmrec, ring_dataset, tmp_path) -> None:
    lcrec = load_recipe("lcrec")
    steps = ("--max_steps", "2")
    lcrec.main(["--dataset_dir", str(ring_dataset), "--output_dir", str(tmp_path / "lcrec"), *LCREC_TINY, *steps])
    options = ("--answer", "letters", "--retriever", str(tmp_path / "lcrec"), *steps)
    _run(ulmrec, ring_dataset, tmp_path / "out", *options)
    found = json.loads((tmp_path / "out" / "candidates.json").read_text())
    retrieved = json.loads((tmp_path / "lcrec" / "metrics.json").read_text())["results"]["lcrec"]
    assert found["retriever_hit_rate"] == pytest.approx(retrieved["hit_rate@20"])
    metrics = json.loads((tmp_path / "lcrec" / "metrics.json").read_text())
    (tmp_path / "lcrec" / "metrics.json").write_text(json.dumps({**metrics, "split_fingerprint": "another"}))
    with pytest.raises(ValueError, match="may have seen what it is asked for"):
        _run(ulmrec, ring_dataset, tmp_path / "other", *options)
    with pytest.raises(ValueError, match="20 beams"):
        _run(ulmrec, ring_dataset, tmp_path / "other", *options, "--num_candidates", "22")
