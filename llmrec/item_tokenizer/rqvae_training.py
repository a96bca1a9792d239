"""Training of the RQ-VAE: k-means start, AdamW, dead codes restarted, the state with the fewest collisions kept."""

import copy
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor
from torch.optim.lr_scheduler import LambdaLR
from tqdm import trange

from llmrec.item_tokenizer.collisions import collision_rate
from llmrec.item_tokenizer.config import ItemTokenizerConfig
from llmrec.item_tokenizer.kmeans import kmeans
from llmrec.item_tokenizer.quantizer import row_chunks, squared_distances
from llmrec.item_tokenizer.rqvae import RQVAE

#: Lloyd passes of the k-means start (LC-Rec: scikit-learn's with max_iter 100).
KMEANS_START_ITERATIONS = 100


def train_rqvae(embeddings: np.ndarray, config: ItemTokenizerConfig, device: torch.device) -> RQVAE:
    """Train on (num_items, dim) embeddings in minibatches, and return the state with the lowest collision rate.

    Every ``config.eval_every`` epochs, and at the end, all items are encoded with their nearest codes. The state with
    the fewest collisions is kept (of equal ones the later, which reconstructs better); then each code that no item
    chose restarts at the residual of a random item (ours; LC-Rec leaves dead codes).
    """
    with torch.random.fork_rng(devices=[]):  # weights are drawn on the CPU; leave the caller's generator as it was
        torch.default_generator.manual_seed(config.seed)
        model = RQVAE(config, embeddings.shape[1])
    model.to(device).train()
    rng = np.random.default_rng(config.seed)
    optimizer = torch.optim.AdamW(model.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay)
    steps = -(-len(embeddings) // config.batch_size)
    schedule = LambdaLR(optimizer, _linear_schedule(config, steps))
    best_rate, best_state = float("inf"), copy.deepcopy(model.state_dict())
    progress = trange(1, config.epochs + 1, desc="RQ-VAE epochs", disable=None)
    for epoch in progress:
        order = rng.permutation(len(embeddings))
        if epoch == 1:
            _kmeans_start(model, _batch(embeddings, order[: config.batch_size], device))
        for start in range(0, len(order), config.batch_size):
            output = model(_batch(embeddings, order[start : start + config.batch_size], device))
            optimizer.zero_grad()
            output.loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), config.max_grad_norm)
            optimizer.step()
            schedule.step()
        if epoch % config.eval_every == 0 or epoch == config.epochs:
            codes = model.encode(embeddings)
            rate = collision_rate(codes)
            if rate <= best_rate:
                best_rate, best_state = rate, copy.deepcopy(model.state_dict())
            restarted = _restart_dead_codes(model, embeddings, codes, rng)
            progress.set_postfix(loss=float(output.loss.detach()), collision_rate=rate, restarted=restarted)
    model.load_state_dict(best_state)
    return model.eval()


def _linear_schedule(config: ItemTokenizerConfig, steps_per_epoch: int) -> Callable[[int], float]:
    """Step -> factor of the learning rate: up over the warm-up, then down to 0 at the last step."""
    warmup = min(config.warmup_epochs, config.epochs // 10) * steps_per_epoch
    total = config.epochs * steps_per_epoch

    def factor(step: int) -> float:
        return min((step + 1) / (warmup + 1), (total - step) / (total - warmup))

    return factor


def _batch(embeddings: np.ndarray, rows: np.ndarray, device: torch.device) -> Tensor:
    return torch.tensor(embeddings[rows], dtype=torch.float32, device=device)


@torch.no_grad()
def _kmeans_start(model: RQVAE, batch: Tensor) -> None:
    """Codebooks = k-means centres of the first batch's residuals, level by level."""
    residuals = model.to_latents(batch)
    for level in range(len(model.codebooks)):
        size, seed = model.config.codebook_size, model.config.seed + level
        centres = kmeans(residuals, size, KMEANS_START_ITERATIONS, seed)
        model.codebooks[level] = centres
        residuals = residuals - centres[squared_distances(residuals, centres).argmin(dim=-1)]


@torch.no_grad()
def _restart_dead_codes(model: RQVAE, embeddings: np.ndarray, codes: np.ndarray, rng: np.random.Generator) -> int:
    """Move each code that no item chose to the residual of a random item; returns how many moved."""
    restarted = 0
    for level, codebook in enumerate(model.codebooks):
        dead = np.setdiff1d(np.arange(len(codebook)), codes[:, level])
        rows = rng.choice(len(embeddings), len(dead), replace=len(dead) > len(embeddings))
        for part, points in row_chunks(embeddings[rows], codebook.device):
            residuals = model.to_latents(points)
            chosen = torch.tensor(codes[rows[part]], dtype=torch.int64, device=codebook.device)
            for earlier in range(level):
                residuals = residuals - model.codebooks[earlier][chosen[:, earlier]]
            codebook[torch.tensor(dead[part], device=codebook.device)] = residuals
        restarted += len(dead)
    return restarted
