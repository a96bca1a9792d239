"""The language model to fine-tune: from the Hub, from a folder, or a small one built from a config."""

import logging
from collections.abc import Sequence

from torch import Tensor
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForSeq2SeqLM,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.integrations.deepspeed import unset_hf_deepspeed_config
from trl import ModelConfig, get_quantization_config

from llmrec.catalog import Catalog
from llmrec.models.from_config import SmallModelConfig, build_small_model, train_text_tokenizer
from llmrec.prompts.history import HISTORY_OPENING
from llmrec.prompts.lcrec import TEMPLATES
from llmrec.training.varlen_attention import register_varlen_attention
from llmrec.vocabulary import (
    Initialization,
    ItemVocabulary,
    bind_catalog,
    check_catalog,
    resize_embeddings,
    start_from_codebooks,
)

logger = logging.getLogger(__name__)


def load_backbone(
    model_args: ModelConfig,
    small: SmallModelConfig,
    catalog: Catalog,
    initialization: Initialization,
    seed: int,
    user_codebook_sizes: Sequence[int] = (),
    codebooks: Tensor | None = None,
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase, ItemVocabulary]:
    """Model and tokenizer with the catalogue's tokens in both.

    Args:
        model_args: TRL's; ``model_name_or_path`` is a Hub name or a folder, None builds the small model.
        small: its size.
        catalog: whose codes become tokens.
        initialization: of a pretrained model's new rows.
        seed: of the small model and of the rows' noise.
        user_codebook_sizes: of users' indices, where their codes become tokens too.
        codebooks: of the item tokenizer, where the small model's codes start; None: anywhere.

    Raises:
        DataError: if training starts from a checkpoint of ours whose item tokens mean another catalogue's items.
    """
    unset_hf_deepspeed_config()  # new rows are written into whole weights; the trainer shards them for ZeRO-3
    if model_args.model_name_or_path is None:
        tokenizer = train_text_tokenizer(_texts(catalog), small.text_vocab_size)
        vocabulary = ItemVocabulary.add_to(tokenizer, catalog.codebook_sizes, user_codebook_sizes)
        model = build_small_model(small, tokenizer, seed)
        if codebooks is not None:
            start_from_codebooks(model, vocabulary, codebooks, seed)
        bind_catalog(model, catalog)
        logger.info("Built a %s of %.2fM parameters from its config.", small.architecture, _millions(model))
        return model, tokenizer, vocabulary
    name, revision = model_args.model_name_or_path, model_args.model_revision
    check_catalog(AutoConfig.from_pretrained(name, revision=revision), catalog)
    model, tokenizer = load_pretrained(model_args)
    vocabulary = ItemVocabulary.add_to(tokenizer, catalog.codebook_sizes, user_codebook_sizes)
    resize_embeddings(model, vocabulary, catalog, initialization, seed)
    bind_catalog(model, catalog)
    return model, tokenizer, vocabulary


def load_pretrained(model_args: ModelConfig, quantized: bool = True) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Model and tokenizer as they are on the Hub or in a folder, in 4 or 8 bits if asked for and ``quantized``."""
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


def _texts(catalog: Catalog) -> list[str]:
    templates = [template.text for task in TEMPLATES.values() for template in task]
    return [*catalog.titles, *catalog.items["description"].to_pylist(), HISTORY_OPENING, *templates]


def _millions(model: PreTrainedModel) -> float:
    return model.num_parameters() / 1e6
