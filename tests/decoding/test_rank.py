"""Lists for many users: order of users kept, the right search chosen, the model's mode restored."""

import numpy as np
from transformers import Qwen3Config, Qwen3ForCausalLM

from llmrec.decoding.beam_search import beam_search
from llmrec.decoding.rank import rank_items
from tests.tiny import make_catalog, make_device_trie, make_model


def test_users_keep_their_place_whatever_the_lengths_and_the_batches() -> None:
    catalog = make_catalog()
    model, _, vocabulary = make_model(catalog)
    model.train()
    trie = make_device_trie(catalog, vocabulary)
    rng = np.random.default_rng(0)
    prompts = [rng.integers(2, 250, length).tolist() for length in (3, 9, 5, 7, 2)]
    exclude = [[user] for user in range(5)]
    ranked = rank_items(model, prompts, trie, 10, 5, exclude, batch_size=2, progress=False)
    assert model.training
    model.eval()
    for user, prompt in enumerate(prompts):
        expected = beam_search(model, [prompt], trie, 10, 5, [exclude[user]]).items[0].tolist()
        assert ranked[user].tolist() == expected


SLIDING = ["sliding_attention", "sliding_attention"]


def test_a_model_whose_attention_takes_no_tree_mask_gets_the_same_lists_from_generate() -> None:
    catalog = make_catalog()
    model, _, vocabulary = make_model(catalog)
    trie = make_device_trie(catalog, vocabulary)
    prompts = [[5, 6, 7], [8, 9]]
    shared = rank_items(model, prompts, trie, 8, 8, progress=False)
    changes = {"layer_types": SLIDING, "use_sliding_window": True, "sliding_window": 64}
    config = Qwen3Config(**{**model.config.to_dict(), **changes})
    sliding = Qwen3ForCausalLM(config).eval()  # the window is wider than any prompt here
    sliding.load_state_dict(model.state_dict())
    assert rank_items(sliding, prompts, trie, 8, 8, progress=False).tolist() == shared.tolist()
