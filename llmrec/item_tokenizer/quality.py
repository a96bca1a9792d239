"""How good a set of semantic IDs is, before any language model is trained on it."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor
from torch.nn import functional

from llmrec.atomic import write_json
from llmrec.item_tokenizer.collisions import collision_groups, collision_rate
from llmrec.item_tokenizer.quality_plot import plot_quality
from llmrec.item_tokenizer.quantizer import row_chunks
from llmrec.item_tokenizer.tokenizer import ItemTokenizer
from llmrec.schema import DataError

REPORT_FILE = "quality.json"
PLOT_FILE = "quality.png"

#: A level has collapsed when fewer of its codes than this are used, or its perplexity is below the second share.
MIN_SHARE_USED = 0.2
MIN_SHARE_PERPLEXITY = 0.1
#: More items than this left to the disambiguation level are worth a word.
MAX_COLLISION_RATE = 0.3


def quality_report(
    tokenizer: ItemTokenizer,
    embeddings: np.ndarray,
    valid_histories: pa.Table | None = None,
    ks: tuple[int, ...] = (20, 100),
    max_users: int = 2000,
) -> dict[str, Any]:
    """Measure a tokenizer on the embeddings of all its items. docs/item_tokenizer.md says how to read each number.

    Everything but the collision rates of ``nearest_codes`` and ``semantic_ids`` is about the quantizer's levels of the
    final IDs, before the disambiguation level.

    Args:
        tokenizer: a fitted one.
        embeddings: float32 (num_items, dim), in the order of ``tokenizer.item_ids``.
        valid_histories: ``schema.HISTORIES`` table of validation users; without it there is no hit rate.
        ks: list lengths of the hit rate; capped at the number of items.
        max_users: the hit rate uses the first so many users in a seeded order.

    Raises:
        DataError: if the embeddings are not those of the tokenizer's items.
    """
    if len(embeddings) != len(tokenizer.item_ids):
        raise DataError(f"{len(embeddings)} embeddings for {len(tokenizer.item_ids)} items: give those of every item.")
    codes = tokenizer.semantic_ids[:, : tokenizer.config.num_codebooks]
    quantized = _quantized_embeddings(tokenizer, codes)
    squared_error = float(np.square(embeddings - quantized).mean())
    _, items_per_id = np.unique(codes, axis=0, return_counts=True)
    report: dict[str, Any] = {
        "num_items": len(codes),
        "codebook_sizes": list(tokenizer.codebook_sizes),
        "duplicate_embeddings": 1 - len({row.tobytes() for row in embeddings}) / len(embeddings),
        "collision_rate": {
            "nearest_codes": collision_rate(tokenizer.encode(embeddings)),
            "after_conflict_rounds": collision_rate(codes),
            "semantic_ids": collision_rate(tokenizer.semantic_ids),
        },
        "largest_collision": max((len(group) for group in collision_groups(codes)), default=1),
        "levels": [level_usage(codes[:, level], tokenizer.config.codebook_size) for level in range(codes.shape[1])],
        "gini": gini(items_per_id),
        "semantic_cohesion": semantic_cohesion(quantized, codes[:, 0]),
        "reconstruction_error": {
            "mean_squared": squared_error,
            "share_of_variance": squared_error / max(float(embeddings.var(axis=0).mean()), 1e-12),
        },
    }
    if valid_histories is not None:
        users = _sample_users(valid_histories, tokenizer, max_users)
        report["embedding_hit_rate"] = {
            "users": len(users),
            "embeddings": embedding_hit_rate(embeddings, users, ks, tokenizer.device),
            "quantized": embedding_hit_rate(quantized, users, ks, tokenizer.device),
        }
    report["warnings"] = quality_warnings(report)
    return report


def write_quality_report(
    tokenizer: ItemTokenizer, embeddings: np.ndarray, valid_histories: pa.Table | None, folder: str | Path
) -> dict[str, Any]:
    """``quality_report`` as ``quality.json`` and ``quality.png`` in ``folder``; returns the report."""
    report = quality_report(tokenizer, embeddings, valid_histories)
    write_json(Path(folder) / REPORT_FILE, report)
    plot_quality(report, tokenizer.semantic_ids[:, : tokenizer.config.num_codebooks], Path(folder) / PLOT_FILE)
    return report


def level_usage(codes: np.ndarray, codebook_size: int) -> dict[str, float]:
    """Codes used at one level, and the perplexity of their use: exp(entropy), codebook_size where all are even."""
    counts = np.bincount(codes, minlength=codebook_size)
    shares = counts[counts > 0] / len(codes)
    return {
        "codebook_size": codebook_size,
        "codes_used": int((counts > 0).sum()),
        "perplexity": float(np.exp(-(shares * np.log(shares)).sum())),
    }


def gini(items_per_id: np.ndarray) -> float:
    """Inequality of items per *used* ID (FORGE, arXiv 2509.20904): 0 where all hold as many, near 1 where few hold all.

    IDs that nobody uses do not count, so one ID for everything scores 0 too: read it beside the collision rate.
    """
    ascending = np.sort(items_per_id).astype(np.float64)
    count = len(ascending)
    weights = np.arange(count, 0, -1)
    return float((count + 1) / count - 2 * (weights * ascending).sum() / (count * ascending.sum()))


def semantic_cohesion(quantized: np.ndarray, clusters: np.ndarray) -> float | None:
    """Mean pairwise cosine of quantized embeddings within a cluster, averaged over clusters (R3-VAE, arXiv 2604.11440).

    Args:
        quantized: (num_items, dim).
        clusters: (num_items,), a cluster for each item; here the first code. Clusters of one item do not count.

    Returns:
        -1 to 1, or None where no cluster has two items.
    """
    unit = quantized / np.maximum(np.linalg.norm(quantized, axis=1, keepdims=True), 1e-12)
    order = np.argsort(clusters, kind="stable")
    starts = np.flatnonzero(np.diff(clusters[order], prepend=-1))
    sizes = np.diff(starts, append=len(clusters))
    # The squared norm of the sum counts every ordered pair, and each item with itself once.
    sums = np.add.reduceat(unit[order].astype(np.float64), starts, axis=0)
    itself = np.add.reduceat(np.square(unit[order].astype(np.float64)).sum(axis=1), starts)
    pairs = sizes * (sizes - 1)
    several = pairs > 0
    if not several.any():
        return None
    return float(((np.square(sums).sum(axis=1) - itself)[several] / pairs[several]).mean())


#: One user's rows in the catalogue: history, targets.
UserRows = tuple[np.ndarray, np.ndarray]


@torch.no_grad()
def embedding_hit_rate(
    embeddings: np.ndarray, users: list[UserRows], ks: tuple[int, ...], device: torch.device
) -> dict[str, float]:
    """Share of targets among the k items nearest to the history (FORGE's Embedding HitRate, arXiv 2509.20904).

    FORGE does not say how the lists of several history items merge. Ours: an item's score is its largest cosine to
    any history item, the history itself is left out, and of equal scores the earlier item comes first.

    Returns:
        {"hit_rate@k": mean over users of |top k and targets| / |targets|}.
    """
    unit = functional.normalize(torch.tensor(embeddings, dtype=torch.float32, device=device), dim=-1)
    ks = tuple(sorted({min(k, len(embeddings)) for k in ks}))
    hits = np.zeros(len(ks))
    for history, targets in users:
        ranks = _ranks(unit, torch.from_numpy(history).to(device), torch.from_numpy(targets).to(device))
        hits += [(ranks < k).float().mean().item() for k in ks]
    return {f"hit_rate@{k}": float(hit) / max(len(users), 1) for k, hit in zip(ks, hits, strict=True)}


def _ranks(unit: Tensor, history: Tensor, targets: Tensor) -> Tensor:
    """(num_targets,) ranks from 0 of the targets in the list for one history."""
    scores = (unit[history] @ unit.T).amax(dim=0)
    scores[history] = -torch.inf
    own = scores[targets, None]
    earlier = torch.arange(len(unit), device=unit.device) < targets[:, None]
    ahead = (scores > own) | ((scores == own) & earlier)
    return torch.where(own.squeeze(-1).isfinite(), ahead.sum(dim=-1), len(unit))


def quality_warnings(report: dict[str, Any]) -> list[str]:
    """Plain words on what should be looked at before training on these IDs."""
    warnings = []
    for level, usage in enumerate(report["levels"]):
        usable = min(usage["codebook_size"], report["num_items"])
        if usage["codes_used"] < MIN_SHARE_USED * usable or usage["perplexity"] < MIN_SHARE_PERPLEXITY * usable:
            warnings.append(
                f"Level {level} has collapsed: {usage['codes_used']} of {usage['codebook_size']} codes are used, as "
                f"evenly as {usage['perplexity']:.1f} would be. Try a smaller codebook_size, num_codebooks, "
                "num_components (residual_kmeans) or latent_dim (rqvae), or the other quantizer, and look whether the "
                "embeddings differ at all."
            )
    left = report["collision_rate"]["after_conflict_rounds"]
    if left > MAX_COLLISION_RATE:
        warnings.append(
            f"{left:.0%} of the IDs needed the disambiguation level, whose codes mean nothing: a larger codebook_size "
            "or one more codebook would tell more items apart."
        )
    if report["duplicate_embeddings"] > MAX_COLLISION_RATE:
        warnings.append(
            f"{report['duplicate_embeddings']:.0%} of the items have the same embedding as another: no quantizer can "
            "tell those apart. Give them more text, or add collaborative information."
        )
    return warnings


def _quantized_embeddings(tokenizer: ItemTokenizer, codes: np.ndarray) -> np.ndarray:
    quantizer = tokenizer.quantizer
    with torch.no_grad():
        chunks = [
            quantizer.from_latents(quantizer.quantized_latents(chunk.long())).cpu().numpy()
            for _, chunk in row_chunks(codes, tokenizer.device)
        ]
    return np.concatenate(chunks)


def _sample_users(histories: pa.Table, tokenizer: ItemTokenizer, max_users: int) -> list[UserRows]:
    index = {item_id: row for row, item_id in enumerate(tokenizer.item_ids)}
    chosen = np.random.default_rng(tokenizer.config.seed).permutation(histories.num_rows)[:max_users]
    users = []
    for row in histories.select(["history", "target_item_ids"]).take(np.sort(chosen)).to_pylist():
        try:
            history, targets = ([index[item] for item in row[name]] for name in ("history", "target_item_ids"))
        except KeyError as error:
            raise DataError(
                f"A validation history holds the item {error.args[0]!r}, which has no semantic ID: "
                "use the histories and items of one dataset folder."
            ) from None
        if history and targets:
            users.append((np.array(history), np.array(targets)))
    return users
