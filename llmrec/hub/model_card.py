"""The model card: what a checkpoint is, how it did beside the floors, and a snippet that runs."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult, ModelCardData

from llmrec.atomic import atomic_path
from llmrec.baselines import fused_name
from llmrec.catalog import Catalog
from llmrec.hub.checkpoint import (
    FUSION_FOLDER,
    INFO_FILE,
    ITEM_TOKENIZER_FOLDER,
    PROMPTS_FILE,
    SETREC,
    USER_INDEX_FOLDER,
    auto_model_class,
)
from llmrec.schema import DataError

#: What a model writes, by the ``answer`` of its prompts.
_ANSWERS = {
    None: "the semantic ID of the next item",
    "semantic_ids": "the semantic ID of the next item",
    "titles": "the title of the next item",
    "letters": "the letter of the candidate that comes next",
}
#: As far as a method has them.
_SHOWN_METRICS = (
    *("hit_rate@5", "ndcg@5", "hit_rate@10", "ndcg@10", "hit_rate@20", "ndcg@20"),
    *("coverage@10", "valid_rate"),
)
_PIPELINES = {"AutoModelForCausalLM": "text-generation", "AutoModelForSeq2SeqLM": "text2text-generation"}


def save_model_card(
    folder: str | Path,
    metrics: Mapping[str, Any],
    example_prompt: str = "",
    *,
    base_model: str | None = None,
    datasets: Sequence[str] = (),
    license: str = "unknown",
    repo_id: str | None = None,
) -> None:
    """Write ``README.md`` for the checkpoint in ``folder``.

    Args:
        folder: what ``save_checkpoint`` wrote.
        metrics: the content of metrics.json.
        example_prompt: a prompt as the model saw it in training, item tokens included, for the usage snippet; a method
            without semantic IDs needs none.
        base_model: the model that was fine-tuned, a Hub name or a local folder (of which the card tells only the name,
            since nobody else has its path); None where it was trained from a config.
        datasets: Hub names of datasets.
        license: Hub identifier of the licence; a fine-tuned model follows its base model's.
        repo_id: Hub name that the snippet loads; the checkpoint's own folder where there is none.

    Raises:
        DataError: if ``metrics`` has no results of the checkpoint's method.
    """
    folder = Path(folder)
    info = json.loads((folder / INFO_FILE).read_text())
    method, results = info["method"], metrics["results"]
    if method not in results:
        raise DataError(f"The metrics hold results of {', '.join(results)}; the card needs those of {method!r}.")
    title = repo_id or f"{method} on {metrics['protocol']['dataset']}"
    model_class = None if method == SETREC else auto_model_class(folder).__name__
    answer = json.loads((folder / PROMPTS_FILE).read_text()).get("answer")
    catalog = Catalog.load(folder)
    data = ModelCardData(
        library_name="transformers",
        pipeline_tag=None if model_class is None else _PIPELINES[model_class],
        tags=["llmrec", "recommendation", "generative-recommendation", _identifiers(method, answer), method],
        license=license,
        base_model=None if base_model is None or Path(base_model).exists() else base_model,
        datasets=list(datasets) or None,
        model_name=title,
        eval_results=_eval_results(metrics, method),
    )
    sections = [
        f"---\n{data.to_yaml()}\n---\n\n# {title}",
        f"A generative recommender ({method}): it reads a user's history and writes "
        f"{'the tokens of the next item, a set,' if method == SETREC else _ANSWERS[answer]}. "
        f"{origin_sentence(base_model)}, tuning {metrics['protocol'].get('tuning', 'not stated')}. Licence: {license}.",
        f"## Results\n\n{results_table(results, _SHOWN_METRICS)}\n\n{_floor_sentence(results, method)}",
        f"## Protocol\n\n{protocol_list(metrics)}",
        _usage_of(method, answer, model_class, catalog, example_prompt, repo_id),
        _files(folder, catalog, method),
    ]
    with atomic_path(folder / "README.md") as temporary:
        temporary.write_text("\n\n".join(sections) + "\n")


def _identifiers(method: str, answer: str | None) -> str:
    named = {"titles": "titles", "letters": "candidate-ranking"}
    return "order-agnostic-identifiers" if method == SETREC else named.get(answer or "", "semantic-ids")


def _usage_of(
    method: str, answer: str | None, model_class: str | None, catalog: Catalog, example_prompt: str, repo_id: str | None
) -> str:
    if model_class is None:
        return _setrec_usage(catalog, repo_id)
    if answer == "letters":
        return (
            "## Usage\n\nThe model ranks a retriever's candidates: `llmrec.evaluation.candidates.CandidateRecommender` "
            f"asks it. A prompt, as in training:\n\n```\n{example_prompt}\n```"
        )
    if method == "ulmrec":
        return _ulmrec_usage(catalog, repo_id)
    return _usage(_usage_snippet(model_class, catalog.num_codebooks, example_prompt, repo_id))


def _ulmrec_usage(catalog: Catalog, repo_id: str | None) -> str:
    snippet = f"""from llmrec.serving.checkpoint import open_served

