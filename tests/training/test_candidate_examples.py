"""Letters to be learnt: the letter behind the prompt stands in front of the item that came next."""

import re

import pytest

from llmrec.prompts.titles import TitleRenderer
from llmrec.training.candidate_examples import CandidateExamples
from tests.tiny import make_catalog, make_model

SEQUENCES = [[1, 2, 3, 4, 5, 6, 7, 8], [9, 10], [11], [12, 13, 12, 14]]


@pytest.fixture(scope="module")
def renderer() -> TitleRenderer:
    catalog = make_catalog(titles=[f"Film {number};" for number in range(30)])
    _, _, vocabulary = make_model(catalog)
    return TitleRenderer(catalog, vocabulary)


def make(renderer: TitleRenderer, prefixes: object, codes: tuple[int, ...] = ()) -> CandidateExamples:
    return CandidateExamples(SEQUENCES, [codes] * 4, renderer, 3, 6, prefixes, seed=0)


def read(renderer: TitleRenderer, example: object) -> tuple[list[int], dict[str, int], str]:
    """(history, letter -> candidate, letter that is asked for) of an example, from its text."""
    decode = renderer.vocabulary.tokenizer.decode
    text = decode(example.prompt_ids)
    history, candidates = text.split("Candidates:")
    found = {letter: int(item) for letter, item in re.findall(r"\(([A-Z])\) Film (\d+);", candidates)}
    assert example.completion_ids[1:] == [renderer.eos_token_id]
    return [int(item) for item in re.findall(r"\(\d\) Film (\d+);", history)], found, decode(example.completion_ids[:1])


@pytest.mark.parametrize("prefixes", ["all", 2, "last"])
def test_the_letter_is_that_of_the_next_item_among_others_the_user_never_had(renderer, prefixes) -> None:
    examples = make(renderer, prefixes)
    wanted = {"all": 7 + 1 + 3, 2: 2 + 1 + 2, "last": 3}[prefixes]
    assert len(examples) == wanted
    for epoch in range(2):
        seen = []
        for row in range(len(examples)):
            history, shown, letter = read(renderer, examples.example(row, epoch))
            assert len(set(shown.values())) == 6
            target = shown[letter]
            (user, place), *_ = [
                (user, place)
                for user, sequence in enumerate(SEQUENCES)
                for place in range(1, len(sequence))
                if sequence[place] == target and sequence[max(0, place - 3) : place] == history
            ]
            assert not (set(shown.values()) - {target}) & set(SEQUENCES[user])
            if prefixes == "last":
                assert place == len(SEQUENCES[user]) - 1
            seen.append((user, place))
        assert len(set(seen)) == len(seen), "each prefix at most once in an epoch"


def test_candidates_are_others_in_every_epoch_and_the_index_is_named(renderer) -> None:
    examples = make(renderer, "last", codes=(2, 7))
    first, again, other = (examples.example(0, epoch) for epoch in (0, 0, 1))
    assert first == again != other
    assert "User: <a_2> <b_7>" in renderer.vocabulary.tokenizer.decode(first.prompt_ids)


def test_a_catalogue_without_enough_others_is_refused(renderer) -> None:
    with pytest.raises(ValueError, match="ask for fewer candidates"):
        CandidateExamples([list(range(26))], [()], renderer, 3, 6, "all", 0)
