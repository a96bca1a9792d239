"""The reinforcement stage of the recipe: from one of its checkpoints to a better one, or to the same."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
from safetensors.torch import load_file, save_file

from tests.recipes.conftest import ROOT, TINY

pytestmark = pytest.mark.slow

#: A few users at a time, so that an epoch of 60 has several steps.
SMALL = ["--num_generations", "4", "--per_device_train_batch_size", "48", "--num_train_epochs", "2"]


@pytest.fixture(scope="module")
def start(lcrec: ModuleType, ring_dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint of the first stage that knows something, and not all."""
    folder = tmp_path_factory.mktemp("start") / "sft"
    options = ["--num_train_epochs", "8", "--learning_rate", "3e-3", "--train_sampling_strategy", "random"]
    options += ["--dropout", "0", "--distillation", "0", "--start_from_codebooks", "false", "--muon", "false"]
    lcrec.main(["--dataset_dir", str(ring_dataset), "--output_dir", str(folder), *TINY, *options])
    return folder


def _options(dataset: Path, start: Path, output: Path, *options: str) -> list[str]:
    tiny = TINY[: TINY.index("--per_device_train_batch_size")] + TINY[TINY.index("--disable_tqdm") :]
    return [
        *("--stage", "rl", "--dataset_dir", str(dataset), "--model_name_or_path", str(start)),
        *("--output_dir", str(output), *tiny, *SMALL, *options),
    ]


def _validations(folder: Path) -> dict[int, float]:
    states = sorted(folder.glob("checkpoint-*/trainer_state.json"), key=lambda path: int(path.parent.name[11:]))
    log = json.loads(states[-1].read_text())["log_history"]
    return {entry["step"]: entry["eval_ndcg@10"] for entry in log if "eval_ndcg@10" in entry}


def _last_checkpoint(folder: Path) -> Path:
    return max(folder.glob("checkpoint-*"), key=lambda path: int(path.name[11:]))


def test_it_ranks_better_than_its_start_and_shows_both(lcrec, ring_dataset, start, tmp_path, capsys) -> None:
    options = _options(ring_dataset, start, tmp_path, "--learning_rate", "1e-3", "--num_train_epochs", "4")
    options += ["--seed", "1", "--codebook_size", "5"]  # whatever they are, the semantic IDs are the checkpoint's
    lcrec.main(options)
    changes = json.loads((tmp_path / "before_after.json").read_text())
    assert set(changes) == {"valid", "test"}
    assert changes["valid"]["ndcg@10"]["difference"] > 0
    validations = _validations(tmp_path)
    assert validations[0] == pytest.approx(changes["valid"]["ndcg@10"]["before"])
    assert max(validations.values()) == pytest.approx(changes["valid"]["ndcg@10"]["after"])
    printed = capsys.readouterr().out
    assert "valid hit_rate@20" in printed
    assert {"report.txt", "metrics.json", "model.safetensors", "llmrec.json"} <= {
        path.name for path in tmp_path.iterdir()
    }
    lcrec.main(options)  # finished: prints its report again
    assert "test ndcg@10" in capsys.readouterr().out


def test_where_no_checkpoint_is_better_the_start_is_kept(lcrec, ring_dataset, start, tmp_path) -> None:
    lcrec.main(_options(ring_dataset, start, tmp_path, "--learning_rate", "0"))
    changes = json.loads((tmp_path / "before_after.json").read_text())
    assert changes["valid"]["ndcg@10"]["difference"] == 0
    before, after = (load_file(folder / "model.safetensors") for folder in (start, tmp_path))
    assert all((after[name] == tensor).all() for name, tensor in before.items())


def test_the_start_is_no_validation_without_progress(lcrec, ring_dataset, start, tmp_path) -> None:
    options = ("--learning_rate", "0", "--early_stopping_patience", "1", "--num_train_epochs", "3")
    lcrec.main(_options(ring_dataset, start, tmp_path, *options))
    assert len(_validations(tmp_path)) == 2, "the start's own, and the one that it stops at"


