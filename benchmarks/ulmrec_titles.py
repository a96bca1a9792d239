"""Titles under a trie of titles: only the catalogue's are written, and what that costs beside semantic IDs.

    python -m benchmarks.ulmrec_titles --dataset_dir data/beauty

A small Qwen3 with random weights (an untrained model would write anything, if it were let) searches answers for test
users over all titles of the catalogue, and over semantic IDs drawn at random. Lists of 20 from 20 beams; both alternate
in one process. What the model writes is also read as text: transformers' generate samples under the same trie.
"""

import argparse
import statistics
import time

import numpy as np
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from benchmarks.decoding_measure import hardware, versions
from llmrec.atomic import write_json
from llmrec.catalog import Catalog
from llmrec.dataset import RecDataset
from llmrec.decoding.beam_search import BeamSearch
from llmrec.decoding.device_trie import DeviceTrie
from llmrec.decoding.logits_processor import CatalogLogitsProcessor
from llmrec.models.from_config import SmallModelConfig, build_small_model, train_text_tokenizer
from llmrec.prompts.history import history_prompt
from llmrec.prompts.renderer import SegmentRenderer
from llmrec.prompts.titles import MAX_TITLE_TOKENS, TitleRenderer
from llmrec.vocabulary import ItemVocabulary

K = 20


@torch.no_grad()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset_dir", default="data/beauty", help="prepared dataset")
    parser.add_argument("--num_users", type=int, default=64)
    parser.add_argument("--batch_size", type=int, default=16)
    parser.add_argument("--max_history", type=int, default=10)
    parser.add_argument("--num_layers", type=int, default=4)
    parser.add_argument("--text_vocab_size", type=int, default=4096)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--output", default="benchmarks/results/ulmrec_titles.json")
    args = parser.parse_args()
    dataset = RecDataset.load(args.dataset_dir)
    num_items = dataset.items.num_rows
    codes = np.random.default_rng(0).choice(256**3, size=num_items, replace=False)
    semantic_ids = np.stack(np.unravel_index(codes, (256, 256, 256)), axis=1).astype(np.int32)
    catalog = Catalog(dataset.items, semantic_ids, (256, 256, 256))
    tokenizer = train_text_tokenizer(catalog.titles, args.text_vocab_size)
    vocabulary = ItemVocabulary.add_to(tokenizer, catalog.codebook_sizes)
    model = build_small_model(SmallModelConfig(num_layers=args.num_layers), tokenizer, 0).eval()
    renderers = {"titles": TitleRenderer(catalog, vocabulary), "semantic IDs": SegmentRenderer(catalog, vocabulary)}
    histories = dataset.test.slice(0, args.num_users)["history"].to_pylist()
    searches, prompts = {}, {}
    for name, renderer in renderers.items():
        searches[name] = BeamSearch(model, DeviceTrie(renderer.trie, renderer.code_token_ids))
        prompts[name] = [renderer(history_prompt(history[-args.max_history :])) for history in histories]
    seconds: dict[str, list[float]] = {name: [] for name in renderers}
    for repeat in range(args.repeats + 1):
        for name, search in searches.items():
            start = time.perf_counter()
            for first in range(0, len(histories), args.batch_size):
                search(prompts[name][first : first + args.batch_size], K)
            if repeat:  # the first round warms up
                seconds[name].append(time.perf_counter() - start)
    texts = sampled_texts(model, tokenizer, searches["titles"].trie, prompts["titles"])
    encoded = [vocabulary.encode_text(" ".join(title.split()))[:MAX_TITLE_TOKENS] for title in catalog.titles]
    invented = sorted(set(texts) - {tokenizer.decode(tokens) for tokens in encoded})
    milliseconds = {name: 1000 * statistics.median(times) / len(histories) for name, times in seconds.items()}
    trie = renderers["titles"].trie
    print(f"{num_items} items, {len(set(catalog.titles))} different titles, up to {trie.num_codebooks} tokens")
    print(f"{len(texts)} titles written, {len(set(texts))} different ones, {len(invented)} not in the catalogue")
    print(" ".join(f"{name.replace(' ', '_')}_ms_per_user={value:.1f}" for name, value in milliseconds.items()))
    results = {"settings": vars(args), "hardware": hardware("cpu"), "versions": versions(), "seconds": seconds}
    counts = {"num_items": num_items, "longest_title": trie.num_codebooks, "invented": len(invented)}
    write_json(args.output, {**results, **counts, "written": len(texts), "ms_per_user": milliseconds})


def sampled_texts(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, trie: DeviceTrie, prompts: list[list[int]]
) -> list[str]:
    """One title for each prompt, sampled by ``generate``, as text."""
    torch.manual_seed(0)
    texts = []
    for prompt in prompts:
        processor = CatalogLogitsProcessor(trie, len(prompt), tokenizer.eos_token_id)
        ids = torch.tensor([prompt])
        options = {"do_sample": True, "max_new_tokens": trie.num_codebooks + 1, "pad_token_id": tokenizer.pad_token_id}
        written = model.generate(ids, logits_processor=[processor], **options)[0, len(prompt) :]
        texts.append(tokenizer.decode(written, skip_special_tokens=True).rstrip("\n"))
    return texts


if __name__ == "__main__":
    main()
