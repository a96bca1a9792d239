"""A causal language model with LREM's control tokens: a pretrained one, or a small one built from a config."""

import logging
from collections.abc import Iterable

from transformers import PreTrainedModel
from transformers.integrations.deepspeed import unset_hf_deepspeed_config
from trl import ModelConfig

from llmrec.catalog import Catalog
from llmrec.models.from_config import SmallModelConfig, build_small_model, train_text_tokenizer
from llmrec.models.lrem import LremPrompts
from llmrec.training.backbone import load_pretrained
from llmrec.vocabulary import bind_catalog, resize_embeddings

logger = logging.getLogger(__name__)


def load_lrem(
    model_args: ModelConfig,
    small: SmallModelConfig,
    catalog: Catalog,
    texts: Iterable[str],
    reasoning: bool,
    max_text_tokens: int,
    descriptions: bool,
    seed: int,
) -> tuple[PreTrainedModel, LremPrompts, list[int]]:
    """Model, prompts, and the token ids whose rows are new.

    Args:
        model_args: TRL's; ``model_name_or_path`` is a Hub name or a folder, None builds the small model.
        small: its size.
        catalog: whose items are searched.
        texts: what the small model's tokenizer is trained on.
        reasoning: whether queries are embedded behind a thought.
        max_text_tokens: longer queries and items are cut.
        descriptions: whether items are read with their descriptions.
        seed: of the new weights.

    Raises:
        ValueError: if the model is an encoder-decoder.
    """
    unset_hf_deepspeed_config()  # new rows are written into whole weights; the trainer shards them for ZeRO-3
    if model_args.model_name_or_path is None:
        tokenizer = train_text_tokenizer(texts, small.text_vocab_size)
        new = LremPrompts.add_to(tokenizer)
        model = build_small_model(small, tokenizer, seed)
    else:
        model, tokenizer = load_pretrained(model_args)
        if model.config.is_encoder_decoder:
            raise ValueError("LREM writes before it embeds: name a decoder-only model in --model_name_or_path.")
        new = LremPrompts.add_to(tokenizer)
    prompts = LremPrompts(tokenizer, reasoning, max_text_tokens=max_text_tokens, descriptions=descriptions)
    if model_args.model_name_or_path is not None and new:
        prompts.vocabulary.added_token_ids = new
        resize_embeddings(model, prompts.vocabulary, catalog, "text", seed)
    bind_catalog(model, catalog)
    logger.info("A %s of %.2fM parameters.", model.config.model_type, model.num_parameters() / 1e6)
    return model, prompts, new
