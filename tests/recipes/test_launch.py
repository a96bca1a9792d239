"""Real launches on two CPU processes: the curve of one process, one set of files, whole weights, the same lists."""

import json
import subprocess
from pathlib import Path
from types import ModuleType

import pytest
from safetensors import safe_open
from transformers import AutoModelForCausalLM

from benchmarks.launch_curves import Launch, kill, largest_difference, losses, weight_difference
from llmrec.dataset import RecDataset
from llmrec.evaluation import Evaluator
from llmrec.evaluation.recommender import Recommender
from llmrec.prompts.history import history_prompt
from llmrec.prompts.renderer import SegmentRenderer
from tests.recipes.conftest import TINY
from tests.recipes.recipe_process import free_port
from tests.tiny import make_catalog, make_model, make_pretrained
from tests.training.test_processes import pretend

OPTIONS = (
    *("--max_steps", "4", "--save_strategy", "steps", "--save_steps", "2", "--logging_steps", "1"),
    *("--train_sampling_strategy", "random"),  # grouped batches depend on the number of processes
    *("--muon", "false"),  # which launches that shard refuse
)
NO_DROPOUT = ("--dropout", "0")  # each process draws its own


def test_two_processes_rank_every_user_as_one_does(
    monkeypatch: pytest.MonkeyPatch, lcrec: ModuleType, ring_dataset: Path
) -> None:
    """To the last bit, whatever the shares: ``gather_rows`` then only adds what the other process has left at 0."""
    dataset = RecDataset.load(ring_dataset)
    catalog = make_catalog(40, (8, 8), titles=[f"Stop {item}" for item in range(40)])
    model, _, vocabulary = make_model(catalog)
    recommender = Recommender(SegmentRenderer(catalog, vocabulary), history_prompt, 10, 20, batch_size=8)
    evaluator = Evaluator(dataset, catalog.item_ids, "test", ks=(10,))
    whole = lcrec.rank_users(recommender, model, evaluator)
    parts = []
    for index in range(2):
        pretend(monkeypatch, index, 2)
        parts.append(lcrec.rank_users(recommender, model, evaluator))
    assert (parts[0] + parts[1] == whole).all()
    assert all((part != 0).any() for part in parts)


def _options(dataset: Path, *more: str) -> tuple[str, ...]:
    return ("--dataset_dir", str(dataset), *TINY, *OPTIONS, *more)


@pytest.fixture(scope="module")
def outputs(ring_dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with the output of one process, ``cpu``."""
    folder = tmp_path_factory.mktemp("launches")
    Launch("cpu", 1, _options(ring_dataset, *NO_DROPOUT)).run(folder / "cpu", folder / "cpu.log")
    return folder


def _same_run(output: Path, single: Path) -> None:
    assert largest_difference(losses(output), losses(single)) < 1e-5
    assert weight_difference(output, single) < 1e-4
    assert _files(output) == _files(single)
    results, expected = (json.loads((folder / "metrics.json").read_text())["results"] for folder in (output, single))
    assert results["lcrec"]["ndcg@10"] == pytest.approx(expected["lcrec"]["ndcg@10"], abs=0.02)
    assert results["popularity"] == expected["popularity"]
    AutoModelForCausalLM.from_pretrained(output)


def _files(output: Path) -> list[str]:
    files = (path.relative_to(output).as_posix() for path in output.rglob("*") if path.is_file())
    return sorted(name for name in files if not name.startswith("checkpoint-"))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["cpu_2proc", "zero2", "zero3", "fsdp2"])
def test_two_processes_train_as_one_does(outputs: Path, ring_dataset: Path, name: str) -> None:
    if name.startswith("zero"):
        pytest.importorskip("deepspeed", reason="needs the deepspeed extra")
    log = outputs / f"{name}.log"
    Launch(name, 2, _options(ring_dataset, *NO_DROPOUT)).run(outputs / name, log)
    _same_run(outputs / name, outputs / "cpu")
    assert log.read_text().count("The floor item_knn") == 1, "one process reports"


@pytest.mark.slow
def test_two_machines_train_as_one_does(outputs: Path, ring_dataset: Path) -> None:
    """Two launches on this machine, as two machines that share a folder."""
    output, port = outputs / "multi_node", str(free_port())
    address = ("--main_process_ip", "127.0.0.1", "--main_process_port", port)
    first, second = (
        Launch("multi_node", 2, _options(ring_dataset, *NO_DROPOUT), (*address, "--machine_rank", str(rank)))
        for rank in range(2)
    )
    other: subprocess.Popen[bytes] = second.start(output, outputs / "second.log")
    try:
        first.run(output, outputs / "first.log")
        assert other.wait(timeout=60) == 0
    finally:
        if other.poll() is None:
            kill(other)
    _same_run(output, outputs / "cpu")


@pytest.mark.slow
def test_lora_under_zero3_is_resumed_after_a_kill_and_merged_into_whole_weights(
    lcrec: ModuleType, ring_dataset: Path, tmp_path: Path
) -> None:
    pytest.importorskip("deepspeed", reason="needs the deepspeed extra")
    pretrained = make_pretrained(tmp_path / "pretrained", "qwen3", ["Stop 1 of the ring", "some other text"])
    lora = ("--model_name_or_path", str(pretrained), "--use_peft", "True", "--lora_r", "4", "--lora_dropout", "0")
    options = _options(ring_dataset, *lora)
    launch, sharded, single = Launch("zero3", 2, options), tmp_path / "zero3", tmp_path / "single"
    assert launch.kill_after_first_checkpoint(sharded, tmp_path / "log") == 2
    launch.run(sharded, tmp_path / "log")
    lcrec.main([*options, "--per_device_train_batch_size", "16", "--output_dir", str(single)])
    assert largest_difference(losses(sharded), losses(single)) < 1e-5
    assert weight_difference(sharded, single) < 1e-4
    assert _files(sharded) == _files(single)
    rows = len(AutoModelForCausalLM.from_pretrained(sharded).get_input_embeddings().weight)
    with safe_open(sharded / "adapter" / "adapter_model.safetensors", "pt") as adapter:
        assert all(rows not in adapter.get_slice(name).get_shape() for name in adapter.keys())  # noqa: SIM118
