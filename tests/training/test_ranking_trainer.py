"""What the trainers train on: packed, grouped and plain batches of the same examples, and which models take which."""

from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import Trainer
from trl import ModelConfig

from llmrec.prompts.history import history_prompt
from llmrec.prompts.renderer import SegmentRenderer
from llmrec.training.arguments import LCRecSFTConfig, RecommendationSFTConfig
from llmrec.training.distillation import ItemKNNTeacher
from llmrec.training.epochs import EpochExamples
from llmrec.training.examples import ExampleSource, HistoryWindows, TargetExamples
from llmrec.training.ranking_trainer import build_trainer
from llmrec.training.tuning import adapter_config
from llmrec.training.varlen_attention import register_varlen_attention
from tests.tiny import make_catalog, make_model

CATALOG = make_catalog(num_items=30)


def _trainer(
    tmp_path, source=HistoryWindows, architecture: str = "qwen3", lora: bool = False, attention: str = "sdpa", **options
) -> Trainer:
    model, tokenizer, vocabulary = make_model(CATALOG, architecture)
    register_varlen_attention()
    model.set_attn_implementation(attention)
    renderer = SegmentRenderer(CATALOG, vocabulary)
    kind = LCRecSFTConfig if "muon" in options else RecommendationSFTConfig
    config = kind(output_dir=str(tmp_path), save_strategy="no", disable_tqdm=True, logging_steps=1, **options)
    is_encoder_decoder = model.config.is_encoder_decoder
    examples = EpochExamples([_source(source, renderer)], tokenizer.eos_token_id, is_encoder_decoder, 64)
    adapter = adapter_config(ModelConfig(use_peft=lora, lora_dropout=0.0), model, vocabulary.new_token_ids)
    return build_trainer(model, tokenizer, config, examples, None, None, None, adapter)


def _source(kind: type[ExampleSource], renderer: SegmentRenderer) -> ExampleSource:
    rng = np.random.default_rng(0)
    sequences = [[str(item) for item in rng.permutation(30)[: rng.integers(3, 12)]] for _ in range(80)]
    if kind is HistoryWindows:
        return HistoryWindows(sequences, renderer, 12, seed=0)
    targets = [sequence[-1] for sequence in sequences]
    return TargetExamples([s[:-1] for s in sequences], targets, history_prompt, renderer, ends=True)


def _pass_loss(trainer: Trainer) -> float:
    """Mean loss of a target over one pass, as training computes it, in the trainer's own batches."""
    total, targets = 0.0, 0
    trainer.model.eval()
    for batch in trainer.get_train_dataloader():
        count = (batch["labels"][:, 1:] != -100).sum() if "position_ids" in batch else (batch["labels"] != -100).sum()
        with torch.no_grad():
            total += float(trainer.compute_loss(trainer.model, batch)) * int(count)
        targets += int(count)
    return total / targets


@pytest.mark.parametrize("source", [HistoryWindows, TargetExamples])
def test_packed_and_grouped_batches_have_the_loss_of_plain_ones(tmp_path, source) -> None:
    plain = _pass_loss(_trainer(tmp_path, source, per_device_train_batch_size=4))
    packed = _pass_loss(_trainer(tmp_path, source, per_device_train_batch_size=2, packing=True))
    grouped = _pass_loss(
        _trainer(tmp_path, source, per_device_train_batch_size=4, train_sampling_strategy="group_by_length")
    )
    assert packed == pytest.approx(plain, abs=1e-4)
    assert grouped == pytest.approx(plain, abs=1e-4)


def _train_loss(trainer: Trainer) -> float:
    """As ``_pass_loss``, of a model in training that drops nothing."""
    total, targets = 0.0, 0
    trainer.model.train()
    for batch in trainer.get_train_dataloader():
        count = int((batch["labels"][:, 1:] != -100).sum())
        with torch.no_grad():
            total += float(trainer.compute_loss(trainer.model, batch, num_items_in_batch=count)) * count
        targets += count
    return total / targets


def test_a_teacher_moves_the_loss_of_training_alike_in_all_batches_and_not_that_of_validation(tmp_path) -> None:
    def distilled(**options) -> Trainer:
        trainer = _trainer(tmp_path, **options)
        renderer = trainer.train_examples.sources[0].renderer
        sequences = [[int(item) for item in s] for s in trainer.train_examples.sources[0].windows.sequences]
        trainer.teacher = ItemKNNTeacher(sequences, renderer.vocabulary.item_token_ids(CATALOG.semantic_ids), 0.5)
        return trainer

    plain = _train_loss(distilled(per_device_train_batch_size=4))
    assert _train_loss(distilled(per_device_train_batch_size=2, packing=True)) == pytest.approx(plain, abs=1e-4)
    untaught = _trainer(tmp_path, per_device_train_batch_size=4)
    assert plain != pytest.approx(_train_loss(untaught), abs=1e-3)
    assert _pass_loss(distilled(per_device_train_batch_size=4)) == pytest.approx(_pass_loss(untaught), abs=1e-6)


