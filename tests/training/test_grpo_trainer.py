"""The reinforcement stage's trainer: rollouts are the decoder's, numbers are TRL's, groups are kept whole."""

import inspect
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import PreTrainedModel
from trl import GRPOTrainer

from llmrec.decoding.beam_search import BeamSearch
from llmrec.decoding.rules import Rules
from llmrec.prompts.history import history_prompt
from llmrec.prompts.renderer import SegmentRenderer
from llmrec.training.arguments import RecommendationGRPOConfig
from llmrec.training.grpo_trainer import RankingGRPOTrainer, build_grpo_trainer, check_grpo, reward_function
from llmrec.training.rollouts import RolloutPrompts
from tests.tiny import make_catalog, make_model

CATALOG = make_catalog(num_items=30)
SEQUENCES = [np.random.default_rng(user).permutation(30)[: 4 + user].tolist() for user in range(12)]
GROUP = 4


def _trainer(tmp_path: Path, model: PreTrainedModel | None = None, **options: Any) -> RankingGRPOTrainer:
    fresh, tokenizer, vocabulary = make_model(CATALOG)
    renderer = SegmentRenderer(CATALOG, vocabulary)

    def tokens(history: Sequence[int]) -> list[int]:
        return renderer(history_prompt([CATALOG.item_ids[item] for item in history]))

    settings = {"num_generations": GROUP, "per_device_train_batch_size": 3 * GROUP, "max_steps": 2, "logging_steps": 1}
    settings |= {"save_strategy": "no", "disable_tqdm": True, **options}
    config = RecommendationGRPOConfig(output_dir=str(tmp_path), **settings)
    prompts = RolloutPrompts(SEQUENCES, tokens, config.targets, exclude_seen=True, seed=config.seed)
    trainer = build_grpo_trainer(model or fresh, tokenizer, config, prompts, renderer, None, None)
    trainer.model_wrapped = trainer.model  # as it is once training has begun
    return trainer


def _rollout(trainer: RankingGRPOTrainer, numbers: list[int]) -> dict[str, Any]:
    return trainer.rollout_func([str(number) for number in numbers for _ in range(GROUP)], trainer)


def _batch(output: dict[str, Any], pad_token_id: int, order: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, int]:
    """What TRL makes of a rollout: left-padded prompts and completions, and the mask, in another order of rows."""
    width = max(map(len, output["prompt_ids"]))
    rows, masks = [], []
    for prompt, completion in zip(output["prompt_ids"], output["completion_ids"], strict=True):
        padding = width - len(prompt)
        rows.append([pad_token_id] * padding + prompt + completion)
        masks.append([0] * padding + [1] * (len(prompt) + len(completion)))
    return torch.tensor(rows)[order], torch.tensor(masks)[order], len(output["completion_ids"][0])


def test_trl_still_has_what_the_stage_builds_on() -> None:
    """If this fails, TRL has changed: see what became of the rollout function, and of the method that we speed up."""
    assert "rollout_func" in inspect.signature(GRPOTrainer.__init__).parameters
    source = inspect.getsource(GRPOTrainer._generate)
    assert "self.rollout_func(prompts, self)" in source
    assert '{"prompt_ids", "completion_ids", "logprobs"}' in source
    names = list(inspect.signature(GRPOTrainer._get_per_token_logps_and_entropies).parameters)
    ours = list(inspect.signature(RankingGRPOTrainer._get_per_token_logps_and_entropies).parameters)
    assert names[: len(ours) - 1] == ours[:-1]


