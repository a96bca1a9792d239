"""Constrained beams through transformers' own ``generate``: for encoder-decoders, and as the reference for the rest."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from transformers import GenerationConfig, LogitsProcessorList, PreTrainedModel

from llmrec.decoding.beam_search import RankedItems, pad_left
from llmrec.decoding.device_trie import DeviceTrie, ExcludedItems
from llmrec.decoding.logits_processor import CatalogLogitsProcessor, generated_items


@torch.no_grad()
def generate_items(
    model: PreTrainedModel,
    prompts: Sequence[Sequence[int]],
    trie: DeviceTrie,
    num_beams: int,
    k: int,
    exclude: Sequence[Sequence[int]] | None = None,
) -> RankedItems:
    """Rank catalogue items with ``model.generate`` and ``CatalogLogitsProcessor``; arguments as for ``beam_search``."""
    input_ids, attention_mask = pad_left(prompts, model.device)
    prompt_length = 1 if model.config.is_encoder_decoder else input_ids.shape[1]
    with _neutral_generation_config(model) as config:
        processor = CatalogLogitsProcessor(
            trie,
            prompt_length,
            config.eos_token_id,
            num_beams,
            None if exclude is None else ExcludedItems(trie.trie, exclude, trie.device),
        )
        output = model.generate(
            input_ids=input_ids,
            attention_mask=attention_mask.long(),
            logits_processor=LogitsProcessorList([processor]),
            num_beams=num_beams,
            num_return_sequences=k,
            max_new_tokens=trie.num_codebooks,
            do_sample=False,
            length_penalty=0.0,
            return_dict_in_generate=True,
            output_scores=True,
        )
    scores = output.sequences_scores if num_beams > 1 else _greedy_scores(model, output)
    items = generated_items(trie, output.sequences, scores, prompt_length)
    return RankedItems(items.view(-1, k), scores.masked_fill(items < 0, -torch.inf).view(-1, k).float())


def _greedy_scores(model: PreTrainedModel, output: object) -> torch.Tensor:
    return model.compute_transition_scores(output.sequences, output.scores).sum(1)  # type: ignore[attr-defined]


@contextmanager
def _neutral_generation_config(model: PreTrainedModel) -> Iterator[GenerationConfig]:
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