def test_a_start_that_was_trained_anew_in_the_same_folder_is_refused(lcrec, ring_dataset, start, tmp_path) -> None:
    again = tmp_path / "start"
    shutil.copytree(start, again)
    lcrec.main(_options(ring_dataset, again, tmp_path / "rl"))
    (tmp_path / "rl" / "report.txt").unlink()
    weights = load_file(again / "model.safetensors")
    save_file({name: tensor + 0.01 for name, tensor in weights.items()}, again / "model.safetensors", {"format": "pt"})
    with pytest.raises(ValueError, match="fingerprints of start"):
        lcrec.main(_options(ring_dataset, again, tmp_path / "rl"))


@pytest.mark.parametrize("more", [("--beta", "0.01"), ("--rollouts", "samples")], ids=["KL", "samples"])
def test_resumed_after_its_first_epoch_it_ends_as_in_one_go(lcrec, ring_dataset, start, tmp_path, more) -> None:
    options = ("--learning_rate", "1e-3", *more)
    lcrec.main(_options(ring_dataset, start, tmp_path / "whole", *options))
    broken = tmp_path / "broken"
    shutil.copytree(tmp_path / "whole", broken)
    for name in ("report.txt", "metrics.json", "model.safetensors"):
        (broken / name).unlink()
    last = _last_checkpoint(broken)
    shutil.rmtree(last)
    lcrec.main(_options(ring_dataset, start, broken, *options))
    assert _validations(broken) == _validations(tmp_path / "whole")
    whole, resumed = (load_file(tmp_path / name / last.name / "model.safetensors") for name in ("whole", "broken"))
    assert all((resumed[name] == tensor).all() for name, tensor in whole.items())


def test_lora_trains_an_adapter_on_the_checkpoint(lcrec, ring_dataset, start, tmp_path) -> None:
    options = ("--use_peft", "True", "--lora_r", "4", "--learning_rate", "3e-3", "--beta", "0.01")
    lcrec.main(_options(ring_dataset, start, tmp_path, *options))
    before, after = (load_file(folder / "model.safetensors") for folder in (start, tmp_path))
    assert set(after) == set(before)
    assert any((after[name] != tensor).any() for name, tensor in before.items()), "nothing was learned"


def test_two_processes_train_the_model_that_one_trains(lcrec, ring_dataset, start, tmp_path) -> None:
    steps = ("--learning_rate", "1e-3", "--num_train_epochs", "1")
    lcrec.main(_options(ring_dataset, start, tmp_path / "one", *steps))
    options = _options(ring_dataset, start, tmp_path / "two", *steps, "--per_device_train_batch_size", "24")
    launch = [sys.executable, "-m", "accelerate.commands.launch", "--config_file", "accelerate_configs/cpu_2proc.yaml"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "passive"}
    subprocess.run([*launch, "recipes/lcrec.py", *options], cwd=ROOT, env=environment, check=True)
    one, two = (load_file(_last_checkpoint(tmp_path / name) / "model.safetensors") for name in ("one", "two"))
    before = load_file(start / "model.safetensors")
    moved = sum(float((one[name] - before[name]).norm()) for name in one)
    apart = sum(float((one[name] - two[name]).norm()) for name in one)
    assert apart < 0.02 * moved


def test_a_start_that_does_not_fit_is_refused(lcrec, ring_dataset, start, tmp_path) -> None:
    for options, message in [
        (("--history_loss", "prefix"), "was trained with history_loss 'all'"),
        (("--max_history", "7"), "was trained with max_history 10"),
    ]:
        with pytest.raises(ValueError, match=message):
            lcrec.main(_options(ring_dataset, start, tmp_path, *options))
    with pytest.raises(ValueError, match="--model_name_or_path"):
        lcrec.main(["--stage", "rl", "--output_dir", str(tmp_path)])


def test_help_teaches_the_options_of_both_stages(lcrec, capsys) -> None:
    for options, known in [([], "--packing"), (["--stage", "rl"], "--num_generations")]:
        with pytest.raises(SystemExit):
            lcrec.parse_arguments([*options, "--help"])
        printed = capsys.readouterr().out
        assert known in printed
        assert "--stage rl --help" in printed
