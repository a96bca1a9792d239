"""What of a model is trained: all, LoRA with the new vocabulary rows, or these rows alone; and merging it back."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from peft import LoraConfig, PeftModel, TaskType
from peft.utils.constants import DUMMY_TARGET_MODULES
from torch import Tensor
from transformers import PreTrainedModel
from transformers.integrations.deepspeed import unset_hf_deepspeed_config
from trl import ModelConfig, get_peft_config


def adapter_config(
    model_args: ModelConfig, model: PreTrainedModel, new_token_ids: Sequence[int], vocabulary_only: bool = False
) -> LoraConfig | None:
    """TRL's LoRA settings with exactly the new vocabulary rows trained beside them; None for full fine-tuning.

    Two full embedding matrices in ``modules_to_save`` (LC-Rec's way) would make the adapter as large as a small model.

    Args:
        model_args: TRL's; LoRA with ``--use_peft``.
        model: with its new rows.
        new_token_ids: whose rows are trained, in the input embedding and, where it is not tied to it, in the output
            head.
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
    if new_token_ids:  # a model that answers with text may have none
        config.trainable_token_indices = {name: [*new_token_ids] for name in _embedding_names(model)}
    return config


def _embedding_names(model: PreTrainedModel) -> list[str]:
    """Last part of the names of the modules that hold a row for each token; PEFT follows those tied to them."""
    embedding, head = model.get_input_embeddings(), model.get_output_embeddings()
    tied = head is None or head.weight is embedding.weight
    holders = [embedding] if tied else [embedding, head]
    return [name.split(".")[-1] for name, module in model.named_modules() if any(module is one for one in holders)]


def prepare_adapter(model: PreTrainedModel | PeftModel) -> None:
    """Make a trainer's model, if it is an adapter over trained rows, what TRL's fused head and the checkpoints need."""
    if isinstance(model, PeftModel):
        # the trained rows are in the adapter; PEFT would add both full matrices to every checkpoint, as resized ones
        model.save_pretrained = partial(model.save_pretrained, save_embedding_layers=False)
    head = model.get_output_embeddings()
    if not hasattr(head, "bias"):
        head.bias = None  # TRL's fused head reads it, and PEFT's wrapper around trained rows passes on the weight only
        # under ZeRO-3 TRL would ask that weight whether it is a shard: it is a sum, whole when it is read
        unset_hf_deepspeed_config()


def tuning_name(model_args: ModelConfig, vocabulary_only: bool = False) -> str:
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
    load_base: Callable[[ModelConfig], PreTrainedModel],
    state_dict: dict[str, Tensor] | None = None,
) -> PreTrainedModel:
    """A plain model: the adapter saved into ``adapter_folder`` and merged; a fully tuned model comes back as it is.

    An adapter over quantized or sharded weights is merged into their whole base, made again with the same new rows.

    Args:
        trained: what the trainer trained.
        adapter_folder: for the adapter, if there is one.
        model_args: what the model was made from.
        load_base: makes the model again, as it was before training.
        state_dict: all weights, where ``trained`` holds shards of them only.
    """
    if not isinstance(trained, PeftModel):
        return trained
    # the new rows are in the adapter already
    trained.save_pretrained(str(adapter_folder), state_dict=state_dict, save_embedding_layers=False)
    quantized = model_args.load_in_4bit or model_args.load_in_8bit
    if state_dict is None and not quantized:
        return trained.merge_and_unload()
    whole = replace(model_args, load_in_4bit=False, load_in_8bit=False)
    return PeftModel.from_pretrained(load_base(whole), str(adapter_folder)).merge_and_unload()
