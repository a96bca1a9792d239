"""Checkpoints that carry everything they need, on disk and on the Hub, and the model card that goes with them.

A checkpoint is a folder that plain ``transformers`` loads (``model.safetensors``, ``config.json``, the tokenizer), with
the catalog, ``item_tokenizer/``, ``prompts.json`` and ``llmrec.json`` beside it. docs/evaluation.md lists the files.
"""

import json
import platform
import shutil
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from huggingface_hub import EvalResult, HfApi, ModelCardData, snapshot_download
from huggingface_hub.errors import (
    HFValidationError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForSeq2SeqLM,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from llmrec.atomic import atomic_path, write_json
from llmrec.catalog import Catalog
from llmrec.schema import DataError

INFO_FILE = "llmrec.json"
PROMPTS_FILE = "prompts.json"
ITEM_TOKENIZER_FOLDER = "item_tokenizer"

#: Not sent to the Hub: states of the trainer, hidden files, and anything that only pickle can read.
_NOT_PUSHED = ["checkpoint-*/**", ".*", "**/.*", "*.bin", "*.pt", "*.pth", "*.pkl"]


@dataclass(frozen=True)
class Checkpoint:
    """A loaded checkpoint.

    Args:
        folder: where its files lie, Hub downloads included.
        model: in evaluation mode.
        tokenizer: with the item tokens.
        catalog: the one that the model was trained with.
        config: the resolved config of the run.
        prompts: the prompts in use.
        method: ``lcrec``, ...
    """

    folder: Path
    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    catalog: Catalog
    config: dict[str, Any]
    prompts: dict[str, Any]
    method: str


def save_checkpoint(
    folder: str | Path,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    catalog: Catalog,
    item_tokenizer_folder: str | Path,
    config: Mapping[str, Any],
    prompts: Mapping[str, Any],
    *,
    method: str,
) -> None:
    """Write a checkpoint into ``folder``; files of other names that are there stay.

    ``llmrec.json`` goes last and comes off first, so a folder that has one is complete.

    Args:
        folder: made if it is not there.
        model: the whole model on this process, adapters merged.
        tokenizer: with the item tokens.
        catalog: whose items the tokens stand for.
        item_tokenizer_folder: what ``ItemTokenizer.save`` wrote.
        config: the resolved config of the run; JSON values only.
        prompts: the prompts in use; JSON values only.
        method: name of the method, as in metrics.json.

    Raises:
        ValueError: if the model still has adapters beside it.
        FileNotFoundError: if there is no item tokenizer in ``item_tokenizer_folder``.
    """
    folder, item_tokenizer_folder = Path(folder), Path(item_tokenizer_folder)
    if hasattr(model, "merge_and_unload"):
        raise ValueError("The model has adapters: pass model.merge_and_unload(), which loads without peft.")
    if not item_tokenizer_folder.is_dir():
        raise FileNotFoundError(f"{item_tokenizer_folder} is not a folder: pass the one that ItemTokenizer.save wrote.")
    info = {
        "method": method,
        "catalog_fingerprint": catalog.fingerprint,
        "config": dict(config),
        "versions": {name: version(name) for name in ("llmrec", "torch", "transformers")}
        | {"python": platform.python_version()},
    }
    folder.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=folder, prefix=".writing-") as name:
        temporary = Path(name)
        model.save_pretrained(temporary)
        tokenizer.save_pretrained(temporary)
        catalog.save(temporary)
        shutil.copytree(item_tokenizer_folder, temporary / ITEM_TOKENIZER_FOLDER)
        write_json(temporary / PROMPTS_FILE, dict(prompts))
        (folder / INFO_FILE).unlink(missing_ok=True)
        _remove_earlier_weights(folder)
        for path in sorted(temporary.iterdir()):
            path.replace(folder / path.name)
    write_json(folder / INFO_FILE, info)


