"""What a search asks of a language model: states after some tokens, and scores of a level's codes from them."""

import inspect
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from transformers import PreTrainedModel

from llmrec.decoding.device_trie import DeviceTrie

#: Logits held at once where the whole vocabulary must be scored (64 MiB in fp32).
_MAX_LOGITS = 2**24


class ModelForward:
    """Calls the model's decoder with a cache; an encoder, where there is one, runs once for each prompt.

    Args:
        model: decoder-only or encoder-decoder model; adapters may be active in it.
        prompts: token ids of each user's prompt.
        hidden: return the states that the output head takes, without evaluating it; otherwise the logits.

    Attributes:
        prefix_ids: int64 (users, columns): what the decoder reads first: left-padded prompts, or the start token.
        prefix_mask: bool, of the same shape: True on real tokens.
    """

    def __init__(self, model: PreTrainedModel, prompts: Sequence[Sequence[int]], hidden: bool) -> None:
        self.model = model
        self.hidden = hidden
        self._module = model.get_decoder() if hidden else model
        self._parameters = inspect.signature(self._module.forward).parameters
        encodes = model.config.is_encoder_decoder
        self.prefix_ids, self.prefix_mask = pad_prompts(prompts, model.device, left=not encodes)
        self._encoded: Tensor | None = None
        if encodes:
            self._encoder_mask = self.prefix_mask.long()
            self._encoded = model.get_encoder()(
                input_ids=self.prefix_ids, attention_mask=self._encoder_mask
            ).last_hidden_state
            self.prefix_ids = torch.full((len(prompts), 1), model.config.decoder_start_token_id, device=model.device)
            self.prefix_mask = torch.ones_like(self.prefix_ids, dtype=torch.bool)

    def select_rows(self, rows: Tensor) -> None:
        """Repeat the encoder's states for copies of a user."""
        if self._encoded is not None:
            self._encoded, self._encoder_mask = self._encoded[rows], self._encoder_mask[rows]

    def __call__(
        self, input_ids: Tensor, attention_mask: Any, position_ids: Tensor, cache: Any, last_only: bool
    ) -> tuple[Tensor, Any]:
        """States or logits (rows, columns or 1, width), and the cache."""
        inputs: dict[str, Any] = {}
        prefix = ""
        if self._encoded is not None and self.hidden:
            inputs |= {"encoder_hidden_states": self._encoded, "encoder_attention_mask": self._encoder_mask}
        elif self._encoded is not None:
            inputs |= {"encoder_outputs": (self._encoded,), "attention_mask": self._encoder_mask}
            prefix = "decoder_"
        inputs |= {f"{prefix}input_ids": input_ids, f"{prefix}attention_mask": attention_mask}
        if "position_ids" in self._parameters:
            inputs["position_ids"] = position_ids
        if last_only and "logits_to_keep" in self._parameters:
            inputs["logits_to_keep"] = 1
        output = self._module(**inputs, past_key_values=cache, use_cache=True)
        states = output.last_hidden_state if self.hidden else output.logits
        return states[:, -1:] if last_only else states, output.past_key_values


class CodeLogits:
    """Scores of the codes that a level has tokens for.

    From hidden states, logits take only the rows of the output head that the level can use; log-probabilities over the
    vocabulary need all of them, in blocks that bound the memory.

    Args:
        model: as for ``ModelForward``.
        trie: the catalogue's semantic IDs.
        hidden: whether outputs are hidden states; otherwise they are logits.
    """

    def __init__(self, model: PreTrainedModel, trie: DeviceTrie, hidden: bool) -> None:
        self._tokens = [_as_slice(tokens) for tokens in trie.code_tokens]
        self._hidden = hidden
        self._head = model.get_output_embeddings()
        self._scale, self._cap = _logit_scale(model), getattr(model.config, "final_logit_softcapping", None)

    def logits(self, outputs: Tensor, depth: int) -> Tensor:
        """Logits of the codes that may come after ``depth`` others: float32 (..., codes), from outputs (..., width)."""
        tokens = self._tokens[depth]
        if not self._hidden:
            return outputs[..., tokens].float()
        bias = getattr(self._head, "bias", None)
        return self._transform(
            functional.linear(outputs, self._head.weight[tokens], None if bias is None else bias[tokens])
        )

    def log_probs(self, outputs: Tensor, depth: int) -> Tensor:
        """Their log-probabilities over the whole vocabulary: float32 (..., codes)."""
        rows = outputs.flatten(0, -2)
        vocabulary = self._head.weight.shape[0] if self._hidden else outputs.shape[-1]
        blocks = []
        for block in rows.split(max(1, _MAX_LOGITS // vocabulary)):
            logits = self._transform(self._head(block)) if self._hidden else block.float()
            blocks.append(logits[:, self._tokens[depth]] - logits.logsumexp(-1, keepdim=True))
        return torch.cat(blocks).view(*outputs.shape[:-1], -1)

    def _transform(self, logits: Tensor) -> Tensor:
        logits = logits.float()
        if self._scale != 1.0:
            logits = logits * self._scale
        return logits if self._cap is None else torch.tanh(logits / self._cap) * self._cap


def _logit_scale(model: PreTrainedModel) -> float:
    """The factor between head and logits: Cohere's, Granite's, and that of a T5 with tied embeddings."""
    config = model.config
    if getattr(config, "logits_scaling", None):
        return 1.0 / config.logits_scaling
    if getattr(config, "scale_decoder_outputs", config.model_type == "umt5" and config.tie_word_embeddings):
        return config.d_model**-0.5
    return getattr(config, "logit_scale", None) or 1.0


def _as_slice(tokens: Tensor) -> slice | Tensor:
    """Token ids that follow each other, as added ones do, are read without a copy."""
    if bool((tokens.diff() == 1).all()):
        return slice(int(tokens[0]), int(tokens[-1]) + 1)
    return tokens


def pad_prompts(prompts: Sequence[Sequence[int]], device: torch.device, left: bool) -> tuple[Tensor, Tensor]:
    """Prompts as one batch: token ids and a bool mask of the real ones, both (users, longest prompt).

    Decoders are padded on the left, so that every prompt ends in the last column; encoders on the right, since some of
    them count positions from the first column.
    """
    width = max(len(prompt) for prompt in prompts)
    input_ids = torch.zeros(len(prompts), width, dtype=torch.long)
    mask = torch.zeros(len(prompts), width, dtype=torch.bool)
    for row, prompt in enumerate(prompts):
        columns = slice(width - len(prompt), width) if left else slice(0, len(prompt))
        input_ids[row, columns] = torch.tensor(prompt)
        mask[row, columns] = True
    return input_ids.to(device), mask.to(device)
