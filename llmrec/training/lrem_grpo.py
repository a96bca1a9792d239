"""LREM's reinforcement stage: TRL's GRPOTrainer over thoughts, rewarded by what they find, with InfoNCE beside it."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from accelerate.utils import gather_object
from datasets import Dataset
from peft import PeftConfig, PeftModel
from torch import Tensor
from transformers import PreTrainedModel
from trl import GRPOConfig

from llmrec.models.lrem import LremPrompts, add_embeddings
from llmrec.models.lrem.searcher import embed_sequences, padded
from llmrec.training.arguments import SharedDefaults, fit_machine
from llmrec.training.contrastive import info_nce, relevant_elsewhere
from llmrec.training.grpo_trainer import RankingGRPOTrainer, check_groups, rollout_callbacks
from llmrec.training.processes import shard_on_cpu, whole_model
from llmrec.training.query_pairs import QueryPairs
from llmrec.training.ranking_trainer import RankingEvaluation
from llmrec.training.reasoning_rewards import (
    REWARD_WEIGHTS,
    format_reward,
    length_reward,
    rank_reward,
    target_ranks,
)
from llmrec.training.tuning import prepare_adapter


@dataclass
class LremGRPOConfig(SharedDefaults, GRPOConfig):
    """``GRPOConfig`` of the second stage; without an accelerator it turns ``use_cpu`` on.

    The paper's: 8 samples, the rewards' weights, a ratio of whole sequences, no KL term, InfoNCE weighted 0.1.
    """

    output_dir: str | None = field(
        default="outputs/lrem_rl", metadata={"help": "Folder of the run: checkpoint and results."}
    )
    num_generations: int = field(default=8, metadata={"help": "Thoughts sampled for a query (paper: 8)."})
    reward_weights: list[float] | None = field(
        default_factory=lambda: list(REWARD_WEIGHTS),
        metadata={"help": "Of format, length and rank (paper: 0.5 0.2 1.0)."},
    )
    importance_sampling_level: str = field(default="sequence", metadata={"help": "token or sequence (paper)."})
    loss_type: str = field(default="grpo", metadata={"help": "TRL's name of how tokens and sequences are averaged."})
    beta: float = field(default=0.0, metadata={"help": "Weight of a KL term (paper: none)."})
    contrastive_weight: float = field(
        default=0.1, metadata={"help": "Weight of InfoNCE over all samples (paper: 0.1)."}
    )
    contrastive_temperature: float = field(
        default=0.05, metadata={"help": "Of InfoNCE; the paper does not say: as in the first stage."}
    )
    candidate_pool: int = field(
        default=256,
        metadata={
            "help": "Items among which the true one is ranked for its reward, drawn for each batch. 0: those of the "
            "batch (paper), which makes the reward depend on its size."
        },
    )
    max_completion_length: int | None = field(
        default=24, metadata={"help": "Tokens sampled for a thought, control tokens included; above the cap of 16 + 3."}
    )
    num_train_epochs: float = field(default=2, metadata={"help": "Passes over the queries."})
    per_device_train_batch_size: int = field(
        default=256, metadata={"help": "Thoughts in a training batch: a multiple of num_generations."}
    )
    per_device_eval_batch_size: int = field(default=128, metadata={"help": "Texts in an evaluation batch."})
    learning_rate: float = field(default=1e-4, metadata={"help": "Peak learning rate."})
    weight_decay: float = field(default=0.0, metadata={"help": "Decoupled weight decay."})
    logging_steps: float = field(default=5, metadata={"help": "Log rewards and the rest every so many steps."})
    save_strategy: str = field(default="epoch", metadata={"help": "When to validate and save."})
    seed: int = field(default=42, metadata={"help": "Of everything drawn: order, samples, candidates."})

    def __post_init__(self) -> None:
        fit_machine(self)
        super().__post_init__()
        if self.contrastive_temperature <= 0:
            raise ValueError(f"contrastive_temperature is {self.contrastive_temperature}; it must be above 0.")
        if self.candidate_pool < 0 or self.candidate_pool == 1:
            raise ValueError(
                f"candidate_pool is {self.candidate_pool}; give 2 or more, or 0 for the items of the batch."
            )


class ThoughtRewards:
    """The three rewards of each sampled thought, as functions that TRL calls.

    Args:
        prompts: of the model.
        items: token ids of every item of the catalogue.
        pairs: the training queries.
        num_candidates: items to rank among; 0 for the batch's own.
        batch_size: texts embedded at a time.
        seed: of the candidates.
    """

    def __init__(
        self,
        prompts: LremPrompts,
        items: Sequence[Sequence[int]],
        pairs: QueryPairs,
        num_candidates: int,
        batch_size: int,
        seed: int,
    ) -> None:
        self.prompts = prompts
        self.items = items
        self.pairs = pairs
        self.num_candidates = num_candidates
        self.batch_size = batch_size
        self.seed = seed
        self.trainer: RankingGRPOTrainer | None = None

    def functions(self) -> list[Callable[..., list[float]]]:
        """Under the names that logs show."""

        def thought_format(completion_ids: list[list[int]], **columns: Any) -> list[float]:  # noqa: ARG001 -- TRL's call
            return [format_reward(ids, self.prompts.tokens) for ids in completion_ids]

        def thought_length(completion_ids: list[list[int]], **columns: Any) -> list[float]:  # noqa: ARG001
            limit = self.prompts.max_thought_tokens
            return [length_reward(ids, self.prompts.tokens, limit) for ids in completion_ids]

        def thought_rank(
            completion_ids: list[list[int]],
            row: list[int],
            log_metric: Callable[[str, float], None],
            **columns: Any,  # noqa: ARG001
        ) -> list[float]:
            ranks, count = self.ranks(completion_ids, row)
            log_metric("rank", float(ranks.mean()))
            log_metric("candidates", float(count.mean()))
            # where all other candidates are looked for too there is nothing to tell apart, nor to learn
            return np.where(count > 1, rank_reward(ranks, np.maximum(count, 2)), 1.0).tolist()

        return [thought_format, thought_length, thought_rank]

    def candidates(self, rows: Sequence[int], step: int) -> tuple[np.ndarray, np.ndarray]:
        """The items that those of a batch of queries, of all processes together, are ranked among.

        Args:
            rows: queries of this process, repeated for their samples.
            step: of training, so that each has candidates of its own.

        Returns:
            Distinct items, and where among them each row's own lies.
        """
        own = [self.pairs[row].items[0] for row in rows]
        items = np.unique(gather_object(own))
        places = np.searchsorted(items, own)
        if self.num_candidates:
            others = np.setdiff1d(np.arange(len(self.items)), items)
            count = min(max(self.num_candidates - len(items), 0), len(others))
            drawn = np.random.default_rng((self.seed, step)).choice(others, count, replace=False)
            items = np.concatenate([items, drawn])
        return items, places

    def ranks(self, completion_ids: Sequence[Sequence[int]], rows: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
        """Rank of the true item for each thought, and among how many: both int64 of shape (num_thoughts,).

        Other items that a query looks for are no candidates of it.
        """
        assert self.trainer is not None
        items, own = self.candidates(rows, self.trainer.state.global_step)
        sequences = [
            [*self.pairs.examples[row].prompt, *self.prompts.closed(ids)]
            for row, ids in zip(rows, completion_ids, strict=True)
        ]
        with whole_model(self.trainer) as model:
            queries = embed_sequences(model, sequences, self.batch_size)
            found = embed_sequences(model, [self.items[item] for item in items], self.batch_size)
        relevant = padded([self.pairs.examples[row].relevant for row in rows], -1)[0]
        excluded = relevant_elsewhere(torch.from_numpy(items), relevant, torch.from_numpy(own)).numpy()
        return target_ranks(queries, found, own, excluded), (~excluded).sum(axis=1)


class LremGRPOTrainer(RankingGRPOTrainer):
    """GRPO over thoughts; prompts are rows of ``pairs``, so that no text is tokenized on the way."""

    pairs: QueryPairs
    prompts: LremPrompts
    items: Sequence[Sequence[int]]

    def _tokenize_prompts(self, prompts: list[str]) -> tuple[list[list[int]], None, dict[str, Any]]:
        return [self.pairs.examples[int(row)].prompt for row in prompts], None, {}

    def _generate_and_score_completions(self, inputs: list[dict[str, Any]]) -> dict[str, Any]:
        outputs = super()._generate_and_score_completions(inputs)
        outputs["rows"] = torch.tensor([example["row"] for example in inputs], device=self.accelerator.device)
        return outputs

    def _compute_loss(self, model: torch.nn.Module, inputs: dict[str, Any]) -> Tensor:
        loss = super()._compute_loss(model, inputs)
        if not self.args.contrastive_weight:
            return loss
        contrastive = self._contrastive_loss(model, inputs)
        mode = "train" if self.model.training else "eval"
        self._metrics[mode]["contrastive_loss"].append(self.accelerator.gather(contrastive.detach()).mean().item())
        accumulated = self.current_gradient_accumulation_steps if mode == "train" else 1
        return loss + self.args.contrastive_weight * contrastive / accumulated

    def _contrastive_loss(self, model: torch.nn.Module, inputs: dict[str, Any]) -> Tensor:
        """InfoNCE over all samples of a batch, each as it is served: its thought cut and closed."""
        rows, written = inputs["rows"].tolist(), inputs["completion_mask"].sum(dim=1).tolist()
        thoughts = [ids[:count] for ids, count in zip(inputs["completion_ids"].tolist(), written, strict=True)]
        examples = [self.pairs.examples[row] for row in rows]
        queries = [
            [*example.prompt, *self.prompts.closed(ids)] for example, ids in zip(examples, thoughts, strict=True)
        ]
        item_rows, own = np.unique([self.pairs[row].items[0] for row in rows], return_inverse=True)
        device = self.accelerator.device
        input_ids, lengths = padded([*queries, *(self.items[item] for item in item_rows)])
        embeddings = model(input_ids=input_ids.to(device), lengths=lengths.to(device))["embeddings"]
        places = torch.from_numpy(own).to(device)
        relevant, _ = padded([example.relevant for example in examples], -1)
        excluded = relevant_elsewhere(torch.from_numpy(item_rows).to(device), relevant.to(device), places)
        asked, found = embeddings.split([len(queries), len(item_rows)])
        return info_nce(asked, found, places, self.args.contrastive_temperature, excluded)


def build_lrem_grpo_trainer(
    model: PreTrainedModel,
    args: LremGRPOConfig,
    prompts: LremPrompts,
    items: Sequence[Sequence[int]],
    pairs: QueryPairs,
    ranking_evaluation: RankingEvaluation | None,
    early_stopping_patience: int | None,
    peft_config: PeftConfig | None = None,
    inputs: Mapping[str, str] | None = None,
) -> LremGRPOTrainer:
    """The trainer of the second stage.

    Args:
        model: that has gone through the first.
        args: TRL's configuration and ours.
        prompts: of the model.
        items: token ids of every item of the catalogue.
        pairs: the queries to think about.
        ranking_evaluation: validation by searching the catalogue; None trains without.
        early_stopping_patience: evaluations without a better ``metric_for_best_model`` before training stops.
        peft_config: LoRA, or None for full fine-tuning.
        inputs: fingerprints of what is trained on, noted in every checkpoint.

    Raises:
        ValueError: if options don't fit together.
    """
    check_lrem_grpo(args, prompts, pairs)
    args.shuffle_dataset = False  # the order depends on the epoch alone, so that a resumed run has it too
    args.eval_on_start = ranking_evaluation is not None  # what training starts from is the model to beat
    ends = sorted({prompts.tokens.embed, prompts.tokenizer.eos_token_id} - {None})
    model.generation_config.eos_token_id = ends
    if args.use_vllm:  # which reads the ends of a text from the start's files
        args.generation_kwargs = {**(args.generation_kwargs or {}), "stop_token_ids": ends}
    shard_on_cpu()
    callbacks = rollout_callbacks(pairs, early_stopping_patience, ranking_evaluation is not None)
    rewards = ThoughtRewards(prompts, items, pairs, args.candidate_pool, args.per_device_eval_batch_size, args.seed)
    order = np.random.default_rng(args.seed).permutation(len(pairs))
    dataset = Dataset.from_dict({"prompt": [str(row) for row in order], "row": order})
    trainer = LremGRPOTrainer(
        model=model,
        reward_funcs=rewards.functions(),
        args=args,
        train_dataset=dataset,
        eval_dataset=None if ranking_evaluation is None else dataset.select(range(1)),
        processing_class=prompts.tokenizer,
        callbacks=callbacks,
        peft_config=peft_config,
    )
    rewards.trainer = trainer
    base = trainer.model.get_base_model() if isinstance(trainer.model, PeftModel) else trainer.model
    add_embeddings(base)  # around TRL's own forward
    prepare_adapter(trainer.model)
    trainer.pairs, trainer.prompts, trainer.items = pairs, prompts, items
    trainer.ranking_evaluation = ranking_evaluation
    trainer.inputs = inputs
    return trainer


def check_lrem_grpo(args: LremGRPOConfig, prompts: LremPrompts, pairs: QueryPairs) -> None:
    """Refuse what would fail, or silently learn nothing, only once training runs.

    Raises:
        ValueError: with what to change.
    """
    group = args.num_generations
    check_groups(args, len(pairs), "queries", "thoughts")
    needed = args.generation_batch_size // group
    shortest = prompts.max_thought_tokens + len(prompts.tokens)
    if not prompts.reasoning:
        raise ValueError("The reinforcement stage samples thoughts, and this model was trained without: --reasoning.")
    if needed < 2 and not args.candidate_pool:
        raise ValueError("A batch of one query has one candidate: give --candidate_pool, or a larger batch.")
    if 0 < args.candidate_pool < needed:
        raise ValueError(
            f"candidate_pool is {args.candidate_pool}, and a batch may hold {needed} different items: give as many or "
            "more, or 0."
        )
    if args.max_completion_length is None or args.max_completion_length <= shortest:
        raise ValueError(
            f"max_completion_length is {args.max_completion_length}; a thought at its cap takes {shortest} tokens, and "
            "the length reward needs room for a longer one."
        )
    if args.mask_truncated_completions:
        raise ValueError("mask_truncated_completions would hide thoughts that never end, which are to be unlearnt.")
