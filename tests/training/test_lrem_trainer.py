"""Both stages of LREM on a rule that can be learnt: paraphrases of two properties name the items that have both."""

import numpy as np
import pytest
import torch
from transformers import PreTrainedModel

from llmrec.models.from_config import SmallModelConfig, build_small_model, train_text_tokenizer
from llmrec.models.lrem import LremPrompts, LremSearcher
from llmrec.training.lrem_grpo import LremGRPOConfig, ThoughtRewards, build_lrem_grpo_trainer
from llmrec.training.lrem_trainer import LremTrainingArguments, build_lrem_trainer
from llmrec.training.query_pairs import QueryExample, QueryPairs

SAID = {"red": "like fire", "blue": "like the sky", "warm": "against the cold", "flat": "as thin as paper"}
FIRST, SECOND = ("red", "blue"), ("warm", "flat")
LINES = [f"Thing {number} | {FIRST[number % 2]}, {SECOND[number // 2 % 2]}, size {number // 4}" for number in range(24)]
QUERIES = [f"something {SAID[FIRST[n % 2]]} and {SAID[SECOND[n // 2 % 2]]} of size {n // 4}" for n in range(24)]
KEYWORDS = [f"{FIRST[number % 2]}, {SECOND[number // 2 % 2]}" for number in range(24)]


class World:
    """Model, prompts and examples."""

    def __init__(self, reasoning: bool = True) -> None:
        tokenizer = train_text_tokenizer([*LINES, *QUERIES], 320)
        LremPrompts.add_to(tokenizer)
        self.prompts = LremPrompts(tokenizer, reasoning)
        small = SmallModelConfig(hidden_size=32, num_layers=1, num_heads=2, head_dim=16, intermediate_size=64)
        self.model = build_small_model(small, tokenizer, 0)
        self.items = [self.prompts.item(line) for line in LINES]
        rows = zip(QUERIES, KEYWORDS, strict=True)
        self.examples = [
            QueryExample(self.prompts.query(query), self.prompts.closed(self.prompts.thought(words)), [row])
            for row, (query, words) in enumerate(rows)
        ]
        self.searcher = LremSearcher(self.prompts, LINES, 32)

    def hit_rate(self, model: PreTrainedModel, k: int = 3) -> float:
        ranked = self.searcher.search(model.eval(), QUERIES, k)
        return float(np.mean([row in items for row, items in enumerate(ranked)]))

    def cold_start(self, folder, **options):
        config = LremTrainingArguments(
            output_dir=str(folder),
            save_strategy="no",
            disable_tqdm=True,
            **{"per_device_train_batch_size": 12, "learning_rate": 1e-2, **options},
        )
        pairs = QueryPairs(self.examples, 0)
        return build_lrem_trainer(self.model, config, self.items, pairs, None, None, None)


@pytest.mark.parametrize("reasoning", [True, False])
def test_the_cold_start_learns_to_search_and_to_think(tmp_path, reasoning) -> None:
    world = World(reasoning)
    assert world.hit_rate(world.model) < 0.5
    world.cold_start(tmp_path, num_train_epochs=60, text_weight=1.0).train()
    assert world.hit_rate(world.model) == 1.0
    if reasoning:
        thoughts = world.searcher.write_thoughts(world.model, QUERIES)
        assert [world.prompts.keywords(thought) for thought in thoughts] == KEYWORDS


def test_the_loss_is_a_tenth_of_the_thoughts_and_infonce_in_parts_or_whole(tmp_path) -> None:
    losses = []
    for rows_at_a_time in (None, 7):
        world = World()
        trainer = world.cold_start(tmp_path, max_steps=3, rows_at_a_time=rows_at_a_time, logging_steps=1)
        trainer.train()
        losses.append([entry["loss"] for entry in trainer.state.log_history if "loss" in entry])
    assert np.allclose(*losses, atol=1e-4)
    world = World()
    trainer = world.cold_start(tmp_path)
    batch = trainer.data_collator([trainer.train_dataset[row] for row in range(24)])
    loss = trainer.compute_loss(trainer.model, dict(batch))
    outputs = trainer.model(input_ids=batch["input_ids"], lengths=batch["lengths"], labels=batch["labels"])
    queries, items = outputs["embeddings"].split(24)
    contrastive = torch.nn.functional.cross_entropy(queries @ items.T / 0.05, torch.arange(24))
    torch.testing.assert_close(loss, 0.1 * outputs["text_loss"] / 24 + contrastive)


def test_accumulated_batches_weigh_as_much_as_one_step(tmp_path) -> None:
    """transformers would leave the division to a forward that takes keywords."""
    world = World()
    trainer = world.cold_start(
        tmp_path, max_steps=1, per_device_train_batch_size=6, gradient_accumulation_steps=4, logging_steps=1
    )
    parts = []
    compute = trainer.compute_loss
    trainer.compute_loss = lambda *args, **kwargs: parts.append(compute(*args, **kwargs)) or parts[-1]
    trainer.train()
    logged = next(entry["loss"] for entry in trainer.state.log_history if "loss" in entry)
    assert len(parts) == 4
    assert abs(logged - np.mean([part.item() for part in parts])) < 1e-4


def _grpo(world: World, folder, **options):
    config = LremGRPOConfig(
        output_dir=str(folder),
        save_strategy="no",
        disable_tqdm=True,
        **{"per_device_train_batch_size": 32, "num_generations": 4, "logging_steps": 1, **options},
    )
    return build_lrem_grpo_trainer(
        world.model, config, world.prompts, world.items, QueryPairs(world.examples, 0), None, None
    )