def resolve_checkpoint(name_or_path: str | Path, revision: str | None = None) -> Path:
    """The folder of a checkpoint: as it is, or downloaded from the Hub.

    Args:
        name_or_path: a folder, or a Hub name such as ``user/model``.
        revision: branch, tag or commit on the Hub.

    Raises:
        FileNotFoundError: if it is neither a folder nor a model on the Hub that can be reached.
    """
    path = Path(name_or_path)
    if path.is_dir():
        return path
    try:
        return Path(snapshot_download(str(name_or_path), revision=revision, ignore_patterns=_NOT_PUSHED))
    except RevisionNotFoundError:
        raise FileNotFoundError(f"The Hub's {name_or_path} has no revision {revision!r}.") from None
    except (HFValidationError, RepositoryNotFoundError, LocalEntryNotFoundError, OfflineModeIsEnabled) as error:
        raise FileNotFoundError(
            f"{str(name_or_path)!r} is neither a folder here nor a model on the Hub that can be reached "
            f"({type(error).__name__}). Check the spelling; for a private model run `hf auth login`."
        ) from error


def load_checkpoint(name_or_path: str | Path, revision: str | None = None) -> Checkpoint:
    """Load model, tokenizer and catalog, and check that they belong together.

    The model is on the CPU, in the precision it was saved in.

    Raises:
        FileNotFoundError: if there is no such checkpoint, or it is not one of llmrec's.
        DataError: if its catalog is not the one that the model was trained with.
    """
    folder = resolve_checkpoint(name_or_path, revision)
    if not (folder / INFO_FILE).is_file():
        raise FileNotFoundError(
            f"{folder} holds no {INFO_FILE}: it is not a checkpoint of llmrec, or writing it was interrupted. "
            "Name the output folder of a recipe that has finished."
        )
    info = json.loads((folder / INFO_FILE).read_text())
    catalog = Catalog.load(folder)
    catalog.check_fingerprint(info["catalog_fingerprint"], str(folder / INFO_FILE))
    model_class = _model_class(folder)
    model = model_class.from_pretrained(folder, dtype="auto", use_safetensors=True)
    return Checkpoint(
        folder=folder,
        model=model.eval(),
        tokenizer=AutoTokenizer.from_pretrained(folder),
        catalog=catalog,
        config=info["config"],
        prompts=json.loads((folder / PROMPTS_FILE).read_text()),
        method=info["method"],
    )


def push_to_hub(folder: str | Path, repo_id: str, private: bool = False, repo_type: str = "model") -> str:
    """Send a folder to the Hub as one commit and return the repository's address.

    Trainer states (``checkpoint-*``), hidden files and pickled files stay here. Files on the Hub under other names
    stay there.

    Args:
        folder: a checkpoint, or a dataset folder.
        repo_id: ``user/name``; made if it is not there.
        private: whether a repository that is made now is private.
        repo_type: ``model`` or ``dataset``.

    Raises:
        FileNotFoundError: if ``folder`` is not a folder.
    """
    if not Path(folder).is_dir():
        raise FileNotFoundError(f"{folder} is not a folder: nothing to push.")
    api = HfApi(library_name="llmrec", library_version=version("llmrec"))
    url = api.create_repo(repo_id, private=private, repo_type=repo_type, exist_ok=True)
    with warnings.catch_warnings():
        # catalog.parquet belongs to the model: no need to ask whether this should have been a dataset
        warnings.filterwarnings("ignore", message="It seems that you are about to commit a data file")
        api.upload_folder(
            repo_id=url.repo_id,
            folder_path=folder,
            repo_type=repo_type,
            commit_message=f"Upload {repo_type} with llmrec",
            ignore_patterns=_NOT_PUSHED,
        )
    return str(url)


