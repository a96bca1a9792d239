"""From a dataset and users' indices to ULMRec's training examples: next items, and what gives an index its meaning."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from llmrec.dataset import RecDataset
from llmrec.evaluation import sample_users
from llmrec.evaluation.candidates import CandidateRecommender
from llmrec.evaluation.recommender import Recommender
from llmrec.item_tokenizer.user_index import UserIndex
from llmrec.prompts.candidates import candidate_prompt
from llmrec.prompts.history import history_prompt
from llmrec.prompts.instructions import build_instructions
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
        metadata={"help": "Alignment beside the next item: index2preference history2index; or none."},
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
    alignment: Sequence[Sequence[Pair]],
    max_length: int,
    seed: int,
) -> tuple[EpochExamples, EpochExamples | None]:
    """What a recommender's model is trained on, and what it is validated on, from training interactions only.

    Args:
        args: what is asked for.
        dataset: whose histories they are.
        recommender: in whose words.
        alignment: what ``alignment_pairs`` made.
        max_length: longest sequence in tokens.
        seed: of everything drawn.

    Returns:
        Next items and the alignment tasks; and next items of the validation users, None for a refit.

    Raises:
        ValueError: if a history may be longer than ``max_length``: what would be cut off is who the user is.
    """
    renderer = recommender.renderer
    _check_room(args, recommender, max_length)
    if isinstance(recommender, CandidateRecommender):
        training, valid = _candidates(args, dataset, recommender, seed)
    else:
        training, valid = _histories(args, dataset, recommender, seed)
    sources = [training, *(PairExamples(pairs, renderer) for pairs in alignment)]
    shared: dict[str, Any] = {"eos_token_id": renderer.eos_token_id, "is_encoder_decoder": False}
    shared["max_length"] = max_length
    examples = EpochExamples(sources, cache_folder=dataset.folder / "tokenized", **shared)
    return examples, None if valid is None else EpochExamples([valid], **shared)


def _histories(args: UserExampleArguments, dataset: RecDataset, recommender: Recommender, seed: int) -> _NextItems:
    """Histories with their users' indices in front, the loss on every item."""
    renderer, users = recommender.renderer, recommender.users
    sequences = dataset.train_sequences(refit=args.refit)
    fronts = [user_opening(codes) for codes in _training_codes(dataset, users, len(sequences))]
    training = HistoryWindows(sequences, renderer, args.max_history + 1, seed, fronts)
    if args.refit:
        return training, None
    histories, targets, codes = _validation(args, dataset, recommender, seed)
    fronts = [user_opening(one) for one in codes]
    histories = [history[-args.max_history :] for history in histories]
    return training, TargetExamples(histories, targets, history_prompt, renderer, ends=False, fronts=fronts)


def _candidates(
    args: UserExampleArguments, dataset: RecDataset, recommender: CandidateRecommender, seed: int
) -> _NextItems:
    """Prefixes of histories with the next item among random ones."""
    catalog, users = recommender.renderer.catalog, recommender.users

    shown = recommender.renderer, args.max_history, args.num_candidates
    sequences = training_rows(dataset, args.refit)
    prefixes: Any = "all" if args.candidate_prefixes is None else args.candidate_prefixes
    codes = _training_codes(dataset, users, len(sequences))
    training = CandidateExamples(sequences, codes, *shown, prefixes, seed)
    if args.refit:
        return training, None
    histories, targets, codes = _validation(args, dataset, recommender, seed)
    valid = [catalog.rows_of([*history, target]) for history, target in zip(histories, targets, strict=True)]
    return training, CandidateExamples(valid, codes, *shown, "last", seed)


def _validation(
    args: UserExampleArguments, dataset: RecDataset, recommender: Recommender | CandidateRecommender, seed: int
) -> tuple[list[list[str]], list[str], list[tuple[int, ...]]]:
    """Item ids of the validation users' histories and next items, and the codes of the users' indices."""
    users, rows_of = recommender.users, recommender.renderer.catalog.rows_of
    rows = sample_users(dataset.valid, args.valid_users, seed)
    histories = rows["history"].to_pylist()
    targets = [items[0] for items in rows["target_item_ids"].to_pylist()]
    if users is None:
        return histories, targets, [()] * len(histories)
    asked = zip(rows["user_id"].to_pylist(), histories, strict=True)
    return histories, targets, [users.codes_of(user_id, rows_of(history)) for user_id, history in asked]


def _training_codes(dataset: RecDataset, users: UserIndex | None, count: int) -> list[tuple[int, ...]]:
    """Of the training sequences' users. Those who come in with their validation items have none: it would be made of
    what they are asked for."""
    if users is None:
        return [()] * count
    known = [users.codes(user_id) for user_id in dataset.train["user_id"].to_pylist()]
    return [*known, *[()] * (count - len(known))]


def _check_room(args: UserExampleArguments, recommender: Recommender | CandidateRecommender, max_length: int) -> None:
    renderer, users = recommender.renderer, recommender.users
    widest = max(recommender.item_ids, key=lambda item_id: len(renderer.item_tokens(item_id)))
    # codes of as many digits as there are
    codes = () if users is None else tuple(size - 1 for size in users.codebook_sizes)
    if isinstance(recommender, CandidateRecommender):
        candidates = [widest] * args.num_candidates
        longest = len(renderer(candidate_prompt(codes, [widest] * args.max_history, candidates))) + 2
    else:
        longest = len(renderer([*user_opening(codes), *history_prompt([widest] * (args.max_history + 1))]))
    if longest > max_length:
        raise ValueError(
            f"max_length is {max_length}, and {args.max_history} items of the longest kind take {longest} tokens with "
            f"what stands around them: give --max_length {longest}, or a smaller --max_history."
        )


def alignment_pairs(
    args: UserExampleArguments, dataset: RecDataset, users: UserIndex | None, seed: int
) -> list[list[Pair]]:
    """The examples of each alignment task, from training interactions only; none where users have no index.

    Args:
        args: ``tasks`` and ``max_history``.
        dataset: whose users they are; preferences are kept in its folder.
        users: their indices.
        seed: of the preferences.
    """
    tasks = [task for task in args.tasks if task in TASKS]
    if users is None:
        return []
    pairs: dict[str, list[Pair]] = {}
    if "index2preference" in tasks:
        folder = dataset.folder / "instructions"
        table = build_instructions(dataset, folder, ["preferenceobtain"], max_history=args.max_history, seed=seed)
        written = table["preferenceobtain"]
        codes = [users.codes(user_id) for user_id in written["user_id"].to_pylist()]
        texts = ["".join(part["value"] for part in parts) for parts in written["overall_preference"].to_pylist()]
        pairs["index2preference"] = list(index_to_preference(codes, texts))
    if "history2index" in tasks:
        codes = [users.codes(user_id) for user_id in dataset.train["user_id"].to_pylist()]
        pairs["history2index"] = list(history_to_index(codes, dataset.train["item_ids"].to_pylist(), args.max_history))
    return [pairs[task] for task in tasks]
