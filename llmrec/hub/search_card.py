"""The model card of a model that searches."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from huggingface_hub import ModelCardData

from llmrec.atomic import atomic_path
from llmrec.hub.checkpoint import ITEM_EMBEDDINGS_FOLDER, LREM, PROMPTS_FILE
from llmrec.hub.model_card import origin_sentence, protocol_list, results_table

_SHOWN_METRICS = ("hit_rate@10", "precision@10", "ndcg@10", "recall@100", "judged@10")


def save_search_card(
    folder: str | Path,
    metrics: Mapping[str, Any],
    example_query: str,
    *,
    base_model: str | None = None,
    license: str = "unknown",
    repo_id: str | None = None,
) -> None:
    """Write ``README.md`` for the LREM checkpoint in ``folder``.

    Args:
        folder: what ``save_checkpoint`` wrote.
        metrics: the content of metrics.json.
        example_query: for the usage snippet.
        base_model: the model that was fine-tuned; None where it was trained from a config.
        license: Hub identifier of the licence; a fine-tuned model follows its base model's.
        repo_id: Hub name that the snippet loads; the checkpoint's own folder where there is none.
    """
    folder = Path(folder)
    title = repo_id or f"{LREM} on {metrics['protocol']['dataset']}"
    data = ModelCardData(
        library_name="transformers",
        pipeline_tag="feature-extraction",
        tags=["llmrec", "search", "retrieval", "reasoning-embedding", LREM],
        license=license,
        base_model=None if base_model is None or Path(base_model).exists() else base_model,
        model_name=title,
    )
    sections = [
        f"---\n{data.to_yaml()}\n---\n\n# {title}",
        "A search model: it writes a few keywords for a query, and embeds query and keywords to find items of a "
        f"catalogue (LREM, arXiv 2510.14321). {origin_sentence(base_model)}, tuning "
        f"{metrics['protocol']['tuning']}. Licence: {license}.",
        f"## Results\n\n{results_table(metrics['results'], _SHOWN_METRICS, 'queries')}",
        f"## Protocol\n\n{protocol_list(metrics)}",
        _usage(example_query, repo_id),
        f"## Files\n\n`catalog.parquet` holds the items, `{ITEM_EMBEDDINGS_FOLDER}/` their embeddings in the same "
        f"order, `{PROMPTS_FILE}` the prompts.",
    ]
    with atomic_path(folder / "README.md") as temporary:
        temporary.write_text("\n\n".join(sections) + "\n")


def _usage(query: str, repo_id: str | None) -> str:
    snippet = f"""from llmrec.hub import load_checkpoint
from llmrec.models.lrem import LremPrompts, LremSearcher
from llmrec.vector_index import VectorIndex

checkpoint = load_checkpoint({f'"{repo_id}")' if repo_id else '".")  # this folder'}
prompts = LremPrompts.from_options(checkpoint.tokenizer, checkpoint.prompts)
searcher = LremSearcher(prompts, prompts.lines(checkpoint.catalog.items), batch_size=32)
queries, index = [{query!r}], VectorIndex(checkpoint.item_embeddings)
print(prompts.keywords(searcher.write_thoughts(checkpoint.model, queries)[0]))
for row in searcher.search(checkpoint.model, queries, k=10, index=index)[0]:
    print(checkpoint.catalog.item_ids[row], checkpoint.catalog.titles[row])
"""
    return f"## Usage\n\n```python\n{snippet}```\n\nEvery answer is a catalogue item."
