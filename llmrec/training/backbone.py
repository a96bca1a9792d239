"""The language model to fine-tune: from the Hub, from a folder, or a small one built from a config."""

import logging

from peft import LoraConfig, PeftModel
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForSeq2SeqLM,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from trl import ModelConfig, get_peft_config, get_quantization_config

from llmrec.catalog import Catalog
from llmrec.models.from_config import SmallModelConfig, build_small_model, train_text_tokenizer
from llmrec.prompts.history import HISTORY_OPENING
from llmrec.prompts.lcrec import TEMPLATES
from llmrec.training.varlen_attention import register_varlen_attention
from llmrec.vocabulary import Initialization, ItemVocabulary, bind_catalog, check_catalog, resize_embeddings

logger = logging.getLogger(__name__)


def load_backbone(
    model_args: ModelConfig, small: SmallModelConfig, catalog: Catalog, initialization: Initialization, seed: int
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase, ItemVocabulary]:
    """Model and tokenizer with the catalogue's tokens in both.

    Args:
        model_args: TRL's; ``model_name_or_path`` is a Hub name or a folder, None builds the small model.
        small: its size.
        catalog: whose codes become tokens.
        initialization: of a pretrained model's new rows; a model from a config is random anyway.
        seed: of the small model and of the rows' noise.

    Raises:
        DataError: if training starts from a checkpoint of ours whose item tokens mean another catalogue's items.
    """
    if model_args.model_name_or_path is None:
        tokenizer = train_text_tokenizer(_texts(catalog), small.text_vocab_size)
        vocabulary = ItemVocabulary.add_to(tokenizer, catalog.codebook_sizes)
        model = build_small_model(small, tokenizer, seed)
        bind_catalog(model, catalog)
        logger.info("Built a %s of %.2fM parameters from its config.", small.architecture, _millions(model))
        return model, tokenizer, vocabulary
    name, revision = model_args.model_name_or_path, model_args.model_revision
    check_catalog(AutoConfig.from_pretrained(name, revision=revision), catalog)
    model, tokenizer = _load_pretrained(model_args)
    vocabulary = ItemVocabulary.add_to(tokenizer, catalog.codebook_sizes)
    resize_embeddings(model, vocabulary, catalog, initialization, seed)
    bind_catalog(model, catalog)
    return model, tokenizer, vocabulary


def _load_pretrained(
    model_args: ModelConfig, quantized: bool = True
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    name, revision = model_args.model_name_or_path, model_args.model_revision
    tokenizer = AutoTokenizer.from_pretrained(name, revision=revision)
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    config = AutoConfig.from_pretrained(name, revision=revision)
    auto_class = AutoModelForSeq2SeqLM if config.is_encoder_decoder else AutoModelForCausalLM
    quantization = get_quantization_config(model_args) if quantized else None
    register_varlen_attention()
    model = auto_class.from_pretrained(
        name,
        revision=revision,
        dtype=model_args.dtype or "auto",
        attn_implementation=model_args.attn_implementation,
        **({} if quantization is None else {"quantization_config": quantization}),
    )
    return model, tokenizer


def lora_config(model_args: ModelConfig, model: PreTrainedModel, vocabulary: ItemVocabulary) -> LoraConfig | None:
    """TRL's LoRA settings with exactly the new vocabulary rows trained beside them; None without ``--use_peft``.

    Two full embedding matrices in ``modules_to_save`` (LC-Rec's way) would make the adapter as large as a small model.
    """
    config = get_peft_config(model_args)
    if config is None:
        return None
    config.target_modules = config.target_modules or "all-linear"
    rows = {"embed_tokens": vocabulary.new_token_ids}
    head = model.get_output_embeddings()
    if head is not None and head.weight is not model.get_input_embeddings().weight:
        rows["lm_head"] = vocabulary.new_token_ids
    config.trainable_token_indices = rows
    return config


def merge_adapter(
    trained: PreTrainedModel | PeftModel,
    adapter_folder: str,
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
    trained.save_pretrained(adapter_folder, save_embedding_layers=False)  # the new rows are in the adapter already
    if not getattr(trained, "is_loaded_in_4bit", False) and not getattr(trained, "is_loaded_in_8bit", False):
        return trained.merge_and_unload()
    base, tokenizer = _load_pretrained(model_args, quantized=False)
    resize_embeddings(base, ItemVocabulary.add_to(tokenizer, catalog.codebook_sizes), catalog, initialization, seed)
    return PeftModel.from_pretrained(base, adapter_folder).merge_and_unload().to(trained.device)


def _texts(catalog: Catalog) -> list[str]:
    templates = [template.text for task in TEMPLATES.values() for template in task]
    return [*catalog.titles, *catalog.items["description"].to_pylist(), HISTORY_OPENING, *templates]


def _millions(model: PreTrainedModel) -> float:
    return model.num_parameters() / 1e6