def test_packing_takes_fewer_rows_and_grouping_less_padding(tmp_path) -> None:
    def shapes(**options) -> list[tuple[int, ...]]:
        loader = _trainer(tmp_path, **options).get_train_dataloader()
        return [tuple(batch["input_ids"].shape) for batch in loader]

    plain, packed = shapes(per_device_train_batch_size=4), shapes(per_device_train_batch_size=4, packing=True)
    grouped = shapes(per_device_train_batch_size=4, train_sampling_strategy="group_by_length")
    assert sum(rows for rows, _ in packed) < sum(rows for rows, _ in plain) == sum(rows for rows, _ in grouped) == 80
    tokens = [sum(rows * length for rows, length in batches) for batches in (plain, grouped, packed)]
    assert tokens[1] < tokens[0]
    assert tokens[2] < tokens[0]


def test_grouping_leaves_packed_rows_as_they_are(tmp_path) -> None:
    def batches(**options) -> list[list[list[int]]]:
        loader = _trainer(tmp_path, packing=True, per_device_train_batch_size=4, **options).get_train_dataloader()
        return [batch["input_ids"].tolist() for batch in loader]

    assert batches(train_sampling_strategy="group_by_length") == batches()


def test_packing_is_refused_for_an_encoder_decoder(tmp_path) -> None:
    with pytest.raises(ValueError, match=r"decoder-only.*group_by_length"):
        _trainer(tmp_path, TargetExamples, architecture="t5", packing=True)


@pytest.mark.parametrize("options", [{"packing": True}, {"packing": True, "max_steps": 30}, {"max_steps": 30}])
def test_it_trains_over_several_epochs_with_all_of_them_tokenized_before(tmp_path, options) -> None:
    trainer = _trainer(tmp_path, per_device_train_batch_size=4, num_train_epochs=3, **options)
    callback = next(c for c in trainer.callback_handler.callbacks if hasattr(c, "examples"))
    before = set(callback.examples._tokenized)
    trainer.train()
    assert set(callback.examples._tokenized) == before
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    assert losses[-1] < losses[0]


def _losses(trainer: Trainer) -> list[float]:
    trainer.train()
    return [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]


@pytest.mark.parametrize("architecture", ["qwen3", "t5"])
@pytest.mark.parametrize("lora", [False, True])
def test_gradient_checkpointing_changes_no_loss_and_bf16_little(tmp_path, architecture, lora) -> None:
    def losses(**options) -> list[float]:
        # Adam would turn the sign of a gradient near 0 into a whole step
        return _losses(_trainer(tmp_path, TargetExamples, architecture, lora, max_steps=4, optim="sgd", **options))

    plain = losses()
    assert losses(gradient_checkpointing=True) == pytest.approx(plain, abs=1e-5)
    assert losses(bf16=True) == pytest.approx(plain, rel=0.05)


def test_gradient_accumulation_weighs_every_target_alike(tmp_path) -> None:
    options = {"max_steps": 3, "optim": "sgd"}
    for architecture in ("qwen3", "t5"):
        whole = _trainer(tmp_path, TargetExamples, architecture, per_device_train_batch_size=16, **options)
        split = {"per_device_train_batch_size": 4, "gradient_accumulation_steps": 4}
        parts = _trainer(tmp_path, TargetExamples, architecture, **split, **options)
        assert _losses(parts) == pytest.approx(_losses(whole), abs=1e-4)


def test_varlen_attention_needs_a_gpu(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    with pytest.raises(ValueError, match=r"needs a CUDA GPU.*sdpa"):
        _trainer(tmp_path, attention="varlen", packing=True)


def test_every_trained_weight_is_muons_or_the_others(tmp_path: Path) -> None:
    trainer = _trainer(tmp_path, HistoryWindows, muon=True)
    optimizer = trainer.create_optimizer()
    names = {id(weight): name for name, weight in trainer.model.named_parameters()}
    found = [names[id(weight)] for group in optimizer.param_groups for weight in group["params"]]
    assert sorted(found) == sorted(names.values())
    matrices = {names[id(weight)] for group in optimizer.muon.param_groups for weight in group["params"]}
    assert matrices == {name for name in found if name.endswith("_proj.weight")}
    assert [group["weight_decay"] for group in optimizer.rest.param_groups] == [trainer.args.weight_decay, 0.0]


def test_muon_is_not_for_encoder_decoders(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="--muon false"):
        _trainer(tmp_path, TargetExamples, architecture="t5", muon=True)
