"""Users a second: SETRec's one forward pass against LC-Rec's beams, on the same backbone and the same histories.

    python -m benchmarks.setrec_speed --dataset_dir data/ml-100k

Models are of the demo's shape with random weights (what they answer is not compared here), histories are the test
users', lists of 20 without the items seen. LC-Rec searches 20 beams, through transformers' ``generate`` with our
processor and through our decoder. All of it alternates in one process; seconds are medians over the rounds.
"""

import argparse
import statistics
import time
from collections.abc import Callable

import torch

from benchmarks.decoding_measure import hardware, versions
from llmrec.atomic import write_json
from llmrec.catalog import Catalog
from llmrec.dataset import RecDataset
from llmrec.decoding.beam_search import BeamSearch
from llmrec.decoding.device_trie import DeviceTrie
from llmrec.decoding.generate import generate_items
from llmrec.decoding.rules import Rules, batch_rules
from llmrec.item_tokenizer import EmbeddingConfig, ItemTokenizerConfig, build_catalog, catalog_folder
from llmrec.models.from_config import SmallModelConfig, build_small_model, small_model_config, train_text_tokenizer
from llmrec.models.setrec import ItemFeatures, SetRecConfig, SetRecModel
from llmrec.models.setrec.search import SetSearch
from llmrec.prompts.history import HISTORY_OPENING, history_prompt
from llmrec.prompts.renderer import SegmentRenderer
from llmrec.trie import Trie
from llmrec.vocabulary import ItemVocabulary

K = 20


@torch.no_grad()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset_dir", default="data/ml-100k", help="prepared dataset")
    parser.add_argument("--num_users", type=int, default=256)
    parser.add_argument("--batch_size", type=int, default=32)
    parser.add_argument("--max_history", type=int, default=50)
    parser.add_argument("--num_layers", type=int, default=4)
    parser.add_argument("--hidden_size", type=int, default=128)
    parser.add_argument("--num_semantic_tokens", type=int, default=4)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", default="benchmarks/results/setrec_speed.json")
    args = parser.parse_args()
    dataset = RecDataset.load(args.dataset_dir)
    ids = EmbeddingConfig(), ItemTokenizerConfig(num_codebooks=2, codebook_size=64)
    _, catalog = build_catalog(dataset, catalog_folder(dataset, *ids), *ids)
    rows = dataset.test.slice(0, args.num_users)
    histories = [catalog.rows_of(history[-args.max_history :]) for history in rows["history"].to_pylist()]
    seen = [catalog.rows_of(items) for items in rows["seen_item_ids"].to_pylist()]
    order = sorted(range(len(histories)), key=lambda row: -len(histories[row]))
    batches = [order[start : start + args.batch_size] for start in range(0, len(order), args.batch_size)]
    contenders = {**lcrec_contenders(args, catalog, histories, seen), "SETRec": setrec(args, catalog, histories, seen)}
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    for repeat in range(args.repeats + 1):
        for name, rank in contenders.items():
            start = time.perf_counter()
            for batch in batches:
                rank(batch)
            if repeat:  # the first round warms up
                seconds[name].append(time.perf_counter() - start)
    rates = {name: len(histories) / statistics.median(times) for name, times in seconds.items()}
    for name, rate in rates.items():
        print(f"{name:<24} {rate:8.1f} users/s")
    ratios = {f"setrec_over_{key}": rates["SETRec"] / rates[name] for key, name in LCREC.items()}
    print(" ".join(f"{name}={ratio:.2f}" for name, ratio in ratios.items()))
    results = {"settings": vars(args), "hardware": hardware("cpu"), "versions": versions()}
    write_json(args.output, {**results, "seconds": seconds, "users_per_second": rates, **ratios})


#: Name in the last line -> contender.
LCREC = {"generate": "LC-Rec, generate", "our_decoder": "LC-Rec, our decoder"}


def lcrec_contenders(
    args: argparse.Namespace, catalog: Catalog, histories: list[list[int]], seen: list[list[int]]
) -> dict[str, Callable[[list[int]], object]]:
    """Both ways to search with beams, over one model."""
    tokenizer = train_text_tokenizer(catalog.titles, 1024)
    vocabulary = ItemVocabulary.add_to(tokenizer, catalog.codebook_sizes)
    small = SmallModelConfig(hidden_size=args.hidden_size, num_layers=args.num_layers)
    model = build_small_model(small, tokenizer, args.seed).eval()
    renderer = SegmentRenderer(catalog, vocabulary)
    ids = [[catalog.item_ids[row] for row in history] for history in histories]
    prompts = [renderer.prompt_tokens(history_prompt(history), is_encoder_decoder=False) for history in ids]
    rules = [Rules(exclude=items) for items in seen]
    trie = DeviceTrie(Trie.from_semantic_ids(catalog.semantic_ids), vocabulary.code_token_ids, model.device)
    search = BeamSearch(model, trie)

    def generate(batch: list[int]) -> object:
        limits = batch_rules(trie, [rules[row] for row in batch], search.subsets, len(batch))
        return generate_items(model, [prompts[row] for row in batch], trie, K, K, limits)

    def decode(batch: list[int]) -> object:
        return search([prompts[row] for row in batch], K, K, [rules[row] for row in batch])

    return {LCREC["generate"]: generate, LCREC["our_decoder"]: decode}


def setrec(
    args: argparse.Namespace, catalog: Catalog, histories: list[list[int]], seen: list[list[int]]
) -> Callable[[list[int]], object]:
    """SETRec over the same backbone, with embeddings drawn at random."""
    tokenizer = train_text_tokenizer(catalog.titles, 1024)
    small = SmallModelConfig(hidden_size=args.hidden_size, num_layers=args.num_layers)
    torch.manual_seed(args.seed)
    config = SetRecConfig(
        text_config=small_model_config(small, tokenizer),
        num_semantic_tokens=args.num_semantic_tokens,
        instruction_token_ids=tokenizer(HISTORY_OPENING)["input_ids"],
    )
    features = ItemFeatures(
        torch.randn(len(catalog), config.cf_dim),
        torch.randn(len(catalog), config.text_dim),
        torch.ones(len(catalog), dtype=torch.bool),
    )
    search = SetSearch(SetRecModel(config).eval(), features)

    def rank(batch: list[int]) -> object:
        rows = [histories[row] for row in batch]
        return search.best(rows, config.beta, K, [seen[row] for row in batch], [None] * len(batch))

    return rank


if __name__ == "__main__":
    main()
