"""What the benchmarks of serving run on: a checkpoint, its users' histories, and prompts in its own language."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import cycle, islice
from pathlib import Path

import numpy as np
import pyarrow as pa

from llmrec.catalog import Catalog
from llmrec.dataset import RecDataset
from llmrec.hub import save_checkpoint
from llmrec.item_tokenizer import ItemTokenizer, ItemTokenizerConfig
from llmrec.models.from_config import SmallModelConfig, build_small_model, train_text_tokenizer
from llmrec.serving.checkpoint import ServedCheckpoint, open_served
from llmrec.vocabulary import ItemVocabulary, code_token

#: Of MovieLens-100K, whose shape the made-up workload has; its users have rated 20 items or more.
NUM_ITEMS, NUM_USERS, SHORTEST_HISTORY = 1682, 943, 20
NUM_GENRES = 18


@dataclass(frozen=True)
class Workload:
    """A checkpoint and who asks it.

    Args:
        description: for the report.
        checkpoint: to serve.
        histories: item ids of each user, oldest first, in random order of users.
        seen: what each of them has seen beside, or the same.
    """

    description: str
    checkpoint: ServedCheckpoint
    histories: list[list[str]]
    seen: list[list[str]]

    @cached_property
    def prompts(self) -> list[list[int]]:
        """Token ids for each history."""
        renderer = self.checkpoint.renderer(self.checkpoint.catalog)
        return [self.checkpoint.prompt_tokens(renderer, history) for history in self.histories]

    @cached_property
    def item_texts(self) -> frozenset[str]:
        """How the items of the catalogue read as text."""
        rows = self.checkpoint.catalog.semantic_ids.tolist()
        return frozenset("".join(code_token(level, code) for level, code in enumerate(row)) for row in rows)

    def endless_prompts(self) -> "Prompts":
        return Prompts(cycle(self.prompts))


@dataclass(frozen=True)
class Prompts:
    """Users in turn, from the first again after the last: neighbouring requests are never of one user."""

    source: Iterator[list[int]]

    def take(self, count: int) -> list[list[int]]:
        return list(islice(self.source, count))


def load_workload(checkpoint: str | None, dataset_dir: str | None, made: Path, seed: int) -> Workload:
    """A given checkpoint, or one with random weights.

    Args:
        checkpoint: folder; None makes one in ``made``.
        dataset_dir: whose test histories are asked for; None draws histories from the catalogue.
        made: folder for a checkpoint that is made.
        seed: of all that is random.
    """
    served = open_served(checkpoint or str(make_checkpoint(made, seed)))
    what = f"checkpoint {served.name}" if checkpoint else "random weights, made-up catalogue"
    rng = np.random.default_rng(seed)
    if dataset_dir is None:
        histories = random_histories(served, rng)
        seen, whose = histories, "made-up histories"
    else:
        dataset = RecDataset.load(dataset_dir)
        order = rng.permutation(len(dataset.test))
        histories = dataset.test["history"].take(order).to_pylist()
        seen, whose = dataset.test["seen_item_ids"].take(order).to_pylist(), f"test histories of {dataset.name}"
    parameters = sum(tensor.numel() for tensor in served.load_model().parameters())
    description = f"{what}: {parameters / 1e6:.1f}M parameters, {len(served.catalog):,} items, {whose}"
    return Workload(description, served, histories, seen)


def random_histories(served: ServedCheckpoint, rng: np.random.Generator) -> list[list[str]]:
    """Different items, as many as the model sees at most, or fewer."""
    item_ids = np.array(served.catalog.item_ids)
    longest = min(served.max_history, len(item_ids))
    lengths = rng.integers(min(SHORTEST_HISTORY, longest), longest + 1, NUM_USERS)
    return [rng.choice(item_ids, length, replace=False).tolist() for length in lengths]


def make_checkpoint(folder: Path, seed: int) -> Path:
    """The demo's model with random weights, over as many items as MovieLens-100K has, in clusters like genres."""
    rng = np.random.default_rng(seed)
    centres = rng.normal(size=(NUM_GENRES, 32))
    embeddings = centres[rng.integers(0, NUM_GENRES, NUM_ITEMS)] + 0.6 * rng.normal(size=(NUM_ITEMS, 32))
    item_ids = [str(number) for number in range(1, NUM_ITEMS + 1)]
    config = ItemTokenizerConfig(num_codebooks=2, codebook_size=64, seed=seed)
    item_tokenizer = ItemTokenizer.fit(item_ids, embeddings.astype(np.float32), config)
    item_tokenizer.save(folder / "fitted")
    items = pa.table(
        {
            "item_id": item_ids,
            "title": [f"Film {number} ({1930 + number % 68})" for number in range(1, NUM_ITEMS + 1)],
            "description": [""] * NUM_ITEMS,
            "brand": [""] * NUM_ITEMS,
            "categories": [[]] * NUM_ITEMS,
        }
    )
    catalog = Catalog(items, item_tokenizer.semantic_ids, item_tokenizer.codebook_sizes)
    tokenizer = train_text_tokenizer(catalog.titles, 1024)
    ItemVocabulary.add_to(tokenizer, catalog.codebook_sizes)
    model = build_small_model(SmallModelConfig(), tokenizer, seed)
    # fresh logits are nearly uniform: spread them, so that rankings are not decided by rounding
    model.get_output_embeddings().weight.data.mul_(4.0)
    run = {
        "history_loss": "all",
        "max_history": 50,
        "num_beams": 50,
        "beam_scores": "vocabulary",
        "per_device_eval_batch_size": 32,
        "seed": seed,
    }
    checkpoint = folder / "made_up"
    save_checkpoint(checkpoint, model, tokenizer, catalog, folder / "fitted", run, {}, method="lcrec")
    return checkpoint
