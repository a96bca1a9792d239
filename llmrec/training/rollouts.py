"""Rollouts of TRL's GRPOTrainer from the constrained search: lists of catalogue items for parts of training histories.

TRL reads a row number as the prompt; token ids come from the renderer, so no text is ever tokenized on the way.
"""

from collections.abc import Callable, Sequence
from typing import Any, Literal

import numpy as np
import torch
from datasets import Dataset
from torch import Tensor
from trl import GRPOTrainer

from llmrec.decoding.beam_search import BeamSearch, ScoreKind
from llmrec.decoding.rules import Rules
from llmrec.prompts.renderer import SegmentRenderer
from llmrec.training.processes import whole_model

#: beams: the search's list, as evaluation ranks. samples: drawn without replacement.
RolloutMethod = Literal["beams", "samples"]
#: latest: the last item of each training history. any: an item of it, drawn anew each epoch.
TargetChoice = Literal["latest", "any"]


class RolloutPrompts:
    """For each user and epoch a part of the training history and the item that came next.

    Args:
        sequences: each user's training items, oldest first, as item indices; those of one item are left out.
        tokens: token ids of the prompt that asks for the item after a history of item indices, as evaluation does.
        targets: which item of a sequence is to be predicted.
        exclude_seen: whether rollouts leave out what the user had before, as evaluation does.
        seed: of the order and of the drawn targets.

    Raises:
        ValueError: if no sequence has two items.
    """

    def __init__(
        self,
        sequences: Sequence[Sequence[int]],
        tokens: Callable[[Sequence[int]], list[int]],
        targets: TargetChoice,
        exclude_seen: bool,
        seed: int,
    ) -> None:
        self.sequences = [sequence for sequence in sequences if len(sequence) > 1]
        if not self.sequences:
            raise ValueError("There is nothing to predict: every history has fewer than two items.")
        self.tokens = tokens
        self.targets = targets
        self.exclude_seen = exclude_seen
        self.seed = seed
        self.epoch = 0

    def __len__(self) -> int:
        return len(self.sequences)

    def dataset(self) -> Dataset:
        """Rows with the column ``prompt``: the number of a sequence as a string, in the order of the epoch."""
        return Dataset.from_dict({"place": range(len(self))}).with_transform(self._read)

    def cut(self, number: int) -> int:
        """How many items of a sequence are its history in the current epoch; the next one is the target."""
        length = len(self.sequences[number])
        if self.targets == "latest":
            return length - 1
        return int(np.random.default_rng((self.seed, self.epoch, number)).integers(1, length))

    def _read(self, batch: dict[str, list[int]]) -> dict[str, list[str]]:
        order = np.random.default_rng((self.seed, self.epoch)).permutation(len(self))
        return {"prompt": [str(order[place]) for place in batch["place"]]}


class ConstrainedRollouts:
    """TRL's rollout function: one constrained search for each prompt gives all completions of its group, best first.

    Args:
        prompts: what the row numbers that TRL passes stand for.
        renderer: of the catalog and vocabulary that the model was trained with.
        method: where the items of a group come from.
        scores: what beams are ranked by, as for ``BeamSearch``.
    """

    def __init__(
        self, prompts: RolloutPrompts, renderer: SegmentRenderer, method: RolloutMethod, scores: ScoreKind
    ) -> None:
        self.prompts = prompts
        self.renderer = renderer
        self.method = method
        self.scores = scores
        self._item_tokens = renderer.vocabulary.item_token_ids(renderer.catalog.semantic_ids).tolist()
        self._search: BeamSearch | None = None

    def __call__(self, prompts: list[str], trainer: GRPOTrainer) -> dict[str, Any]:
        """Completions of one generation batch of this process.

        Args:
            prompts: row numbers, each ``num_generations`` times in a row.
            trainer: whose model is searched.

        Returns:
            For each entry of ``prompts``: ``prompt_ids`` and ``completion_ids``, and for the rewards ``item`` and
            ``target`` (item indices). ``logprobs`` is None: TRL needs those of the sampler only to correct a sampler
            whose numbers differ from the trained model's, and here they are the same model's.

        Raises:
            ValueError: if a history leaves fewer than ``num_generations`` items to recommend.
        """
        size = trainer.num_generations
        numbers = [int(number) for number in prompts[::size]]
        cuts = [self.prompts.cut(number) for number in numbers]
        histories = [self.prompts.sequences[number][:cut] for number, cut in zip(numbers, cuts, strict=True)]
        targets = [self.prompts.sequences[number][cut] for number, cut in zip(numbers, cuts, strict=True)]
        tokens = [self.prompts.tokens(history) for history in histories]
        with whole_model(trainer) as model:
            items = self._items(model, tokens, histories, size)
        short = (items < 0).any(dim=1)
        if short.any():
            place = int(short.nonzero()[0])
            raise ValueError(
                f"A history of {len(histories[place])} items leaves {int((items[place] >= 0).sum())} items to "
                f"recommend, and num_generations asks for {size}: lower --num_generations (and keep "
                "--per_device_train_batch_size a multiple of it)."
            )
        listed = items.flatten().tolist()
        return {
            "prompt_ids": [ids for ids in tokens for _ in range(size)],
            "completion_ids": [self._item_tokens[item] for item in listed],
            "logprobs": None,
            "item": listed,
            "target": [target for target in targets for _ in range(size)],
        }

    def _items(
        self, model: torch.nn.Module, tokens: list[list[int]], histories: list[Sequence[int]], size: int
    ) -> Tensor:
        """Item indices of every group: int64 (prompts, size), -1 where there were no more."""
        if self._search is None:
            catalog, vocabulary = self.renderer.catalog, self.renderer.vocabulary
            self._search = BeamSearch.from_catalog(model, catalog, vocabulary, scores=self.scores)
        rules = [Rules(exclude=history) for history in histories] if self.prompts.exclude_seen else None
        if self.method == "beams":
            return self._search(tokens, size, size, rules).items
        return self._search.sample(tokens, size, rules).items