def save_model_card(
    folder: str | Path,
    metrics: Mapping[str, Any],
    example_prompt: str,
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
        example_prompt: a prompt as the model saw it in training, item tokens included, for the usage snippet.
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
    model_class = _model_class(folder)
    title = repo_id or f"{method} on {metrics['protocol']['dataset']}"
    data = ModelCardData(
        library_name="transformers",
        pipeline_tag="text-generation" if model_class is AutoModelForCausalLM else "text2text-generation",
        tags=["llmrec", "recommendation", "generative-recommendation", "semantic-ids", method],
        license=license,
        base_model=None if base_model is None or Path(base_model).exists() else base_model,
        datasets=list(datasets) or None,
        model_name=title,
        eval_results=_eval_results(metrics, method),
    )
    snippet = _usage_snippet(model_class.__name__, Catalog.load(folder).num_codebooks, example_prompt, repo_id)
    sections = [
        f"---\n{data.to_yaml()}\n---\n\n# {title}",
        f"A generative recommender ({method}): it reads a user's history and writes the semantic ID of the next item. "
        f"{_origin(base_model)}, tuning {metrics['protocol'].get('tuning', 'not stated')}. Licence: {license}.",
        f"## Results\n\n{_results_table(results)}\n\n{_floor_sentence(results, method)}",
        f"## Protocol\n\n{_protocol_list(metrics)}",
        f"## Usage\n\nWith plain transformers:\n\n```python\n{snippet}```\n\nThis search may spell IDs that no item "
        "has. `llmrec.hub.load_checkpoint` loads model, tokenizer and catalog together, and llmrec's constrained beams "
        "return catalogue items only.",
        f"## Files\n\n`catalog.parquet` holds the items and their semantic IDs (fingerprint "
        f"{info['catalog_fingerprint']}), `{ITEM_TOKENIZER_FOLDER}/` what made the IDs, `{PROMPTS_FILE}` the prompts, "
        f"`{INFO_FILE}` the resolved config and versions.",
    ]
    with atomic_path(folder / "README.md") as temporary:
        temporary.write_text("\n\n".join(sections) + "\n")


def _remove_earlier_weights(folder: Path) -> None:
    """A model in several files may take the place of one in a single file, and the other way round."""
    for path in folder.glob("model*.safetensors*"):
        path.unlink()
    shutil.rmtree(folder / ITEM_TOKENIZER_FOLDER, ignore_errors=True)


def _model_class(folder: Path) -> Any:
    encoder_decoder = AutoConfig.from_pretrained(folder).is_encoder_decoder
    return AutoModelForSeq2SeqLM if encoder_decoder else AutoModelForCausalLM


def _origin(base_model: str | None) -> str:
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


def _results_table(results: Mapping[str, Any]) -> str:
    wanted = ("hit_rate@5", "ndcg@5", "hit_rate@10", "ndcg@10", "hit_rate@20", "ndcg@20", "coverage@10", "valid_rate")
    columns = [metric for metric in wanted if all(metric in values for values in results.values())]
    lines = [f"| | {' | '.join(columns)} |", f"| --- |{' --- |' * len(columns)}"]
    for name, values in results.items():
        cells = []
        for metric in columns:
            interval = values.get("intervals", {}).get(metric)
            cells.append(f"{values[metric]:.4f}" + (f" ({interval[0]:.4f}-{interval[1]:.4f})" if interval else ""))
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join([*lines, "", "In brackets: 95 % bootstrap intervals over users."])


def _floor_sentence(results: Mapping[str, Any], method: str) -> str:
    metric = "ndcg@10"
    floors = {name: values[metric] for name, values in results.items() if name != method and metric in values}
    if not floors or metric not in results[method]:
        return "No floor was measured beside the model."
    best = max(floors, key=lambda name: floors[name])
    relation = "above" if floors[best] > results[method][metric] else "not above"
    return f"{best}, at {metric} {floors[best]:.4f}, is **{relation}** the model's {results[method][metric]:.4f}."


def _protocol_list(metrics: Mapping[str, Any]) -> str:
    lines = [f"- split_fingerprint: {metrics['split_fingerprint']}"]
    for name, value in metrics["protocol"].items():
        if name == "split_fingerprint":
            continue
        text = ", ".join(f"{key} {entry}" for key, entry in value.items()) if isinstance(value, Mapping) else value
        lines.append(f"- {name}: {text}")
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