@pytest.mark.parametrize("targets", ["latest", "any"])
def test_rollouts_are_the_decoders_lists_of_unseen_items(tmp_path, targets) -> None:
    trainer = _trainer(tmp_path, targets=targets)
    prompts, renderer = trainer.rollout_func.prompts, trainer.rollout_func.renderer
    numbers = [3, 0, 11]
    output = _rollout(trainer, numbers)
    search = BeamSearch.from_catalog(trainer.model, CATALOG, renderer.vocabulary)
    items = np.array(output["item"]).reshape(len(numbers), GROUP)
    for row, number in enumerate(numbers):
        cut = prompts.cut(number)
        history, target = SEQUENCES[number][:cut], SEQUENCES[number][cut]
        tokens = prompts.tokens(history)
        expected = search([tokens], GROUP, GROUP, [Rules(exclude=history)]).items[0].tolist()
        assert items[row].tolist() == expected
        assert len(set(expected)) == GROUP
        assert not set(expected) & set(history)
        assert output["target"][row * GROUP : (row + 1) * GROUP] == [target] * GROUP
        assert output["prompt_ids"][row * GROUP : (row + 1) * GROUP] == [tokens] * GROUP
    known = [renderer.item_tokens(CATALOG.item_ids[item]) for item in output["item"]]
    assert output["completion_ids"] == known


def test_samples_are_different_items_and_follow_torchs_seed(tmp_path) -> None:
    trainer = _trainer(tmp_path, rollouts="samples")
    draws = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        draws.append(_rollout(trainer, [5, 6])["item"])
    assert draws[0] == draws[1] != draws[2]
    assert len(set(draws[0][:GROUP])) == GROUP


def test_the_trained_log_probabilities_are_the_scores_that_rank_beams(tmp_path) -> None:
    trainer = _trainer(tmp_path)
    prompts, renderer = trainer.rollout_func.prompts, trainer.rollout_func.renderer
    numbers = [2, 9, 7]
    output = _rollout(trainer, numbers)
    ids, mask, length = _batch(output, trainer.processing_class.pad_token_id, torch.arange(len(numbers) * GROUP))
    log_probs, _, _ = trainer._get_per_token_logps_and_entropies(trainer.model, ids, mask, length)
    histories = [SEQUENCES[number][: prompts.cut(number)] for number in numbers]
    tokens = [prompts.tokens(history) for history in histories]
    search = BeamSearch.from_catalog(trainer.model, CATALOG, renderer.vocabulary)
    scores = search(tokens, GROUP, GROUP, [Rules(exclude=history) for history in histories]).scores
    assert log_probs.sum(1).tolist() == pytest.approx(scores.flatten().tolist(), abs=1e-4)


def test_a_shared_prompt_gives_trls_own_numbers_and_gradients(tmp_path) -> None:
    trainer = _trainer(tmp_path)
    output = _rollout(trainer, [1, 10, 4])
    order = torch.randperm(3 * GROUP, generator=torch.Generator().manual_seed(0))[:-2]  # groups cut, as in a step
    ids, mask, length = _batch(output, trainer.processing_class.pad_token_id, order)
    mask[0, -1] = 0  # a completion may be shorter than the others
    weights = torch.randn(len(ids), length, generator=torch.Generator().manual_seed(1)) * mask[:, -length:]
    results = []
    for method in (RankingGRPOTrainer, GRPOTrainer):
        trainer.model.zero_grad()
        log_probs, entropies, _ = method._get_per_token_logps_and_entropies(
            trainer, trainer.model, ids, mask, length, compute_entropy=True
        )
        (log_probs * weights).sum().backward()
        gradient = trainer.model.get_input_embeddings().weight.grad.clone()
        results.append((log_probs.detach() * mask[:, -length:], entropies.detach() * mask[:, -length:], gradient))
    for ours, theirs in zip(*results, strict=True):
        assert (ours - theirs).norm() < 1e-4 * theirs.norm()