served = open_served({f'"{repo_id}")' if repo_id else '".")  # this folder'}
history = served.catalog.rows_of({catalog.item_ids[:2]!r})  # item ids, oldest first
recommender, model = served.recommender(), served.load_model()
ranked = recommender.recommend(model, [history], k=10, exclude=[history])  # user_ids=[...] for users it knows
for row in ranked[0]:
    print(served.catalog.item_ids[row], served.catalog.titles[row])
"""
    return f"## Usage\n\n```python\n{snippet}```\n\nEvery answer is a catalogue item."


def _usage(snippet: str) -> str:
    return (
        f"## Usage\n\nWith plain transformers:\n\n```python\n{snippet}```\n\nThis search may spell IDs that no item "
        "has. `llmrec.hub.load_checkpoint` loads model, tokenizer and catalog together, and llmrec's constrained beams "
        "return catalogue items only."
    )


def _setrec_usage(catalog: Catalog, repo_id: str | None) -> str:
    snippet = f"""from llmrec.hub import load_checkpoint
from llmrec.models.setrec.recommender import SetRecRecommender

checkpoint = load_checkpoint({f'"{repo_id}")' if repo_id else '".")  # this folder'}
catalog, max_history = checkpoint.catalog, checkpoint.prompts["max_history"]
history = catalog.rows_of({catalog.item_ids[:2]!r})  # item ids, oldest first
recommender = SetRecRecommender(catalog.item_ids, max_history)
ranked = recommender.recommend(checkpoint.model, [history], k=10, exclude=[history])
for row in ranked[0]:
    print(catalog.item_ids[row], catalog.titles[row])
"""
    return f"## Usage\n\n```python\n{snippet}```\n\nOne forward pass for a user; every answer is a catalogue item."


def _files(folder: Path, catalog: Catalog, method: str) -> str:
    if method == SETREC:
        from llmrec.models.setrec.item_features import FEATURES_FILE  # noqa: PLC0415 -- torch, as in checkpoint.py

        items = "the items"
        made_of = f"`{FEATURES_FILE}` the frozen embeddings that their tokens are made of"
    else:
        items, made_of = "the items and their semantic IDs", f"`{ITEM_TOKENIZER_FOLDER}/` what made the IDs"
        if not catalog.num_codebooks:
            items, made_of = "the items", "`tokenizer.json` the words of their titles"
        elif not (folder / ITEM_TOKENIZER_FOLDER).is_dir():
            made_of = "`tokenizer.json` the tokens of their codes, which another item tokenizer made"
    if (folder / USER_INDEX_FOLDER).is_dir():
        made_of += f", `{USER_INDEX_FOLDER}/` users' ids and indices"
    if (folder / FUSION_FOLDER).is_dir():
        made_of += f", `{FUSION_FOLDER}/` the item-kNN that llmrec mixes into the search, and its weight"
    return (
        f"## Files\n\n`catalog.parquet` holds {items} (fingerprint {catalog.fingerprint}), "
        f"{made_of}, `{PROMPTS_FILE}` the prompts, `{INFO_FILE}` the resolved config and versions."
    )


def origin_sentence(base_model: str | None) -> str:
    """What the weights come from."""
    if base_model is None:
        return "Trained from a config"
    if Path(base_model).exists():
        return f"Fine-tuned from a local model, {Path(base_model).resolve().name}"
    return f"Fine-tuned from [{base_model}](https://huggingface.co/{base_model})"


def _eval_results(metrics: Mapping[str, Any], method: str) -> list[EvalResult]:
    protocol = metrics["protocol"]
    return [
        EvalResult(
            task_type="recommendation",
            task_name="Sequential recommendation",
            dataset_type=str(protocol["dataset"]),
            dataset_name=f"{protocol['dataset']} (split {metrics['split_fingerprint']})",
            dataset_split=protocol["split"],
            metric_type=metric,
            metric_value=value,
        )
        for metric, value in metrics["results"][method].items()
        if isinstance(value, int | float)
    ]


def results_table(results: Mapping[str, Any], shown: Sequence[str], over: str = "users") -> str:
    """Systems by row and the metrics of ``shown`` that all have by column, with intervals over ``over``."""
    columns = [metric for metric in shown if all(metric in values for values in results.values())]
    lines = [f"| | {' | '.join(columns)} |", f"| --- |{' --- |' * len(columns)}"]
    for name, values in results.items():
        cells = []
        for metric in columns:
            interval = values.get("intervals", {}).get(metric)
            cells.append(f"{values[metric]:.4f}" + (f" ({interval[0]:.4f}-{interval[1]:.4f})" if interval else ""))
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join([*lines, "", f"In brackets: 95 % bootstrap intervals over {over}."])


def _floor_sentence(results: Mapping[str, Any], method: str) -> str:
    metric = "ndcg@10"
    floors = {
        name: values[metric]
        for name, values in results.items()
        if name not in (method, fused_name(method)) and metric in values
    }
    if not floors or metric not in results[method]:
        return "No floor was measured beside the model."
    best = max(floors, key=lambda name: floors[name])
    relation = "above" if floors[best] > results[method][metric] else "not above"
    sentence = f"{best}, at {metric} {floors[best]:.4f}, is **{relation}** the model's {results[method][metric]:.4f}."
    if fused_name(method) not in results:
        return sentence
    value = results[fused_name(method)][metric]
    relation = "above" if floors[best] > value else "not above"
    return (
        f"{sentence} It is **{relation}** the {value:.4f} of {fused_name(method)}, the search that llmrec serves, with "
        "item-kNN mixed in; `generate` has the model alone."
    )


def protocol_list(metrics: Mapping[str, Any]) -> str:
    """What defines the numbers, line by line."""
    lines = [f"- split_fingerprint: {metrics['split_fingerprint']}"]
    for name, value in metrics["protocol"].items():
        if name == "split_fingerprint":
            continue
        if isinstance(value, Mapping):
            entries = {key: f"{entry:.4f}" if isinstance(entry, float) else entry for key, entry in value.items()}
            value = ", ".join(f"{key} {entry}" for key, entry in entries.items())  # noqa: PLW2901
        lines.append(f"- {name}: {value}")
    return "\n".join(lines)


def _usage_snippet(model_class: str, num_codebooks: int, example_prompt: str, repo_id: str | None) -> str:
    folder = f'snapshot_download("{repo_id}")' if repo_id else '"."  # this folder'
    hub_import = "from huggingface_hub import snapshot_download\n" if repo_id else ""
    answer = "beams" if model_class == "AutoModelForSeq2SeqLM" else 'beams[:, inputs["input_ids"].shape[1] :]'
    return f"""import re

import pyarrow.parquet as pq
{hub_import}from transformers import {model_class}, AutoTokenizer

folder = {folder}
tokenizer = AutoTokenizer.from_pretrained(folder)
model = {model_class}.from_pretrained(folder)
items = pq.read_table(f"{{folder}}/catalog.parquet").to_pylist()
titles = {{tuple(item["semantic_id"]): item["title"] for item in items}}

prompt = {example_prompt!r}
inputs = tokenizer(prompt, return_tensors="pt", return_token_type_ids=False)
beams = model.generate(
    **inputs, max_new_tokens={num_codebooks}, num_beams=10, num_return_sequences=10, do_sample=False
)
for text in tokenizer.batch_decode({answer}):
    semantic_id = tuple(int(code) for code in re.findall(r"<[a-z]_(\\d+)>", text))
    print(text, titles.get(semantic_id, "(no item has this ID)"))
"""
