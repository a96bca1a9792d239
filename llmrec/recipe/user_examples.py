"""From a dataset and users' indices to ULMRec's training examples: next items, and what gives an index its meaning."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from llmrec.dataset import RecDataset
from llmrec.evaluation import sample_users
from llmrec.evaluation.candidates import CandidateRecommender
from llmrec.evaluation.recommender import Recommender
from llmrec.item_tokenizer.user_index import UserIndex
from llmrec.prompts.history import history_prompt
from llmrec.prompts.instructions import build_instructions
from llmrec.prompts.segments import Segment
from llmrec.prompts.ulmrec import TASKS, Pair, history_to_index, index_to_preference, user_opening
from llmrec.recipe.evaluation import EvaluationArguments
from llmrec.recipe.item_features import training_rows
from llmrec.training.candidate_examples import CandidateExamples
from llmrec.training.epochs import EpochExamples
from llmrec.training.examples import ExampleSource, HistoryWindows, PairExamples, TargetExamples

#: What is trained on next items, and what is validated on.
_NextItems = tuple[ExampleSource, ExampleSource | None]


@dataclass
class UserExampleArguments(EvaluationArguments):
    """What is trained on."""

    tasks: list[str] = field(
        default_factory=lambda: list(TASKS),
        metadata={"help": "Alignment beside the next item: index2preference history2index; empty for none."},
    )
    num_candidates: int = field(default=20, metadata={"help": "Of letters: candidates of a user, 26 at most."})
    candidate_prefixes: int | None = field(
        default=4,
        metadata={"help": "Of letters: examples of a user in a pass; unset takes every prefix, as the paper does."},
    )


def training_examples(
    args: UserExampleArguments,
    dataset: RecDataset,
    recommender: Recommender | CandidateRecommender,
    max_length: int,
    seed: int,
) -> tuple[EpochExamples, EpochExamples | None]:
    """What a recommender's model is trained on, and what it is validated on, from training interactions only.

    Args:
        args: what is asked for.
        dataset: whose histories they are.
        recommender: in whose words.
        max_length: longest sequence in tokens.
        seed: of everything drawn.

    Returns:
        Next items and the alignment tasks; and next items of the validation users, None for a refit.
    """
    renderer, users = recommender.renderer, recommender.users
    if isinstance(recommender, CandidateRecommender):
        training, valid = _candidates(args, dataset, recommender, seed)
    else:
        training, valid = _histories(args, dataset, recommender, seed)
    sources = [training]
    if users is not None:
        sources += [PairExamples(pairs, renderer) for pairs in _alignment(args, dataset, users, seed)]
    shared: dict[str, Any] = {"eos_token_id": renderer.eos_token_id, "is_encoder_decoder": False}
    shared["max_length"] = max_length
    examples = EpochExamples(sources, cache_folder=dataset.folder / "tokenized", **shared)
    return examples, None if valid is None else EpochExamples([valid], **shared)


def _histories(args: UserExampleArguments, dataset: RecDataset, recommender: Recommender, seed: int) -> _NextItems:
    """Histories with their users' indices in front, the loss on every item."""
    renderer, users = recommender.renderer, recommender.users
    sequences = dataset.train_sequences(refit=args.refit)
    rows_of = renderer.catalog.rows_of
    known = zip(_training_users(dataset, len(sequences)), sequences, strict=True)
    fronts = [_front(users, user_id, rows_of(items)) for user_id, items in known]
    training = HistoryWindows(sequences, renderer, args.max_history + 1, seed, fronts)
    if args.refit:
        return training, None
    rows = sample_users(dataset.valid, args.valid_users, seed)
    histories = [history[-args.max_history :] for history in rows["history"].to_pylist()]
    targets = [items[0] for items in rows["target_item_ids"].to_pylist()]
    asked = zip(rows["user_id"].to_pylist(), histories, strict=True)
    fronts = [_front(users, user_id, rows_of(history)) for user_id, history in asked]
    return training, TargetExamples(histories, targets, history_prompt, renderer, ends=False, fronts=fronts)


def _candidates(
    args: UserExampleArguments, dataset: RecDataset, recommender: CandidateRecommender, seed: int
) -> _NextItems:
    """Prefixes of histories with the next item among random ones."""
    catalog, users = recommender.renderer.catalog, recommender.users

    def source(user_ids: Sequence[str | None], sequences: list[list[int]], prefixes: Any) -> CandidateExamples:
        # the last item is asked for: no index may be made from it
        codes = [
            () if users is None else users.codes_of(user_id, items[:-1])
            for user_id, items in zip(user_ids, sequences, strict=True)
        ]
        shown = (args.max_history, args.num_candidates, prefixes, seed)
        return CandidateExamples(sequences, codes, recommender.renderer, *shown)

    sequences = training_rows(dataset, args.refit)
    prefixes = "all" if args.candidate_prefixes is None else args.candidate_prefixes
    training = source(_training_users(dataset, len(sequences)), sequences, prefixes)
    if args.refit:
        return training, None
    rows = sample_users(dataset.valid, args.valid_users, seed)
    pairs = zip(rows["history"].to_pylist(), rows["target_item_ids"].to_pylist(), strict=True)
    valid = [catalog.rows_of([*history, targets[0]]) for history, targets in pairs]
    return training, source(rows["user_id"].to_pylist(), valid, "last")


def _training_users(dataset: RecDataset, count: int) -> list[str | None]:
    """Whose the training sequences are; None for those who come in with their validation items."""
    known = dataset.train["user_id"].to_pylist()
    return [*known, *[None] * (count - len(known))]


def _front(users: UserIndex | None, user_id: str | None, history: Sequence[int]) -> list[Segment]:
    """What says whose history follows."""
    return [] if users is None else user_opening(users.codes_of(user_id, history))


def _alignment(args: UserExampleArguments, dataset: RecDataset, users: UserIndex, seed: int) -> list[list[Pair]]:
    """The examples of each alignment task, from training interactions only."""
    pairs: dict[str, list[Pair]] = {}
    if "index2preference" in args.tasks:
        folder = dataset.folder / "instructions"
        table = build_instructions(dataset, folder, ["preferenceobtain"], max_history=args.max_history, seed=seed)
        written = table["preferenceobtain"]
        codes = [users.codes(user_id) for user_id in written["user_id"].to_pylist()]
        texts = ["".join(part["value"] for part in parts) for parts in written["overall_preference"].to_pylist()]
        pairs["index2preference"] = list(index_to_preference(codes, texts))
    if "history2index" in args.tasks:
        codes = [users.codes(user_id) for user_id in dataset.train["user_id"].to_pylist()]
        pairs["history2index"] = list(history_to_index(codes, dataset.train["item_ids"].to_pylist(), args.max_history))
    return [pairs[task] for task in args.tasks]
