"""What of a model is trained: all, LoRA with the new vocabulary rows, or these rows alone; and merging it back."""

from pathlib import Path

from peft import LoraConfig, PeftModel, TaskType
from peft.utils.constants import DUMMY_TARGET_MODULES
from transformers import PreTrainedModel
from trl import ModelConfig, get_peft_config

from llmrec.catalog import Catalog
from llmrec.training.backbone import load_pretrained
from llmrec.vocabulary import Initialization, ItemVocabulary, resize_embeddings


def adapter_config(
    model_args: ModelConfig, model: PreTrainedModel, vocabulary: ItemVocabulary, vocabulary_only: bool = False
) -> LoraConfig | None:
    """TRL's LoRA settings with exactly the new vocabulary rows trained beside them; None for full fine-tuning.

    Two full embedding matrices in ``modules_to_save`` (LC-Rec's way) would make the adapter as large as a small model.

    Args:
        model_args: TRL's; LoRA with ``--use_peft``.
        model: with its new rows.
        vocabulary: whose rows are trained, in the input embedding and, where it is not tied to it, in the output head.
        vocabulary_only: train these rows and nothing else.

    Raises:
        ValueError: if both LoRA and ``vocabulary_only`` are asked for.
    """
    if vocabulary_only and model_args.use_peft:
        raise ValueError("vocabulary_only trains the new rows alone: give it or use_peft, not both.")
    # TrainableTokensConfig would say it more plainly, but TRL refuses an adapter of that kind on the head
    config = LoraConfig(target_modules=DUMMY_TARGET_MODULES) if vocabulary_only else get_peft_config(model_args)
    if config is None:
        return None
    config.task_type = TaskType.SEQ_2_SEQ_LM if model.config.is_encoder_decoder else TaskType.CAUSAL_LM
    config.target_modules = config.target_modules or "all-linear"
    config.trainable_token_indices = dict.fromkeys(_embedding_names(model), vocabulary.new_token_ids)
    return config


def _embedding_names(model: PreTrainedModel) -> list[str]:
    """Last part of the names of the modules that hold a row for each token; PEFT follows those tied to them."""
    embedding, head = model.get_input_embeddings(), model.get_output_embeddings()
    tied = head is None or head.weight is embedding.weight
    holders = [embedding] if tied else [embedding, head]
    return [name.split(".")[-1] for name, module in model.named_modules() if any(module is one for one in holders)]


def tuning_name(model_args: ModelConfig, vocabulary_only: bool) -> str:
    """The mode as reports print it: "full", "LoRA", "4-bit LoRA" or "vocabulary rows"."""
    if vocabulary_only:
        return "vocabulary rows"
    if not model_args.use_peft:
        return "full"
    return "4-bit LoRA" if model_args.load_in_4bit else "LoRA"


def merge_adapter(
    trained: PreTrainedModel | PeftModel,
    adapter_folder: str | Path,
    model_args: ModelConfig,
    catalog: Catalog,
    initialization: Initialization,
    seed: int,
) -> PreTrainedModel:
    """A plain model: the adapter saved into ``adapter_folder`` and merged; a fully tuned model comes back as it is.

    An adapter over 4-bit weights is merged into the unquantized base, loaded again with the same new rows.
    """
    if not isinstance(trained, PeftModel):
        return trained
    trained.save_pretrained(str(adapter_folder), save_embedding_layers=False)  # the new rows are in the adapter already
    if not getattr(trained, "is_loaded_in_4bit", False) and not getattr(trained, "is_loaded_in_8bit", False):
        return trained.merge_and_unload()
    base, tokenizer = load_pretrained(model_args, quantized=False)
    resize_embeddings(base, ItemVocabulary.add_to(tokenizer, catalog.codebook_sizes), catalog, initialization, seed)
    return PeftModel.from_pretrained(base, str(adapter_folder)).merge_and_unload().to(trained.device)
