"""TRL's GRPOTrainer for item generation: constrained rollouts, rewards of lists, validation by ranking."""

import logging
import warnings
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from peft import PeftConfig
from torch import Tensor
from transformers import (
    EarlyStoppingCallback,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)
from transformers.trainer_utils import EvalLoopOutput
from trl import GRPOConfig, GRPOTrainer

from llmrec.decoding.beam_search import DEFAULT_SCORES, ScoreKind
from llmrec.prompts.renderer import SegmentRenderer
from llmrec.training.arguments import RecommendationGRPOConfig
from llmrec.training.epochs import DrawnByEpoch, EpochCallback
from llmrec.training.loss_tiles import small_tiles
from llmrec.training.processes import shard_on_cpu
from llmrec.training.ranking_trainer import RankingEvaluation, RankingValidation
from llmrec.training.rewards import hit_reward, ndcg_reward, without_hit
from llmrec.training.rollouts import ConstrainedRollouts, RolloutPrompts
from llmrec.training.shared_prompts import share_prompts, takes_shared_prompts
from llmrec.training.tuning import prepare_adapter

logger = logging.getLogger(__name__)


class _NoEvaluationLoop:
    """Leaves out GRPOTrainer's rollouts and loss on validation prompts: the ranking beside them says all."""

    def evaluation_loop(self, *args: Any, **kwargs: Any) -> EvalLoopOutput:  # noqa: ARG002
        return EvalLoopOutput(predictions=None, label_ids=None, metrics={}, num_samples=0)


class RankingGRPOTrainer(RankingValidation, _NoEvaluationLoop, GRPOTrainer):
    """GRPOTrainer whose validation is by ranking alone, and which runs the prompt of a group once where it can."""

    def _get_per_token_logps_and_entropies(
        self,
        model: torch.nn.Module,
        input_ids: Tensor,
        attention_mask: Tensor,
        logits_to_keep: int,
        batch_size: int | None = None,
        compute_entropy: bool = False,
        compute_aux_loss: bool = False,
        **images: Any,
    ) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """TRL's numbers, (completions, tokens), without repeating the prompt before each completion.

        Only the way to them differs, so leaving this method out, as for models that don't take such a mask, changes
        nothing but time and memory.
        """
        if compute_aux_loss or not takes_shared_prompts(self.accelerator.unwrap_model(self.model)):
            return super()._get_per_token_logps_and_entropies(
                model,
                input_ids,
                attention_mask,
                logits_to_keep,
                batch_size,
                compute_entropy,
                compute_aux_loss,
                **images,
            )
        shared = share_prompts(input_ids, attention_mask, logits_to_keep)
        with self.accelerator.autocast(), small_tiles(input_ids.device):
            outputs = model(
                input_ids=shared.input_ids,
                attention_mask=shared.visible.unsqueeze(1),
                position_ids=shared.position_ids,
                shift_labels=shared.labels,
                fused_lm_head=True,
            )
        places = shared.places.unsqueeze(1) + torch.arange(logits_to_keep, device=input_ids.device)
        entropies = outputs.entropy.flatten()[places] if compute_entropy else None
        return outputs.log_probs.flatten()[places], entropies, None


class RolloutCallback(EpochCallback):
    """Tells the prompts which epoch they are drawn for, and lets no checkpoint count that is below the start."""

    def on_evaluate(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,  # noqa: ARG002
        metrics: dict[str, float],
        **kwargs: object,  # noqa: ARG002
    ) -> None:
        if state.global_step == 0 and args.metric_for_best_model is not None:
            state.best_metric = metrics[args.metric_for_best_model]


def build_grpo_trainer(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    args: RecommendationGRPOConfig,
    prompts: RolloutPrompts,
    renderer: SegmentRenderer,
    ranking_evaluation: RankingEvaluation | None,
    early_stopping_patience: int | None,
    peft_config: PeftConfig | None = None,
    scores: ScoreKind = DEFAULT_SCORES,
    inputs: Mapping[str, str] | None = None,
) -> RankingGRPOTrainer:
    """The trainer of the reinforcement stage.

    Log-probabilities in the loss are those of the whole vocabulary: their sum over an item's tokens is what evaluation
    ranks beams by, so what is trained is the number that ranks.

    Args:
        model: decoder-only, already trained to write semantic IDs.
        tokenizer: with the item tokens.
        args: TRL's configuration and ours.
        prompts: training histories and what came next.
        renderer: of the catalog and vocabulary that the model was trained with.
        ranking_evaluation: validation by ranking, the only one there is; None trains without.
        early_stopping_patience: evaluations without a better ``metric_for_best_model`` before training stops.
        peft_config: LoRA, or None for full fine-tuning.
        scores: what beams are ranked by, as for ``BeamSearch``.
        inputs: fingerprints of what is trained on, noted in every checkpoint.

    Raises:
        ValueError: if options don't fit together.
    """
    check_grpo(model, args, prompts)
    args.shuffle_dataset = False  # the prompts' own order depends on the epoch alone, so that a resumed run has it too
    args.eval_on_start = ranking_evaluation is not None  # what training starts from is the model to beat
    args.max_completion_length = len(renderer.catalog.codebook_sizes)
    shard_on_cpu()
    callbacks = rollout_callbacks(prompts, early_stopping_patience, ranking_evaluation is not None)
    dataset = prompts.dataset()
    with warnings.catch_warnings():
        # that it may change: a test watches what of it is used here
        warnings.filterwarnings("ignore", message="You are using 'rollout_func'")
        trainer = RankingGRPOTrainer(
            model=model,
            reward_funcs=reward_function(args),
            args=args,
            train_dataset=dataset,
            eval_dataset=None if ranking_evaluation is None else dataset,
            processing_class=tokenizer,
            callbacks=callbacks,
            peft_config=peft_config,
            rollout_func=ConstrainedRollouts(prompts, renderer, args.rollouts, scores),
        )
    prepare_adapter(trainer.model)
    trainer.ranking_evaluation = ranking_evaluation
    trainer.inputs = inputs
    return trainer


