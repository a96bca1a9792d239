"""Constrained beams through transformers' own ``generate``: the reference that ``BeamSearch`` is compared with."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from transformers import GenerationConfig, LogitsProcessorList, PreTrainedModel

from llmrec.decoding.device_trie import DeviceTrie
from llmrec.decoding.logits_processor import CatalogLogitsProcessor
from llmrec.decoding.model_outputs import pad_prompts
from llmrec.decoding.ranked_items import RankedItems, ranked_items
from llmrec.decoding.rules import BatchRules


@torch.no_grad()
def generate_items(
    model: PreTrainedModel,
    prompts: Sequence[Sequence[int]],
    trie: DeviceTrie,
    num_beams: int,
    k: int | None = None,
    limits: BatchRules | None = None,
) -> RankedItems:
    """Rank catalogue items with ``model.generate`` and ``CatalogLogitsProcessor``.

    Args:
        model: in evaluation mode.
        prompts: token ids of each user's prompt.
        trie: the catalogue's semantic IDs on the model's device.
        num_beams: search width.
        k: list length, at most ``num_beams`` (the default).
        limits: rules of the users.

    Returns:
        Lists with ``vocabulary`` scores, as ``BeamSearch`` gives them.
    """
    k = num_beams if k is None else k
    encodes = model.config.is_encoder_decoder
    input_ids, attention_mask = pad_prompts(prompts, model.device, left=not encodes)
    prompt_length = 1 if encodes else input_ids.shape[1]
    with neutral_generation_config(model) as config:
        processor = CatalogLogitsProcessor(trie, prompt_length, config.eos_token_id, num_beams, limits)
        output = model.generate(
            input_ids=input_ids,
            attention_mask=attention_mask.long(),
            logits_processor=LogitsProcessorList([processor]),
            num_beams=num_beams,
            num_return_sequences=k,
            max_new_tokens=trie.num_codebooks,
            do_sample=False,
            length_penalty=0.0 if num_beams > 1 else None,
            return_dict_in_generate=True,
            output_scores=True,
            output_logits=num_beams == 1,
        )
    scores = (
        output.sequences_scores
        if num_beams > 1
        else _greedy_scores(trie, output.sequences[:, prompt_length:], output.logits)
    )
    leaves = processor.leaves(output.sequences, len(prompts), scores).view(-1, k)
    return ranked_items(trie, leaves, scores.view(-1, k), k, limits)


def _greedy_scores(trie: DeviceTrie, generated: torch.Tensor, logits: tuple[torch.Tensor, ...]) -> torch.Tensor:
    """Sums of log-probabilities, which ``generate`` does not give without beams; ending an ID costs nothing."""
    total = torch.zeros(len(generated), device=generated.device)
    for depth, (column, step_logits) in enumerate(zip(generated.unbind(1), logits, strict=True)):
        log_probs = step_logits.float().log_softmax(-1).gather(1, column.unsqueeze(1)).squeeze(1)
        is_code = torch.isin(column, trie.code_tokens[depth])
        total += log_probs.masked_fill(~is_code, 0.0)
    return total


@contextmanager
def neutral_generation_config(model: PreTrainedModel) -> Iterator[GenerationConfig]:
    """Keep only the model's token ids: ``generate`` fills whatever the caller leaves out from ``generation_config``,
    so that a chat model's temperature or repetition penalty would leak into the ranking."""
    original = model.generation_config
    eos = original.eos_token_id[0] if isinstance(original.eos_token_id, list) else original.eos_token_id
    model.generation_config = GenerationConfig(
        eos_token_id=eos,
        pad_token_id=eos if original.pad_token_id is None else original.pad_token_id,
        bos_token_id=original.bos_token_id,
        decoder_start_token_id=original.decoder_start_token_id,
    )
    try:
        yield model.generation_config
    finally:
        model.generation_config = original