@pytest.mark.parametrize("scale", ["none", "group"])
def test_advantages_of_a_group_by_hand(tmp_path, scale) -> None:
    trainer = _trainer(tmp_path, scale_rewards=scale)
    trainer.reward_funcs[0] = lambda **_: [0.0, 1.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0]
    inputs = [{"prompt": number} for number in ("3", "8") for _ in range(GROUP)]
    trainer.model.train()
    advantages = trainer._generate_and_score_completions(inputs)["advantages"]
    expected = np.array([-0.25, 0.75, -0.25, -0.25])
    if scale == "group":
        expected = expected / (np.std([0, 1, 0, 0], ddof=1) + 1e-4)
    assert advantages.tolist() == pytest.approx([*expected, 0, 0, 0, 0], abs=1e-5)


def test_a_batch_without_a_hit_is_logged_and_teaches_nothing(tmp_path, caplog) -> None:
    trainer = _trainer(tmp_path)
    reward = reward_function(trainer.args)
    logged: dict[str, float] = {}
    items = [1, 2, 3, 4, 5, 6, 7, 8]
    with caplog.at_level(logging.WARNING, logger="llmrec"):
        assert reward(item=items, target=[9] * 8, log_metric=logged.__setitem__, prompts=[]) == [0.0] * 8
    assert "teaches nothing" in caplog.text
    assert logged == {"groups_without_hit": 1.0}
    caplog.clear()
    assert reward(item=items, target=[3] * 4 + [9] * 4, log_metric=logged.__setitem__)[2] == 1.0
    assert logged == {"groups_without_hit": 0.5, "target_place": 3.0}
    assert not caplog.text


def test_training_raises_the_items_that_came_next(tmp_path) -> None:
    trainer = _trainer(
        tmp_path, max_steps=20, learning_rate=5e-3, targets="latest", num_generations=8, per_device_train_batch_size=96
    )
    trainer.train()
    history = [entry for entry in trainer.state.log_history if "groups_without_hit" in entry]
    assert np.mean([entry["groups_without_hit"] for entry in history[-5:]]) < history[0]["groups_without_hit"]
    assert history[-1]["reward"] > history[0]["reward"]


def test_every_epoch_takes_each_user_once_with_targets_that_depend_on_seed_and_epoch_only() -> None:
    prompts = RolloutPrompts(SEQUENCES, list, "any", exclude_seen=True, seed=1)
    orders, cuts = [], []
    for epoch in (0, 1, 0):
        prompts.epoch = epoch
        orders.append(prompts.dataset()[:]["prompt"])
        cuts.append([prompts.cut(number) for number in range(len(prompts))])
    assert orders[0] == orders[2] != orders[1]
    assert cuts[0] == cuts[2] != cuts[1]
    assert sorted(map(int, orders[1])) == list(range(len(SEQUENCES)))
    assert all(1 <= cut < len(sequence) for cut, sequence in zip(cuts[0], SEQUENCES, strict=True))
    with pytest.raises(ValueError, match="fewer than two items"):
        RolloutPrompts([[1]], list, "latest", exclude_seen=True, seed=1)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"per_device_train_batch_size": 13 * GROUP}, "no step could be made"),
        ({"mask_truncated_completions": True}, "no end token"),
        ({"temperature": 0.5}, "must be 1.0"),
    ],
)
def test_what_would_fail_later_is_refused_at_the_start(tmp_path, options, message) -> None:
    with pytest.raises(ValueError, match=message):
        _trainer(tmp_path, **options)


def test_a_group_may_not_be_cut_between_processes(tmp_path) -> None:
    trainer = _trainer(tmp_path)
    trainer.args.per_device_train_batch_size = 6  # two such processes make three groups, which TRL allows
    with pytest.raises(ValueError, match="multiple of 4"):
        check_grpo(trainer.model, trainer.args, trainer.rollout_func.prompts)


def test_too_few_items_for_a_group_is_an_error_that_says_so(tmp_path) -> None:
    trainer = _trainer(tmp_path, num_generations=28, per_device_train_batch_size=28, targets="latest")
    with pytest.raises(ValueError, match="lower --num_generations"):
        trainer.rollout_func(["11"] * 28, trainer)
