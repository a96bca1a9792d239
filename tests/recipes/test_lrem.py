"""The recipe end to end on a few queries: both stages, resuming, killed, on two processes, and what is refused."""

import json
import re
import shutil
from pathlib import Path
from types import ModuleType

import numpy as np
import pyarrow as pa
import pytest
import yaml

from benchmarks.launch_curves import Launch, largest_difference, losses
from llmrec.dataset import QueryDataset
from llmrec.hub import load_checkpoint
from llmrec.schema import ITEMS, QUERIES
from llmrec.training.checkpoints import complete_checkpoints
from tests.recipes.conftest import load_recipe
from tests.recipes.recipe_process import (
    die_before_the_checkpoint_is_marked,
    die_while_writing_the_optimizer,
    run,
)
from tests.tiny import make_pretrained

pytestmark = pytest.mark.slow

#: Options that make a run tiny; they change sizes only.
TINY = [
    *("--hidden_size", "32", "--num_layers", "1", "--text_vocab_size", "320", "--disable_tqdm", "True"),
    *("--per_device_train_batch_size", "16", "--max_text_tokens", "40"),
]
#: And what makes it learn its few queries by heart.
KNOWING = ["--stage", "cold_start", "--num_train_epochs", "40", "--learning_rate", "5e-3", "--text_weight", "1"]
SAID = {"red": "like fire", "blue": "like the sky", "warm": "against cold", "flat": "as thin as paper"}
PROPERTIES = [(first, second) for first in ("red", "blue") for second in ("warm", "flat")]


