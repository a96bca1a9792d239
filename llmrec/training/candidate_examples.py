"""Training examples of letters: a history, the item that came next among random others, and its letter (LlamaRec)."""

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np

from llmrec.prompts.candidates import candidate_prompt, letter_token_ids
from llmrec.prompts.titles import TitleRenderer
from llmrec.training.examples import ExampleSource, TokenizedExample


class CandidateExamples(ExampleSource):
    """Prefixes of histories; the next item and random items that the user never had stand behind letters.

    Args:
        sequences: item indices of each user, oldest first.
        codes: of each user's index; empty where users have none.
        renderer: of titles.
        max_history: latest items of a prefix that are shown.
        num_candidates: the next item included.
        prefixes: of each user, drawn anew each epoch; ``all`` is the paper's, ``last`` asks for the last item alone.
        seed: of prefixes, random items and the order of letters.
    """

    def __init__(
        self,
        sequences: Sequence[Sequence[int]],
        codes: Sequence[Sequence[int]],
        renderer: TitleRenderer,
        max_history: int,
        num_candidates: int,
        prefixes: int | Literal["all", "last"],
        seed: int,
    ) -> None:
        self.sequences, self.codes, self.renderer = sequences, codes, renderer
        self.max_history, self.num_candidates, self.seed = max_history, num_candidates, seed
        self.prefixes = prefixes
        most = [len(sequence) - 1 for sequence in sequences]
        wanted = {"all": max(most, default=0), "last": 1}.get(str(prefixes), prefixes)
        counts = [min(count, int(wanted)) for count in most]
        self._rows = [(user, number) for user, count in enumerate(counts) for number in range(count)]
        self._letters = letter_token_ids(renderer.vocabulary, num_candidates)
        num_items = len(renderer.catalog)
        longest = max((len(set(sequence)) for sequence in sequences), default=0)
        if num_items - longest < num_candidates - 1:
            raise ValueError(
                f"{num_candidates} candidates, but a user of {longest} items leaves {num_items - longest} others in a "
                f"catalogue of {num_items}: ask for fewer candidates."
            )

    @property
    def content(self) -> list[Any]:
        options: list[Any] = [self.max_history, self.num_candidates, self.prefixes, self.seed]
        options.append(self.renderer(candidate_prompt([], [], [])))  # the wording
        return [type(self).__name__, self.renderer.content, self.sequences, self.codes, options]

    def __len__(self) -> int:
        return len(self._rows)

    def example(self, row: int, epoch: int) -> TokenizedExample:
        user, number = self._rows[row]
        sequence = self.sequences[user]
        place = self._place(user, number, epoch)
        generator = np.random.default_rng((self.seed, epoch, user, place))
        shown = generator.permutation([sequence[place], *self._others(sequence, generator)])
        ids = self.renderer.catalog.item_ids
        history = [ids[item] for item in sequence[max(0, place - self.max_history) : place]]
        prompt = candidate_prompt(self.codes[user], history, [ids[item] for item in shown])
        letter = self._letters[int(np.flatnonzero(shown == sequence[place])[0])]
        return TokenizedExample(self.renderer(prompt), [letter, self.renderer.eos_token_id])

    def _place(self, user: int, number: int, epoch: int) -> int:
        """Items before the target; those of one user in one epoch are different ones."""
        count = len(self.sequences[user]) - 1
        if self.prefixes == "last":
            return count
        return int(np.random.default_rng((self.seed, epoch, user)).permutation(count)[number]) + 1

    def _others(self, sequence: Sequence[int], generator: np.random.Generator) -> list[int]:
        """Distinct random items that are not in the user's sequence."""
        had, others = set(sequence), dict[int, None]()
        while len(others) < self.num_candidates - 1:
            item = int(generator.integers(len(self.renderer.catalog)))
            if item not in had:
                others[item] = None
        return list(others)
