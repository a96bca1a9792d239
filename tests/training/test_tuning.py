"""Each tuning mode on small models: what it changes, how small its adapter is, and that merging changes no output."""

from pathlib import Path

import pytest
import torch
from peft import PeftModel
from safetensors import safe_open
from transformers import PreTrainedModel
from trl import ModelConfig

from llmrec.models.from_config import SmallModelConfig
from llmrec.prompts.history import history_prompt
from llmrec.prompts.renderer import SegmentRenderer
from llmrec.training.arguments import RecommendationSFTConfig
from llmrec.training.backbone import load_backbone
from llmrec.training.epochs import EpochExamples
from llmrec.training.examples import TargetExamples
from llmrec.training.ranking_trainer import build_trainer
from llmrec.training.tuning import adapter_config, merge_adapter, tuning_name
from llmrec.vocabulary import ItemVocabulary
from tests.tiny import make_catalog, make_pretrained

CATALOG = make_catalog(num_items=30)
LORA = {"use_peft": True, "lora_r": 4}


class Trained:
    """A model from a folder, trained for some steps in one mode."""

    def __init__(self, folder: Path, pretrained: Path, options: dict, vocabulary_only: bool) -> None:
        self.args = ModelConfig(model_name_or_path=str(pretrained), dtype="float32", **options)
        self.base, tokenizer, self.vocabulary = self.load(self.args)
        self.plain, _, _ = self.load(ModelConfig(model_name_or_path=str(pretrained), dtype="float32"))
        renderer = SegmentRenderer(CATALOG, self.vocabulary)
        histories = [[str(start), str(start + 1)] for start in range(20)]
        source = TargetExamples(histories, [str(s + 2) for s in range(20)], history_prompt, renderer, ends=False)
        examples = EpochExamples([source], tokenizer.eos_token_id, self.base.config.is_encoder_decoder, 64)
        config = RecommendationSFTConfig(
            output_dir=str(folder / "run"), max_steps=3, save_steps=3, save_strategy="steps", learning_rate=0.01
        )
        adapter = adapter_config(self.args, self.base, self.vocabulary.new_token_ids, vocabulary_only)
        trainer = build_trainer(self.base, tokenizer, config, examples, None, None, None, adapter)
        trainer.train()
        self.trained = trainer.accelerator.unwrap_model(trainer.model).eval()
        self.logits = self.score(self.trained)
        self.adapter = folder / "adapter"
        self.merged = merge_adapter(self.trained, self.adapter, self.args, lambda whole: self.load(whole)[0])

    @staticmethod
    def load(args: ModelConfig) -> tuple[PreTrainedModel, object, ItemVocabulary]:
        return load_backbone(args, SmallModelConfig(), CATALOG, "text", 0)

    def score(self, model: torch.nn.Module) -> torch.Tensor:
        ids = torch.arange(4, 64).reshape(4, 15)
        inputs = {"input_ids": ids}
        if model.config.is_encoder_decoder:
            inputs["decoder_input_ids"] = ids[:, :3]
        with torch.no_grad():
            return model(**inputs).logits

    def changed(self, part: str) -> set[int]:
        """Rows of the merged model's embedding ("input") or head ("output") that training changed."""
        before, after = (getattr(model, f"get_{part}_embeddings")().weight for model in (self.plain, self.merged))
        return set((before != after).any(1).nonzero().flatten().tolist())

    def bodies(self) -> list[str]:
        """Names of the merged model's other weights that training changed."""
        before = self.plain.state_dict()
        vocabulary = ("shared", "embed_tokens", "lm_head")
        return [
            name
            for name, weight in self.merged.state_dict().items()
            if not any(part in name for part in vocabulary) and not torch.equal(weight, before[name])
        ]


@pytest.fixture(scope="module", params=["qwen3", "qwen3_untied", "t5"])
def pretrained(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_pretrained(tmp_path_factory.mktemp("pretrained"), request.param, CATALOG.titles)


def _tied(pretrained: Path) -> bool:
    return "untied" not in pretrained.name


def test_full_tuning_comes_back_as_it_is(pretrained, tmp_path) -> None:
    run = Trained(tmp_path, pretrained, {}, vocabulary_only=False)
    assert run.merged is run.trained
    assert run.bodies()


@pytest.mark.parametrize("vocabulary_only", [False, True])
def test_an_adapter_changes_the_new_rows_only_is_small_and_merges_exactly(
    pretrained, tmp_path, vocabulary_only
) -> None:
    run = Trained(tmp_path, pretrained, {} if vocabulary_only else LORA, vocabulary_only)
    new = set(run.vocabulary.new_token_ids)
    assert run.changed("input") <= new
    assert run.changed("output") <= new
    assert run.changed("input"), "nothing was trained"
    assert bool(run.bodies()) is not vocabulary_only
    torch.testing.assert_close(run.score(run.merged), run.logits, rtol=1e-4, atol=1e-4)
    loaded = PeftModel.from_pretrained(run.plain, run.adapter).eval()
    torch.testing.assert_close(run.score(loaded), run.logits, rtol=1e-4, atol=1e-4)
    head, embedding = run.merged.get_output_embeddings(), run.merged.get_input_embeddings()
    assert (head.weight is embedding.weight) is _tied(pretrained)
    for place in (run.adapter, tmp_path / "run" / "checkpoint-3"):
        with safe_open(place / "adapter_model.safetensors", "pt") as adapter:
            shapes = [adapter.get_slice(name).get_shape() for name in adapter.keys()]  # noqa: SIM118
        assert all(len(embedding.weight) not in shape for shape in shapes), "a full embedding matrix is in the adapter"
        assert [shape for shape in shapes if len(new) in shape]


def test_an_adapter_over_4_bit_weights_merges_into_the_unquantized_base(pretrained, tmp_path) -> None:
    pytest.importorskip("bitsandbytes", reason="4-bit weights need the bnb extra")
    run = Trained(tmp_path, pretrained, {**LORA, "load_in_4bit": True}, vocabulary_only=False)
    assert run.changed("input") <= set(run.vocabulary.new_token_ids)
    assert run.bodies()
    loaded = PeftModel.from_pretrained(run.plain, run.adapter).eval()
    torch.testing.assert_close(run.score(run.merged), run.score(loaded), rtol=1e-4, atol=1e-4)


def test_the_modes_have_names_and_exclude_each_other(pretrained) -> None:
    lora = ModelConfig(model_name_or_path=str(pretrained), use_peft=True)
    assert tuning_name(ModelConfig(), False) == "full"
    assert tuning_name(ModelConfig(), True) == "vocabulary rows"
    assert tuning_name(lora, False) == "LoRA"
    assert tuning_name(ModelConfig(use_peft=True, load_in_4bit=True), False) == "4-bit LoRA"
    model, _, vocabulary = Trained.load(ModelConfig(model_name_or_path=str(pretrained)))
    with pytest.raises(ValueError, match="not both"):
        adapter_config(lora, model, vocabulary.new_token_ids, vocabulary_only=True)


def test_a_second_stage_starts_from_the_rows_of_the_first(pretrained, tmp_path) -> None:
    first = Trained(tmp_path / "first", pretrained, {}, vocabulary_only=True)
    folder = tmp_path / "checkpoint"
    first.merged.save_pretrained(folder)
    first.vocabulary.tokenizer.save_pretrained(folder)
    second = Trained(tmp_path / "second", folder, LORA, vocabulary_only=False)
    rows = first.merged.get_input_embeddings().weight
    assert torch.equal(second.plain.get_input_embeddings().weight, rows)
    assert second.bodies()