@pytest.fixture(scope="session")
def query_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Things of two properties and a size; queries paraphrase the properties."""
    rows, queries = [], []
    wordings = [
        f"{opening} {{}} and {{}} of size {{}}" for opening in ("something", "a thing", "anything", "some things")
    ]
    splits = ("train", "rl", "valid", "test")
    for number in range(32):
        words, size = PROPERTIES[number % 4], number // 4
        rows.append((str(number), f"Thing {', '.join(words)}, size {size}", "", "", []))
        for split, wording in zip(splits, wordings, strict=True):
            query = wording.format(*(SAID[word] for word in words), size)
            queries.append((f"{split}{number}", query, words[0], split, [*words], [str(number)], [1]))
    items, table = (
        pa.table(dict(zip(schema.names, map(list, zip(*content, strict=True)), strict=True)), schema=schema)
        for schema, content in ((ITEMS, rows), (QUERIES, queries))
    )
    folder = tmp_path_factory.mktemp("queries") / "things"
    QueryDataset("things", items, table, {"source": "made by a test", "writer": None, "options": {}}).save(folder)
    return folder


@pytest.fixture(scope="module")
def lrem() -> ModuleType:
    return load_recipe("lrem")


@pytest.fixture(scope="module")
def start(lrem, query_folder, tmp_path_factory) -> Path:
    """A checkpoint of the first stage."""
    folder = tmp_path_factory.mktemp("start") / "cold"
    _run(lrem, query_folder, folder, *KNOWING)
    return folder


def _run(lrem: ModuleType, queries: Path, output: Path, *options: str) -> dict:
    lrem.main(["--queries_dir", str(queries), "--output_dir", str(output), *TINY, *options])
    return json.loads((output / "metrics.json").read_text())


def _second(start: Path) -> list[str]:
    steps = ("--max_steps", "4", "--save_strategy", "steps", "--save_steps", "2", "--num_generations", "4")
    return ["--stage", "rl", "--model_name_or_path", str(start), *steps]


def test_the_cold_start_learns_and_its_checkpoint_stands_alone(start, tmp_path, capsys, monkeypatch) -> None:
    metrics = json.loads((start / "metrics.json").read_text())
    assert {"bm25", "lrem", *(f"lrem, thoughts: {kind}" for kind in ("empty", "random", "query"))} == set(
        metrics["results"]
    )
    assert metrics["results"]["lrem"]["ndcg@10"] > metrics["results"]["bm25"]["ndcg@10"] + 0.1
    moved = shutil.copytree(start, tmp_path / "moved")
    snippet = re.search(r"```python\n(.*?)```", (moved / "README.md").read_text(), re.DOTALL)[1]
    monkeypatch.chdir(moved)
    exec(compile(snippet, "README.md", "exec"), {})
    assert len(capsys.readouterr().out.splitlines()) == 11
    checkpoint = load_checkpoint(moved)
    assert checkpoint.method == "lrem"
    assert checkpoint.item_embeddings.shape == (32, 32)
    assert np.allclose(np.linalg.norm(checkpoint.item_embeddings, axis=1), 1, atol=1e-5)


def test_both_stages_run_one_after_the_other(lrem, query_folder, tmp_path, capsys) -> None:
    second = {"max_steps": 2, "save_steps": 1, "save_strategy": "steps", "per_device_train_batch_size": 32}
    (tmp_path / "rl.yaml").write_text(yaml.safe_dump(second))
    options = ("--rl_config", str(tmp_path / "rl.yaml"), "--max_steps", "2")
    metrics = _run(lrem, query_folder, tmp_path / "out", *options)
    assert {"bm25", "cold start", "lrem"} <= set(metrics["results"])
    first = json.loads((tmp_path / "out" / "cold_start" / "metrics.json").read_text())
    assert metrics["results"]["cold start"] == first["results"]["lrem"]
    assert "ndcg@10" in metrics["difference"]
    capsys.readouterr()
    _run(lrem, query_folder, tmp_path / "out", *options)
    assert capsys.readouterr().out.count("lrem less cold start") == 1, "a finished run prints its report again"


@pytest.mark.parametrize("stage", ["cold_start", "rl"])
def test_two_steps_then_resumed_to_four_equals_four_in_one_go(lrem, query_folder, start, tmp_path, stage) -> None:
    steps = ("--stage", stage, "--max_steps", "4", "--save_strategy", "steps", "--save_steps", "2")
    options = _second(start) if stage == "rl" else steps
    whole = _run(lrem, query_folder, tmp_path / "whole", *options)
    broken = tmp_path / "broken"
    _run(lrem, query_folder, broken, *options)
    for name in ("report.txt", "metrics.json", "model.safetensors"):  # as if the run had died after its second step
        (broken / name).unlink()
    shutil.rmtree(broken / "checkpoint-4")
    resumed = _run(lrem, query_folder, broken, *options)
    assert resumed["results"] == whole["results"]
    for name in ("model.safetensors", "item_embeddings/embeddings.safetensors"):
        assert (broken / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def test_killed_again_and_again_it_ends_with_the_same_bytes(query_folder, tmp_path) -> None:
    def argv(output: Path) -> list[str]:
        steps = ("--max_steps", "6", "--save_strategy", "steps", "--save_steps", "2", "--stage", "cold_start")
        return ["--queries_dir", str(query_folder), "--output_dir", str(output), *TINY, *steps]

    log, whole, broken = tmp_path / "log", tmp_path / "whole", tmp_path / "broken"
    assert run(argv(whole), log, recipe="lrem") == [0], log.read_text()
    for die in (die_while_writing_the_optimizer, die_before_the_checkpoint_is_marked):
        assert run(argv(broken), log, die, recipe="lrem") == [-9], log.read_text()
        assert complete_checkpoints(broken)
    assert run(argv(broken), log, recipe="lrem") == [0], log.read_text()
    for name in ("model.safetensors", "item_embeddings/embeddings.safetensors"):
        assert (broken / name).read_bytes() == (whole / name).read_bytes()


@pytest.mark.parametrize(
    "options",
    [("--reasoning", "False"), ("--hard_negatives", "2", "--rows_at_a_time", "5"), ("--descriptions", "True")],
    ids=["no_reasoning", "hard_negatives_in_parts", "descriptions"],
)
def test_every_way_to_train_runs(lrem, query_folder, tmp_path, options) -> None:
    metrics = _run(lrem, query_folder, tmp_path, "--stage", "cold_start", "--max_steps", "2", *options)
    assert metrics["protocol"]["reasoning"] == ("--reasoning" not in options)
    assert ("lrem, thoughts: empty" in metrics["results"]) == metrics["protocol"]["reasoning"]


def test_lora_of_both_stages_leaves_plain_checkpoints(lrem, query_folder, tmp_path) -> None:
    pretrained = make_pretrained(tmp_path / "pretrained", "qwen3", ["Thing red, warm, size 1", "something like fire"])
    lora = ("--use_peft", "True", "--lora_r", "4")
    named = ("--stage", "cold_start", "--model_name_or_path", str(pretrained), "--max_steps", "2")
    for folder, options in (("first", named), ("second", _second(tmp_path / "first"))):
        metrics = _run(lrem, query_folder, tmp_path / folder, *options, *lora)
        assert metrics["protocol"]["tuning"] == "LoRA"
        checkpoint = load_checkpoint(tmp_path / folder)
        assert not any("lora" in name for name, _ in checkpoint.model.named_parameters())


def test_what_would_fail_after_training_is_refused_before(lrem, query_folder, tmp_path) -> None:
    plain, unknown, large = tmp_path / "plain", tmp_path / "unknown.yaml", tmp_path / "large.yaml"
    unknown.write_text("nonsense: 1\n")
    large.write_text("per_device_train_batch_size: 512\n")
    _run(lrem, query_folder, plain, "--stage", "cold_start", "--max_steps", "1", "--reasoning", "False")
    for options, message in (
        (["--stage", "rl"], "name its --model_name_or_path"),
        (["--stage", "rl", "--model_name_or_path", str(plain)], "no LREM that thinks"),
        (["--reasoning", "False"], "nothing to reinforce"),
        (["--stage", "cold_start", "--rl_config", "x.yaml"], "for --stage both"),
        (["--save_strategy", "no"], "steps or epoch"),
        (["--load_in_4bit", "True"], "for a pretrained model only"),
        (["--hard_negatives", "-1"], "hard_negatives is -1"),
        (["--stage", "cold_start", "--temperature", "0"], "temperature is 0.0"),
        (["--rl_config", str(unknown)], "nonsense"),
        (["--rl_config", str(large)], "A batch holds 64 queries of the rl split, and there are 32"),
    ):
        with pytest.raises(ValueError, match=message):
            _run(lrem, query_folder, tmp_path / "out", *options)
    assert not (tmp_path / "out").exists()


def test_the_second_stage_is_refused_where_it_was_seen_to_hang(lrem, tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("ACCELERATE_USE_DEEPSPEED", "true")
    monkeypatch.setenv("ACCELERATE_DEEPSPEED_ZERO_STAGE", "3")
    args, config, model_args = lrem.parse_arguments(["--output_dir", str(tmp_path)])
    with pytest.raises(ValueError, match="does not run under ZeRO-3: launch with"):
        lrem.check_arguments(args, config, model_args)


def test_two_processes_train_as_one_does(query_folder, start, tmp_path) -> None:
    """With gathered negatives the first stage has the same loss; the second runs on both, sharded."""
    tiny = TINY[: TINY.index("--per_device_train_batch_size")] + TINY[TINY.index("--max_text_tokens") :]
    shared = ("--queries_dir", str(query_folder), *tiny, "--max_steps", "4", "--save_strategy", "steps")
    shared += ("--save_steps", "2", "--logging_steps", "1")
    first = (*shared, "--stage", "cold_start", "--gather_negatives", "True")
    second = (*shared, "--stage", "rl", "--model_name_or_path", str(start), "--num_generations", "4")
    for name, processes in (("cpu", 1), ("cpu_2proc", 2)):
        Launch(name, processes, first, recipe="lrem").run(tmp_path / name, tmp_path / f"{name}.log")
    assert largest_difference(losses(tmp_path / "cpu_2proc"), losses(tmp_path / "cpu")) < 1e-3
    found, expected = (
        json.loads((tmp_path / name / "metrics.json").read_text())["results"] for name in ("cpu_2proc", "cpu")
    )
    assert found["bm25"] == expected["bm25"]
    assert found["lrem"]["ndcg@10"] == pytest.approx(expected["lrem"]["ndcg@10"], abs=0.05)
    assert (tmp_path / "cpu_2proc.log").read_text().count("32 queries") == 1, "one process reports"
    Launch("fsdp2", 2, second, recipe="lrem").run(tmp_path / "rl", tmp_path / "rl.log")
    assert (tmp_path / "rl" / "item_embeddings/embeddings.safetensors").is_file()
