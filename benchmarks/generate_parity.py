"""Do our lists equal those of transformers' `generate`, and how much sooner do they come? A checkpoint's own users.

    python -m benchmarks.generate_parity --checkpoint outputs/ml-100k_strict --dataset_dir data/ml-100k

Ranks the test histories, and validation histories after them, with BeamSearch under `vocabulary` scores and with
`generate` under `prefix_allowed_tokens_fn`, in the same batches. Lists must agree but for items whose scores differ by
less than 1e-4 (ties in float32); anything else counts as a mismatch and the exit status is 1.
"""

import argparse
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from tqdm.auto import tqdm
from transformers import PreTrainedModel

from benchmarks.decoding_contenders import AllowedTokens, ScoredKeys, equal_but_ties, generate, nested_dictionary
from llmrec.atomic import write_json
from llmrec.dataset import RecDataset
from llmrec.decoding.beam_search import BeamSearch
from llmrec.serving.checkpoint import open_served

TIE = 1e-4

Lists = list[ScoredKeys]  # for each user; a key is the item's tokens


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", required=True, help="folder or Hub name of an lcrec run")
    parser.add_argument("--dataset_dir", required=True, help="the dataset folder it was trained on")
    parser.add_argument("--num_users", type=int, default=1000)
    parser.add_argument("--num_beams", type=int, default=20)
    parser.add_argument("--batch_size", type=int, default=16)
    parser.add_argument("--output", default="benchmarks/results/generate_parity.json")
    args = parser.parse_args()
    checkpoint, dataset = open_served(args.checkpoint), RecDataset.load(args.dataset_dir)
    recommender, vocabulary, model = (
        checkpoint.recommender(args.num_beams),
        checkpoint.vocabulary,
        checkpoint.load_model(),
    )
    histories = [*dataset.test["history"].to_pylist(), *dataset.valid["history"].to_pylist()][: args.num_users]
    rows = [checkpoint.catalog.rows_of(history) for history in histories]
    prompts = [recommender.prompt_tokens(history, is_encoder_decoder=False) for history in rows]
    prompts.sort(key=len, reverse=True)
    batches = [prompts[start : start + args.batch_size] for start in range(0, len(prompts), args.batch_size)]
    item_tokens = vocabulary.item_token_ids(checkpoint.catalog.semantic_ids)
    search = BeamSearch.from_catalog(model, checkpoint.catalog, vocabulary, scores="vocabulary")

    def ours(batch: list[list[int]]) -> Lists:
        ranked = search(batch, args.num_beams)
        return [
            [(tuple(item_tokens[item].tolist()), score) for item, score in zip(items, scores, strict=True) if item >= 0]
            for items, scores in zip(ranked.items.tolist(), ranked.scores.tolist(), strict=True)
        ]

    known = nested_dictionary(item_tokens)

    def theirs(batch: list[list[int]]) -> Lists:
        return generate_lists(model, batch, known, args.num_beams, item_tokens.shape[1])

    our_lists, our_seconds = timed(ours, batches, "BeamSearch")
    their_lists, their_seconds = timed(theirs, batches, "generate")
    identical = sum(same_lists(a, b, 0.0) for a, b in zip(our_lists, their_lists, strict=True))
    mismatches = sum(not same_lists(a, b, TIE) for a, b in zip(our_lists, their_lists, strict=True))
    result = {
        "dataset": dataset.name,
        "split_fingerprint": dataset.fingerprint,
        "checkpoint_seed": checkpoint.checkpoint.config["seed"],
        "users": len(prompts),
        "num_beams": args.num_beams,
        "batch_size": args.batch_size,
        "threads": torch.get_num_threads(),
        "identical": identical,
        "differ_by_ties": len(prompts) - identical - mismatches,
        "mismatches": mismatches,
        "users_per_s_ours": len(prompts) / our_seconds,
        "users_per_s_generate": len(prompts) / their_seconds,
        "ratio": their_seconds / our_seconds,
    }
    Path(args.output).parent.mkdir(parents=True, exist_ok=True)
    write_json(args.output, result)
    print(json.dumps(result, indent=2))
    sys.exit(int(mismatches > 0))


def timed(rank: Callable[[list[list[int]]], Lists], batches: list[list[list[int]]], name: str) -> tuple[Lists, float]:
    """Lists of all batches, and seconds."""
    start = time.perf_counter()
    lists = [users for batch in tqdm(batches, desc=name, unit="batch") for users in rank(batch)]
    return lists, time.perf_counter() - start


def generate_lists(
    model: PreTrainedModel, prompts: list[list[int]], known: dict[int, Any], num_beams: int, levels: int
) -> Lists:
    """What ``generate`` returns under ``prefix_allowed_tokens_fn``; beams it could not fill are dropped."""
    allowed = AllowedTokens(known, max(len(prompt) for prompt in prompts))
    tokens, scores = generate(model, prompts, num_beams, levels, {"prefix_allowed_tokens_fn": allowed})
    return [
        [(tuple(item), score) for item, score in zip(*user, strict=True) if score > -1e8]
        for user in zip(tokens.tolist(), scores.tolist(), strict=True)
    ]


def same_lists(a: ScoredKeys, b: ScoredKeys, tie: float) -> bool:
    """Whether two lists hold the same items in the same order, but for swaps of scores closer than ``tie``."""
    if [item for item, _ in a] == [item for item, _ in b]:
        return True
    return tie > 0.0 and equal_but_ties(a, b, tie)


if __name__ == "__main__":
    main()