def test_reinforcement_raises_the_reward_and_logs_all_three(tmp_path) -> None:
    world = World()
    world.cold_start(tmp_path / "first", num_train_epochs=30, text_weight=1.0).train()
    options = {"per_device_train_batch_size": 96, "learning_rate": 3e-3, "candidate_pool": 0}
    trainer = _grpo(world, tmp_path / "second", num_train_epochs=16, **options)
    trainer.train()
    logs = [entry for entry in trainer.state.log_history if "reward" in entry]
    assert {f"rewards/thought_{name}/mean" for name in ("format", "length", "rank")} <= set(logs[0])
    assert {"rank", "candidates", "contrastive_loss", "frac_reward_zero_std"} <= set(logs[0])
    assert np.mean([entry["reward"] for entry in logs[-3:]]) > np.mean([entry["reward"] for entry in logs[:3]]) + 0.1


def test_equal_rewards_give_no_advantage_and_are_logged(tmp_path) -> None:
    world = World()
    trainer = _grpo(world, tmp_path, max_steps=1, contrastive_weight=0.0, reward_weights=[0.0, 0.0, 0.0])
    before = {name: weight.clone() for name, weight in world.model.named_parameters()}
    trainer.train()
    log = next(entry for entry in trainer.state.log_history if "reward" in entry)
    assert log["frac_reward_zero_std"] == 1.0
    assert log["reward_std"] == 0.0
    for name, weight in trainer.model.named_parameters():
        torch.testing.assert_close(weight, before[name], atol=1e-6, rtol=0)


def test_infonce_of_the_second_stage_reads_thoughts_as_they_are_served(tmp_path) -> None:
    world = World()
    trainer = _grpo(world, tmp_path, contrastive_weight=1.0)
    rows, end = [3, 3, 5, 5], world.prompts.tokens
    thoughts = [[end.think, 40, end.end_think, end.embed], [41] * 20, [40], [end.embed]]
    longest = max(map(len, thoughts))
    completions = torch.tensor([thought + [0] * (longest - len(thought)) for thought in thoughts])
    mask = torch.tensor([[1] * len(thought) + [0] * (longest - len(thought)) for thought in thoughts])
    inputs = {"rows": torch.tensor(rows), "completion_ids": completions, "completion_mask": mask}
    loss = trainer._contrastive_loss(trainer.model, inputs)
    served = [[40], [41] * 16, [40], []]
    texts = [QUERIES[row] for row in rows]
    queries = torch.from_numpy(world.searcher.embed_queries(world.model, texts, served))
    items = torch.from_numpy(world.searcher.embed_items(world.model)[[3, 5]])
    own = torch.tensor([0, 0, 1, 1])
    torch.testing.assert_close(
        loss, torch.nn.functional.cross_entropy(queries @ items.T / 0.05, own), atol=1e-4, rtol=0
    )


def test_where_nothing_can_be_told_apart_the_reward_is_the_same_for_all(tmp_path) -> None:
    world = World()
    world.examples = [example._replace(relevant=[*range(24)]) for example in world.examples]
    trainer = _grpo(world, tmp_path, candidate_pool=0)
    reward = trainer.reward_funcs[2]
    logged = {}
    found = reward(completion_ids=[[40], [41]], row=[3, 5], log_metric=logged.__setitem__)
    assert found == [1.0, 1.0]
    assert logged["candidates"] == 1


def test_pairs_of_workers_that_stay_alive_would_be_the_first_epochs(tmp_path) -> None:
    with pytest.raises(ValueError, match="would keep the first epoch's pairs"):
        World().cold_start(tmp_path, dataloader_persistent_workers=True, dataloader_num_workers=1)


@pytest.mark.parametrize("num_candidates", [0, 10])
def test_candidates_of_the_batch_or_a_pool_of_one_size(num_candidates) -> None:
    world = World()
    rewards = ThoughtRewards(
        world.prompts, world.items, QueryPairs(world.examples, 0), num_candidates, batch_size=8, seed=0
    )
    for rows in ([1, 1, 2, 2], [1, 1, 2, 2, 7, 7]):
        items, own = rewards.candidates(rows, step=0)
        assert items[own].tolist() == rows
        assert len(set(items.tolist())) == len(items) == (num_candidates or len(set(rows)))
    assert rewards.candidates([1], 0)[0].tolist() == rewards.candidates([1], 0)[0].tolist()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_completion_length": 19}, "needs room for a longer one"),
        ({"per_device_train_batch_size": 8, "num_generations": 8, "candidate_pool": 0}, "has one candidate"),
        ({"per_device_train_batch_size": 400}, "no step could be made"),
        ({"mask_truncated_completions": True}, "to be unlearnt"),
        ({"train_sampling_strategy": "group_by_length"}, "leave train_sampling_strategy at random"),
        ({"candidate_pool": 4}, "a batch may hold 8 different items"),
        ({"candidate_pool": 1}, "candidate_pool is 1"),
        ({"contrastive_temperature": 0.0}, "contrastive_temperature is 0.0"),
    ],
)
def test_options_that_would_teach_nothing_are_refused(tmp_path, options, message) -> None:
    with pytest.raises(ValueError, match=message):
        _grpo(World(), tmp_path, **options)


def test_a_model_without_thoughts_is_not_reinforced(tmp_path) -> None:
    with pytest.raises(ValueError, match="was trained without"):
        _grpo(World(reasoning=False), tmp_path)
