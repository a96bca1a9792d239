"""What a SETRec model is made of, as config.json keeps it."""

from typing import ClassVar, Literal

from huggingface_hub.dataclasses import strict
from transformers import CONFIG_MAPPING, AutoConfig, PreTrainedConfig

#: Which tokens a token attends to; see ``layout.SetLayout``.
AttentionRule = Literal["set", "causal", "bidirectional"]


@strict
class SetRecConfig(PreTrainedConfig):
    """A language model around which items are sets of tokens.

    Args:
        text_config: of the backbone, a decoder-only model or T5.
        num_semantic_tokens: N, tokens that the auto-encoder makes of an item's text; an item has 1 + N.
        text_dim: width of the text embeddings.
        cf_dim: width of the collaborative embeddings.
        encoder_sizes: hidden widths of the auto-encoder (512, 256, 128 in the released code).
        reconstruction_weight: alpha, weight of the auto-encoder's loss.
        beta: weight of the semantic scores against the CF score, 0 to 1; validation chooses it.
        attention_rule: ``set`` is the paper's (section 3.2.2). ``causal`` lets a token see its siblings before it, as
            the released Qwen code does where torch's own attention runs. ``bidirectional`` is the released T5 code: an
            encoder without a mask, and queries that see each other.
        instruction_token_ids: of the words before a history.
        response_token_ids: of the words after a history.
    """

    model_type = "setrec"
    sub_configs: ClassVar = {"text_config": AutoConfig}

    text_config: dict | PreTrainedConfig | None = None
    num_semantic_tokens: int = 4
    text_dim: int = 384
    cf_dim: int = 64
    encoder_sizes: list[int] | tuple[int, ...] = (512, 256, 128)
    reconstruction_weight: float = 0.7
    beta: float = 0.5
    attention_rule: AttentionRule = "set"
    instruction_token_ids: list[int] | tuple[int, ...] = ()
    response_token_ids: list[int] | tuple[int, ...] = ()

    def __post_init__(self, **kwargs: object) -> None:
        if isinstance(self.text_config, dict):
            self.text_config = CONFIG_MAPPING[self.text_config["model_type"]](**self.text_config)
        if self.num_semantic_tokens < 0:
            raise ValueError(f"num_semantic_tokens is {self.num_semantic_tokens}; it needs 0 or more.")
        encoder_decoder = getattr(self.text_config, "is_encoder_decoder", None)
        if encoder_decoder is False and self.attention_rule == "bidirectional":
            raise ValueError(
                "attention_rule 'bidirectional' is for an encoder-decoder: allowed are 'set' and 'causal'."
            )
        if encoder_decoder and self.attention_rule == "causal":
            raise ValueError(
                "attention_rule 'causal' is for a decoder-only model: allowed are 'set' and 'bidirectional'."
            )
        super().__post_init__(**kwargs)

    @property
    def num_tokens(self) -> int:
        """Tokens of an item, and queries: 1 + N."""
        return 1 + self.num_semantic_tokens

    @property
    def hidden_size(self) -> int:
        """Width of the backbone, and so of every token."""
        return self.text_config.hidden_size  # type: ignore[union-attr]
