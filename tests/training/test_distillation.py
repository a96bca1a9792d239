"""Item-kNN as a teacher: its shares against loops, its loss against dense targets, and what it leaves alone."""

from collections import defaultdict

import numpy as np
import pytest
import torch
from torch import nn

from llmrec.baselines import ItemKNN
from llmrec.training.distillation import ItemKNNTeacher, SoftTargets, distilled_loss

NUM_ITEMS = 12
rng = np.random.default_rng(0)
SEQUENCES = [rng.permutation(NUM_ITEMS)[: rng.integers(2, 8)].tolist() for _ in range(30)]
#: Two levels of tokens, 20 to 23 and 30 to 32; the last two items share an ID.
ITEM_TOKENS = np.array([[20 + item % 4, 30 + item // 4] for item in range(NUM_ITEMS - 1)] + [[22, 32]])


def labels_of(*histories, opening: int = 2, end: int | None = None) -> np.ndarray:
    rows = [
        [-100] * opening + ITEM_TOKENS[history].ravel().tolist() + [end] * (end is not None) for history in histories
    ]
    width = max(map(len, rows)) + 1
    return np.array([row + [-100] * (width - len(row)) for row in rows])


def brute_force(history: list[int], exclude_seen: bool) -> dict[tuple[int, int], dict[int, float]]:
    """Shares of tokens at (place, level), of a teacher fitted without the history, with the counts of all."""
    number = {tuple(tokens): n for n, tokens in enumerate(np.unique(ITEM_TOKENS, axis=0).tolist())}
    of_ids = [[number[tuple(ITEM_TOKENS[item])] for item in sequence] for sequence in SEQUENCES]
    place_of = SEQUENCES.index(history)
    others = ItemKNN().fit(of_ids[:place_of] + of_ids[place_of + 1 :], len(number))
    counts = np.bincount([item for sequence in of_ids for item in sequence], minlength=len(number))
    scale = np.sqrt(np.maximum(others.counts, 1) / np.maximum(counts, 1))
    links = others.links.toarray() * scale[:, None] * scale
    tokens_of = {n: tokens for tokens, n in number.items()}
    shares = {}
    asked = of_ids[place_of]
    for place in range(1, len(asked)):
        scores = dict.fromkeys(tokens_of, 0.0)
        for back, source in enumerate(reversed(asked[:place])):
            for item in scores:
                scores[item] += 0.7**back * links[source, item]
        if exclude_seen:
            scores = {item: score for item, score in scores.items() if item not in asked[:place]}
        for level in range(2):
            agreeing = {i: s for i, s in scores.items() if tokens_of[i][:level] == tokens_of[asked[place]][:level]}
            total = sum(agreeing.values())
            of_tokens: dict[int, float] = defaultdict(float)
            for item, score in agreeing.items():
                if score > 1e-9:
                    of_tokens[tokens_of[item][level]] += score / total
            if of_tokens:
                shares[place, level] = dict(of_tokens)
    return shares


@pytest.mark.parametrize("exclude_seen", [True, False])
def test_shares_are_those_of_the_others_links(exclude_seen: bool) -> None:
    teacher = ItemKNNTeacher(SEQUENCES, ITEM_TOKENS, 0.5, exclude_seen)
    chosen = [s for s in SEQUENCES if NUM_ITEMS - 1 not in s or NUM_ITEMS - 2 not in s][:12]
    soft = teacher(labels_of(*chosen))
    found: dict[int, dict[int, float]] = defaultdict(dict)
    for target, token, weight in zip(*soft, strict=True):
        found[int(target)][int(token)] = float(weight)
    start = 0
    expected = {}
    for history in chosen:
        for (place, level), shares in brute_force(history, exclude_seen).items():
            expected[start + 2 * place + level] = shares
        start += 2 * len(history)
    assert found.keys() == expected.keys()
    assert len(found) > 40
    for target, shares in expected.items():
        assert found[target] == pytest.approx(shares, abs=1e-5)


def test_what_is_no_history_has_no_shares_and_shifts_no_others() -> None:
    teacher = ItemKNNTeacher(SEQUENCES, ITEM_TOKENS, 0.5)
    history = max(SEQUENCES, key=len)
    alone = teacher(labels_of(history))
    assert len(alone.targets) > 0
    with_end, of_one = labels_of(history, end=5), labels_of(history[:1])
    wrong_level = labels_of(history)[:, ::-1]
    for labels in (with_end, of_one, wrong_level, np.full((2, 3), -100)):
        assert len(teacher(labels).targets) == 0
    width = with_end.shape[1]
    padded = [
        np.pad(labels, ((0, 0), (0, width - labels.shape[1])), constant_values=-100)
        for labels in (with_end, of_one, labels_of(history))
    ]
    among = teacher(np.concatenate(padded))
    before = (with_end != -100).sum() + (of_one != -100).sum()
    np.testing.assert_array_equal(among.targets, alone.targets + before)
    np.testing.assert_array_equal(among.tokens, alone.tokens)
    np.testing.assert_array_equal(among.weights, alone.weights)


def test_the_loss_is_cross_entropy_with_mixed_targets() -> None:
    logits = torch.randn(5, 9, generator=torch.Generator().manual_seed(0), requires_grad=True)
    labels = torch.tensor([3, 1, 0, 8, 2])
    soft = SoftTargets(np.array([1, 1, 4]), np.array([0, 1, 7]), np.array([0.25, 0.75, 1], dtype=np.float32))
    dense = nn.functional.one_hot(labels, 9).float()
    dense[1] = 0.6 * dense[1] + 0.4 * torch.tensor([0.25, 0.75, 0, 0, 0, 0, 0, 0, 0])
    dense[4] = 0.6 * dense[4] + 0.4 * nn.functional.one_hot(torch.tensor(7), 9)
    expected = nn.functional.cross_entropy(logits, dense, reduction="sum")
    loss = distilled_loss(logits, labels, soft, 0.4)
    assert loss.item() == pytest.approx(expected.item(), rel=1e-6)
    gradients = [torch.autograd.grad(value, logits, retain_graph=True)[0] for value in (loss, expected)]
    torch.testing.assert_close(*gradients)
