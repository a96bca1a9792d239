"""SETRec around a backbone: a pretrained one, or a small one built from a config."""

import logging
from typing import Any

from transformers import AutoConfig, AutoModel, AutoTokenizer, PreTrainedTokenizerBase, set_seed
from transformers.integrations.deepspeed import unset_hf_deepspeed_config
from trl import ModelConfig

from llmrec.catalog import Catalog
from llmrec.models.from_config import SmallModelConfig, add_dropout, small_model_config, train_text_tokenizer
from llmrec.models.setrec import ItemFeatures, SetRecConfig, SetRecModel
from llmrec.models.setrec.attention import check_backend
from llmrec.prompts.history import HISTORY_OPENING
from llmrec.vocabulary import bind_catalog

logger = logging.getLogger(__name__)

#: Marks the end of a history; ours, like the words before it, and short, since every branch has its own.
RESPONSE = "\n"


def load_setrec(
    model_args: ModelConfig,
    small: SmallModelConfig,
    catalog: Catalog,
    features: ItemFeatures,
    seed: int,
    **options: Any,
) -> tuple[SetRecModel, PreTrainedTokenizerBase]:
    """Model and tokenizer, with the catalogue's items set.

    Args:
        model_args: TRL's; ``model_name_or_path`` is a Hub name or a folder, None builds the small model.
        small: its size.
        catalog: whose texts the small model's tokenizer is trained on.
        features: of its items.
        seed: of the new weights.
        options: of ``SetRecConfig``.

    Raises:
        ValueError: for an attention backend that takes no mask.
    """
    unset_hf_deepspeed_config()  # new parts are drawn whole; the trainer shards them for ZeRO-3
    set_seed(seed)
    backbone = None
    if model_args.model_name_or_path is None:
        texts = [*catalog.titles, *catalog.items["description"].to_pylist(), HISTORY_OPENING, RESPONSE]
        tokenizer = train_text_tokenizer(texts, small.text_vocab_size)
        text_config = small_model_config(small, tokenizer)
    else:
        name, revision = model_args.model_name_or_path, model_args.model_revision
        if model_args.attn_implementation is not None:
            check_backend(model_args.attn_implementation)
        tokenizer = AutoTokenizer.from_pretrained(name, revision=revision)
        text_config = AutoConfig.from_pretrained(name, revision=revision)
        backbone = AutoModel.from_pretrained(
            name,
            revision=revision,
            dtype=model_args.dtype or "auto",
            attn_implementation=model_args.attn_implementation,
        )
    config = SetRecConfig(
        text_config=text_config,
        text_dim=features.text.shape[1],
        cf_dim=features.cf.shape[1],
        instruction_token_ids=tokenizer(HISTORY_OPENING, add_special_tokens=False)["input_ids"],
        response_token_ids=tokenizer(RESPONSE, add_special_tokens=False)["input_ids"],
        **options,
    )
    model = SetRecModel(config, backbone)
    if model_args.model_name_or_path is None and small.architecture == "qwen3":
        add_dropout(model.backbone, small.dropout)
    if backbone is not None:
        model.to(backbone.dtype)
    model.set_items(features)
    bind_catalog(model, catalog)
    logger.info("SETRec of %.2fM parameters over a %s.", model.num_parameters() / 1e6, text_config.model_type)
    return model, tokenizer
