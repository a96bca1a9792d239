"""Lists for many users: every user keeps the own list, whatever the batches."""

from llmrec.decoding.beam_search import BeamSearch
from llmrec.decoding.rank import rank_items
from llmrec.decoding.rules import Rules
from tests.decoding.oracle import random_prompts
from tests.tiny import make_architecture


def test_users_keep_their_place_whatever_the_lengths_and_the_batches() -> None:
    model, trie = make_architecture("qwen3")
    search = BeamSearch(model, trie)
    prompts = random_prompts((3, 9, 5, 7, 2))
    rules = [Rules(exclude=[user]) for user in range(5)]
    ranked = rank_items(search, prompts, 10, 5, rules, batch_size=2, progress=False)
    for user, prompt in enumerate(prompts):
        expected = search([prompt], 10, 5, [rules[user]]).items[0].tolist()
        assert ranked[user].tolist() == expected
