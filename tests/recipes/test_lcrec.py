"""The recipe end to end on a small dataset: results, resuming, tuning modes, and a checkpoint that stands alone."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
from safetensors import safe_open
from transformers import AutoModelForCausalLM, AutoModelForSeq2SeqLM, AutoTokenizer

from llmrec.catalog import Catalog
from llmrec.dataset import RecDataset
from llmrec.evaluation import Evaluator
from llmrec.hub import load_checkpoint
from llmrec.prompts.lcrec import TASKS
from llmrec.serving.checkpoint import open_served
from tests.data_prep.test_scripts import load_script
from tests.recipes.conftest import ROOT, TINY
from tests.tiny import make_pretrained

pytestmark = pytest.mark.slow


def _run(lcrec: ModuleType, dataset: Path, output: Path, *options: str) -> dict:
    lcrec.main(["--dataset_dir", str(dataset), "--output_dir", str(output), *TINY, *options])
    return json.loads((output / "metrics.json").read_text())


def _results(metrics: dict) -> dict:
    return metrics["results"]["lcrec"]


def test_it_learns_the_rule_and_leaves_what_the_contract_says(lcrec, ring_dataset, tmp_path, capsys) -> None:
    options = ("--num_train_epochs", "25", "--dropout", "0")  # which a model this small can't spare
    metrics = _run(lcrec, ring_dataset, tmp_path / "out", *options)
    assert set(metrics) == {"protocol", "split_fingerprint", "results", "seconds", "less_floor"}
    assert {"lcrec", "popularity", "item_knn"} <= set(metrics["results"])
    assert _results(metrics)["hit_rate@10"] > 0.8
    assert _results(metrics)["valid_rate"] == 1.0
    assert metrics["protocol"]["refit"] is False
    assert metrics["protocol"]["tuning"] == "full"
    assert "Stop" in capsys.readouterr().out
    for name in ("report.txt", "comparison.png", "catalog.parquet", "llmrec.json", "prompts.json", "README.md"):
        assert (tmp_path / "out" / name).stat().st_size > 0
    _run(lcrec, ring_dataset, tmp_path / "out", *options)  # finished: prints its report again
    assert "ndcg@10" in capsys.readouterr().out


def test_early_stopping_sees_the_ranking_metric(lcrec, ring_dataset, tmp_path) -> None:
    options = ("--num_train_epochs", "6", "--early_stopping_patience", "1", "--learning_rate", "0")
    _run(lcrec, ring_dataset, tmp_path, *options)
    assert len(_validation(tmp_path)) == 2, "a model that does not learn is stopped after its second validation"


def test_two_steps_then_resumed_to_four_equals_four_in_one_go(lcrec, ring_dataset, tmp_path) -> None:
    steps = ("--save_strategy", "steps", "--save_steps", "2", "--max_steps", "4")
    whole = _run(lcrec, ring_dataset, tmp_path / "whole", *steps)
    broken = tmp_path / "broken"
    _run(lcrec, ring_dataset, broken, *steps)
    for name in ("report.txt", "metrics.json", "model.safetensors"):  # as if the run had died after its second step
        (broken / name).unlink()
    shutil.rmtree(broken / "checkpoint-4")
    resumed = _run(lcrec, ring_dataset, broken, *steps)
    assert resumed["results"] == whole["results"]


def _validation(output: Path) -> list[tuple[float, float]]:
    last = max(output.glob("checkpoint-*"), key=lambda path: int(path.name.split("-")[1]))
    history = json.loads((last / "trainer_state.json").read_text())["log_history"]
    return [(entry["epoch"], entry["eval_ndcg@10"]) for entry in history if "eval_ndcg@10" in entry]


def test_what_is_kept_on_disk_may_change_between_two_calls_of_a_run(lcrec, ring_dataset, tmp_path) -> None:
    _run(lcrec, ring_dataset, tmp_path, "--max_steps", "1")
    _run(lcrec, ring_dataset, tmp_path, "--max_steps", "1", "--save_total_limit", "1", "--save_only_model", "True")


def test_other_options_in_the_same_folder_are_refused(lcrec, ring_dataset, tmp_path) -> None:
    _run(lcrec, ring_dataset, tmp_path, "--max_steps", "1")
    with pytest.raises(ValueError, match=r"max_steps: 1 -> 2.*--output_dir"):
        _run(lcrec, ring_dataset, tmp_path, "--max_steps", "2")


def test_what_would_fail_after_training_is_refused_before(lcrec, ring_dataset, tmp_path) -> None:
    for options, message in (
        (["--num_beams", "10"], "num_beams is 10"),
        (["--tasks", "nextitem"], "nextitem"),
        (["--save_strategy", "no"], "steps or epoch"),
        (["--fusion_weight", "1"], "fusion_weight is 1.0; allowed is 0"),
        (["--refit", "True"], "can't choose a fusion_weight"),
        (["--semantic_ids_column", "sid"], "semantic_ids_column: where IDs stand"),
        (["--use_peft", "True", "--load_in_4bit", "True"], "load_in_4bit: for a pretrained model only"),
        (["--attn_implementation", "varlen"], "attn_implementation: for a pretrained model only"),
        (["--architecture", "t5"], "--history_loss prefix"),
        (["--dataloader_num_workers", "1", "--dataloader_persistent_workers", "True"], "persistent_workers"),
    ):
        with pytest.raises(ValueError, match=message):
            _run(lcrec, ring_dataset, tmp_path / "out", *options)
    assert not (tmp_path / "out").exists()


def test_the_same_seed_gives_the_same_numbers_and_refit_says_so(lcrec, ring_dataset, tmp_path) -> None:
    options = ("--num_train_epochs", "2", "--refit", "True", "--fusion_weight", "0.5")
    first = _run(lcrec, ring_dataset, tmp_path / "first", *options)
    second = _run(lcrec, ring_dataset, tmp_path / "second", *options)
    assert first["results"] == second["results"]
    assert first["protocol"]["refit"] is True
    assert list(first["results"]) == ["lcrec+item_knn", "lcrec", "popularity", "item_knn", "item_knn_refit"]
    assert load_checkpoint(tmp_path / "first").fusion.weight == 0.5


def test_validation_mixes_in_item_knn_where_it_helps_and_the_checkpoint_answers_so(
    lcrec, ring_dataset, tmp_path
) -> None:
    metrics = _run(lcrec, ring_dataset, tmp_path, "--max_steps", "2")
    weight = metrics["protocol"]["fusion_weight"]
    fused = metrics["results"]["lcrec+item_knn"]
    assert load_checkpoint(tmp_path).fusion.weight == weight > 0
    tried = metrics["protocol"]["valid_ndcg@10_by_weight"]
    assert max(tried, key=tried.get) == str(weight)
    assert fused["ndcg@10"] > _results(metrics)["ndcg@10"]
    served = open_served(str(tmp_path))
    evaluator = Evaluator(RecDataset.load(ring_dataset), served.catalog.item_ids)
    lists = served.recommender().recommend(
        served.load_model(), evaluator.histories, max(evaluator.ks), evaluator.seen, progress=False
    )
    assert evaluator.evaluate("served", lists).metrics["ndcg@10"] == pytest.approx(fused["ndcg@10"])


def test_the_stage_as_the_readme_has_it_makes_what_the_recipe_reads(lcrec, ring_dataset, monkeypatch) -> None:
    readme = (ROOT / "README.md").read_text()
    [options] = re.findall(r"^python data_prep/semantic_ids.py --dataset_dir \S+ (.+)$", readme, re.MULTILINE)
    stage = load_script("semantic_ids")
    made = []
    monkeypatch.setattr(stage, "build_catalog", lambda _, folder, *__: made.append(folder) or sys.exit())
    monkeypatch.setattr("llmrec.recipe.data.build_catalog", stage.build_catalog)
    with pytest.raises(SystemExit):
        stage.main(["--dataset_dir", str(ring_dataset), *options.split()])
    args, config, _ = lcrec.parse_arguments(["--config", str(ROOT / "recipes/configs/lcrec/ml-100k_strict.yaml")])
    with pytest.raises(SystemExit):
        lcrec.open_catalog(args, RecDataset.load(ring_dataset), config.seed)
    assert made[0] == made[1]


def test_semantic_ids_from_elsewhere(lcrec, ring_dataset, tmp_path) -> None:
    item_ids = RecDataset.load(ring_dataset).items["item_id"].to_pylist()
    rows = [{"item_id": item_id, "sid": [f"<a_{n % 7}>", f"<b_{n // 7}>"]} for n, item_id in enumerate(item_ids)]
    (tmp_path / "ids.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    options = ("--max_steps", "2", "--semantic_ids_file", str(tmp_path / "ids.jsonl"), "--semantic_ids_column", "sid")
    metrics = _run(lcrec, ring_dataset, tmp_path / "out", *options)
    assert _results(metrics)["valid_rate"] == 1.0
    checkpoint = load_checkpoint(tmp_path / "out")
    assert checkpoint.catalog.semantic_ids.tolist() == [[n % 7, n // 7] for n in range(len(item_ids))]
    assert checkpoint.item_tokenizer_folder is None
    assert "another item tokenizer made" in (tmp_path / "out" / "README.md").read_text()


def test_all_six_tasks_over_prefixes(lcrec, ring_dataset, tmp_path) -> None:
    metrics = _run(lcrec, ring_dataset, tmp_path, "--history_loss", "prefix", "--tasks", *TASKS, "--max_steps", "2")
    assert _results(metrics)["valid_rate"] == 1.0
    assert metrics["protocol"]["history_loss"] == "prefix"


def test_a_t5_trained_on_histories_is_the_tiger_baseline_and_loads_as_seq2seq(lcrec, ring_dataset, tmp_path) -> None:
    metrics = _run(
        lcrec, ring_dataset, tmp_path, "--architecture", "t5", "--history_loss", "prefix", "--max_steps", "2"
    )
    assert _results(metrics)["valid_rate"] == 1.0
    assert AutoModelForSeq2SeqLM.from_pretrained(tmp_path).config.model_type == "t5"
    with pytest.raises(ValueError, match="--history_loss prefix"):
        _run(lcrec, ring_dataset, tmp_path / "all", "--architecture", "t5", "--history_loss", "all")


@pytest.fixture(scope="module")
def pretrained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_pretrained(tmp_path_factory.mktemp("pretrained"), "qwen3", ["Stop 1 of the ring", "some other text"])


@pytest.mark.parametrize("bits", ["lora", "lora-4bit"])
def test_lora_leaves_a_plain_checkpoint_and_a_small_adapter(lcrec, ring_dataset, tmp_path, pretrained, bits) -> None:
    options = ["--model_name_or_path", str(pretrained), "--use_peft", "True", "--lora_r", "4", "--max_steps", "2"]
    if bits == "lora-4bit":
        pytest.importorskip("bitsandbytes", reason="4-bit weights need the bnb extra")
        options += ["--load_in_4bit", "True"]
    metrics = _run(lcrec, ring_dataset, tmp_path, *options)
    assert metrics["protocol"]["tuning"] == ("LoRA" if bits == "lora" else "4-bit LoRA")
    model = AutoModelForCausalLM.from_pretrained(tmp_path)
    rows = model.get_input_embeddings().weight.shape[0]
    assert rows == len(AutoTokenizer.from_pretrained(tmp_path))
    with safe_open(tmp_path / "adapter" / "adapter_model.safetensors", "pt") as adapter:
        shapes = {name: adapter.get_slice(name).get_shape() for name in adapter.keys()}  # noqa: SIM118
    assert any("trainable_tokens" in name for name in shapes)
    assert all(rows not in shape for shape in shapes.values()), "a full embedding matrix is in the adapter"


def test_the_checkpoint_needs_transformers_only(lcrec, ring_dataset, tmp_path) -> None:
    _run(lcrec, ring_dataset, tmp_path, "--max_steps", "1")
    catalog = Catalog.load(tmp_path)
    code = (
        "import sys; sys.modules['llmrec'] = None\n"
        "from transformers import AutoModelForCausalLM, AutoTokenizer\n"
        f"tokenizer = AutoTokenizer.from_pretrained({str(tmp_path)!r})\n"
        f"model = AutoModelForCausalLM.from_pretrained({str(tmp_path)!r})\n"
        "ids = tokenizer('<a_0><b_1>', return_tensors='pt').input_ids\n"
        "assert ids.shape == (1, 2), ids\n"
        "print(tokenizer.decode(model.generate(ids, max_new_tokens=2, do_sample=False)[0]))"
    )
    output = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert output.stdout.startswith("<a_0><b_1>")
    assert len(catalog) == 40


def test_push_to_hub_sends_one_checkpoint_that_loads_by_name(ring_dataset, tmp_path, hub_environment) -> None:
    options = ["--dataset_dir", str(ring_dataset), "--output_dir", str(tmp_path / "out"), *TINY, "--max_steps", "1"]
    environment = {**os.environ, **hub_environment, "OMP_NUM_THREADS": "1"}
    push = ["--push_to_hub", "True", "--hub_model_id", "someone/lcrec-ring"]
    subprocess.run([sys.executable, "recipes/lcrec.py", *options, *push], cwd=ROOT, env=environment, check=True)
    code = (
        "from transformers import AutoModelForCausalLM, AutoTokenizer\n"
        "from llmrec.hub import load_checkpoint\n"
        "AutoModelForCausalLM.from_pretrained('someone/lcrec-ring')\n"
        "AutoTokenizer.from_pretrained('someone/lcrec-ring')\n"
        "checkpoint = load_checkpoint('someone/lcrec-ring')\n"
        "print(checkpoint.catalog.fingerprint, (checkpoint.folder / 'README.md').exists())"
    )
    loaded = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True, check=True
    )
    assert loaded.stdout.split() == [Catalog.load(tmp_path / "out").fingerprint, "True"]