def rollout_callbacks(
    prompts: DrawnByEpoch, early_stopping_patience: int | None, validates: bool
) -> list[TrainerCallback]:
    """Those of a reinforcement stage.

    Args:
        prompts: drawn for each epoch.
        early_stopping_patience: evaluations without progress before training stops; None for no such stop.
        validates: whether there are evaluations at all.
    """
    callbacks: list[TrainerCallback] = [RolloutCallback(prompts)]
    if early_stopping_patience is not None and validates:
        # before the callback that makes the start the best so far: that is no validation without progress
        callbacks.insert(0, EarlyStoppingCallback(early_stopping_patience))
    return callbacks


def check_grpo(model: PreTrainedModel, args: RecommendationGRPOConfig, prompts: RolloutPrompts) -> None:
    """Refuse what would fail, or silently learn nothing, only once training runs.

    Raises:
        ValueError: with what to change.
    """
    if model.config.is_encoder_decoder:
        raise ValueError("The reinforcement stage needs a decoder-only model: TRL's GRPOTrainer trains no other.")
    check_groups(args, len(prompts), "histories", "lists")
    if args.mask_truncated_completions:
        raise ValueError("mask_truncated_completions would mask every list: an item's tokens have no end token.")
    if args.use_vllm or args.use_transformers_continuous_batching:
        raise ValueError("Rollouts come from the constrained search: leave use_vllm and continuous batching off.")
    if args.temperature != 1.0:
        raise ValueError(
            f"temperature is {args.temperature}; it must be 1.0, since beams are ranked by the model's own "
            "log-probabilities."
        )


def check_groups(args: GRPOConfig, num_prompts: int, prompts: str, completions: str) -> None:
    """Refuse batches that cannot be made of whole groups.

    Args:
        args: of the trainer.
        num_prompts: how many there are.
        prompts, completions: what they are called.

    Raises:
        ValueError: with what to change.
    """
    group, local = args.num_generations, args.per_device_train_batch_size * args.steps_per_generation
    if local % group:
        raise ValueError(
            f"A process samples {local} {completions} at a time (per_device_train_batch_size x steps_per_generation), "
            f"which num_generations {group} does not divide: a group may not be cut. Make the batch a multiple of "
            f"{group}."
        )
    needed = args.generation_batch_size // group
    if num_prompts < needed:
        raise ValueError(
            f"A batch holds {needed} {prompts}, and there are {num_prompts}: no step could be made. Lower "
            "--per_device_train_batch_size or --gradient_accumulation_steps."
        )
    if args.train_sampling_strategy == "group_by_length":
        raise ValueError("TRL draws the prompts of a batch itself: leave train_sampling_strategy at random.")


def reward_function(args: RecommendationGRPOConfig) -> Callable[..., list[float]]:
    """The configured reward as TRL calls one, with its logs: groups that hold no target, and where targets stand."""
    score = {"hit": hit_reward, "ndcg": ndcg_reward}[args.reward]
    size = args.num_generations

    def reward(
        item: list[int],
        target: list[int],
        log_metric: Callable[[str, float], None],
        **columns: Any,  # noqa: ARG001 -- TRL passes all it has
    ) -> list[float]:
        items, targets = np.array(item).reshape(-1, size), np.array(target)[::size]
        empty = without_hit(items, targets)
        log_metric("groups_without_hit", float(empty.mean()))
        if empty.all():
            logger.warning(
                "None of this batch's %d lists holds the item that came next, so the step teaches nothing. If this is "
                "frequent, raise --num_generations or the batch.",
                len(empty),
            )
        else:
            hits = items[~empty] == targets[~empty, None]
            log_metric("target_place", float(hits.argmax(axis=1).mean()) + 1)
        return score(items, targets).flatten().tolist()

    reward.__name__ = args.reward
    return reward
