from functools import partial

import pytest
import torch
from transformers import LlamaConfig, Qwen3Config, T5Config

from llmrec.models.setrec import ItemFeatures, SetRecConfig, SetRecModel
from llmrec.models.setrec.attention import check_backend
from llmrec.models.setrec.backbone import query_states
from llmrec.models.setrec.catalog_loss import catalog_cross_entropy
from llmrec.models.setrec.layout import SetLayout, set_layout

NUM_ITEMS, NUM_SEMANTIC = 12, 2
COMMON = {
    "vocab_size": 50,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 16,
    "pad_token_id": 1,
}
BACKBONES = {
    "qwen3": lambda: Qwen3Config(**COMMON),
    "llama": lambda: LlamaConfig(**COMMON),
    "t5": lambda: T5Config(vocab_size=50, d_model=32, d_kv=16, d_ff=64, num_layers=2, num_heads=2, dropout_rate=0.0),
}


def make_features(num_items=NUM_ITEMS, seed=0):
    generator = torch.Generator().manual_seed(seed)
    warm = torch.arange(num_items) < num_items - 2
    return ItemFeatures(
        torch.randn(num_items, 8, generator=generator), torch.randn(num_items, 16, generator=generator), warm
    )


def make_setrec(backbone="qwen3", backend="sdpa", rule="set", num_semantic=NUM_SEMANTIC, **options):
    torch.manual_seed(0)
    config = SetRecConfig(
        text_config=BACKBONES[backbone](),
        num_semantic_tokens=num_semantic,
        text_dim=16,
        cf_dim=8,
        encoder_sizes=[24],
        attention_rule=rule,
        instruction_token_ids=[3, 4, 5],
        response_token_ids=[6],
        attn_implementation=backend,
        **options,
    )
    model = SetRecModel(config).eval()
    for parameter in model.parameters():
        parameter.data.mul_(2.0)  # a fresh model hardly tells one input from another
    model.set_items(make_features())
    return model


HISTORY = torch.tensor([[3, 1, 4, 1], [5, 9, -1, -1]])


@torch.no_grad()
@pytest.mark.parametrize("backbone", BACKBONES)
def test_every_backend_computes_the_same(backbone):
    expected = make_setrec(backbone, "eager").query(HISTORY)
    torch.testing.assert_close(make_setrec(backbone, "sdpa").query(HISTORY), expected, atol=1e-5, rtol=1e-4)


@torch.no_grad()
@pytest.mark.slow
@pytest.mark.parametrize("backbone", ["qwen3", "t5"])
def test_flex_attention_computes_the_same(backbone):
    expected = make_setrec(backbone, "eager").query(HISTORY)
    # torch 2.13 writes C++ that does not compile for a bias of a second shape: each shape gets its own kernel here
    with torch._dynamo.config.patch(automatic_dynamic_shapes=False):
        computed = make_setrec(backbone, "flex_attention").query(HISTORY)
    torch.testing.assert_close(computed, expected, atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize("backend", ["flash_attention_2", "flash_attention_3"])
def test_a_backend_without_masks_is_refused(backend):
    with pytest.raises(ValueError, match="takes no mask"):
        check_backend(backend)


def hidden_states(model, tokens):
    """Last hidden states at the tokens of a history of two items, given as embeddings (2, 1 + N, hidden)."""
    layout = set_layout(torch.tensor([2]), 2, torch.tensor([[2]]), 1 + NUM_SEMANTIC)
    embeddings = torch.cat([tokens.flatten(0, 1), model.queries.weight])[None]
    if model.backbone.config.is_encoder_decoder:
        states = []
        handle = model.backbone.encoder.final_layer_norm.register_forward_hook(lambda *call: states.append(call[2]))
        query = query_states(model.backbone, embeddings, layout)
        handle.remove()
        return torch.cat([states[0], query], dim=1)[0]
    everything = SetLayout(layout.positions, layout.allowed, embeddings.shape[1])
    return query_states(model.backbone, embeddings, everything)[0]


@torch.no_grad()
@pytest.mark.parametrize("backend", ["eager", "sdpa"])
@pytest.mark.parametrize("backbone", BACKBONES)
def test_siblings_do_not_see_each_other_to_the_bit(backbone, backend):
    model = make_setrec(backbone, backend)
    tokens = model.item_tokens(torch.tensor([3, 7]))
    before = hidden_states(model, tokens)
    changed = tokens.clone()
    changed[1, 0] += 1.0
    after = hidden_states(model, changed)
    assert torch.equal(after[:3], before[:3])  # the earlier item
    assert torch.equal(after[4:6], before[4:6])  # the siblings
    assert not torch.allclose(after[3], before[3])
    assert not torch.allclose(after[6:], before[6:])  # the queries see the change


@torch.no_grad()
@pytest.mark.parametrize("backbone", BACKBONES)
def test_permuting_an_items_tokens_permutes_its_states_and_changes_nothing_else(backbone):
    model = make_setrec(backbone)
    tokens = model.item_tokens(torch.tensor([3, 7]))
    before = hidden_states(model, tokens)
    permuted = tokens.clone()
    permuted[0] = tokens[0, [2, 0, 1]]
    after = hidden_states(model, permuted)
    close = partial(torch.testing.assert_close, atol=1e-5, rtol=1e-4)
    close(after[:3], before[[2, 0, 1]])
    close(after[3:], before[3:])


@torch.no_grad()
def test_the_causal_rule_is_not_order_agnostic():
    model = make_setrec(rule="causal")
    tokens = model.item_tokens(torch.tensor([3, 7]))

    def query(tokens):
        layout = set_layout(torch.tensor([2]), 2, torch.tensor([[2]]), 3, rule="causal")
        return query_states(model.backbone, torch.cat([tokens.flatten(0, 1), model.queries.weight])[None], layout)

    assert not torch.allclose(query(tokens), query(tokens[:, [2, 0, 1]]), atol=1e-3)


@torch.no_grad()
@pytest.mark.parametrize("rule", ["set", "causal"])
@pytest.mark.parametrize("backbone", BACKBONES)
def test_branches_equal_prefixes_alone(backbone, rule):
    if backbone == "t5" and rule == "causal":
        pytest.skip("not for an encoder-decoder")
    model = make_setrec(backbone, rule=rule)
    together = model.query(HISTORY[:1], torch.tensor([[0, 1, 3, 4, -1]]))[0]
    for branch, before in enumerate([0, 1, 3, 4]):
        alone = model.query(HISTORY[:1, :before])[0, 0]
        torch.testing.assert_close(together[branch], alone, atol=1e-5, rtol=1e-4)


@torch.no_grad()
@pytest.mark.parametrize("rule", ["set", "bidirectional"])
def test_padding_changes_nothing(rule):
    model = make_setrec("t5", rule=rule)
    padded = model.query(HISTORY)[1]
    torch.testing.assert_close(padded, model.query(HISTORY[1:, :2])[0], atol=1e-5, rtol=1e-4)


def test_rules_that_do_not_fit_the_backbone_are_refused():
    with pytest.raises(ValueError, match="is for an encoder-decoder"):
        make_setrec("qwen3", rule="bidirectional")
    with pytest.raises(ValueError, match="is for a decoder-only model"):
        make_setrec("t5", rule="causal")


@pytest.mark.parametrize("chunk", [1, 5, 12, None])
def test_catalog_cross_entropy_equals_a_softmax_per_query(chunk):
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randn(NUM_ITEMS, 3, 4, generator=generator, requires_grad=True)
    states = torch.randn(5, 3, 4, generator=generator, requires_grad=True)
    targets = torch.tensor([0, 11, 5, 5, 3])
    loss = catalog_cross_entropy(states, targets, lambda items: tokens[items], NUM_ITEMS, chunk)
    gradients = torch.autograd.grad(loss, [tokens, states])
    expected = sum(
        torch.nn.functional.cross_entropy(states[:, query] @ tokens[:, query].T, targets, reduction="sum")
        for query in range(3)
    )
    torch.testing.assert_close(loss, expected)
    for gradient, right in zip(gradients, torch.autograd.grad(expected, [tokens, states]), strict=True):
        torch.testing.assert_close(gradient, right)


def test_loss_is_cross_entropy_plus_alpha_times_reconstruction():
    model = make_setrec(reconstruction_weight=0.5)
    before, labels = torch.tensor([[0, 2], [2, -1]]), torch.tensor([[3, 4], [8, -100]])
    loss = model(HISTORY, before, labels).loss
    states = model.query(HISTORY, before)
    tokens = model.item_tokens(torch.arange(NUM_ITEMS))
    rows = [(states[0, 0], 3), (states[0, 1], 4), (states[1, 0], 8)]
    crosses = [
        torch.nn.functional.cross_entropy(state[query] @ tokens[:, query].T, torch.tensor(target))
        for state, target in rows
        for query in range(3)
    ]
    texts = model.items.text[[3, 1, 4, 1, 5, 9]]
    reconstruction = (model.auto_encoder.decode(model.auto_encoder.encode(texts)) - texts).square().mean()
    torch.testing.assert_close(loss, torch.stack(crosses).mean() + 0.5 * reconstruction)


def test_parts_of_a_step_add_up():
    """Gradient accumulation: the targets of the whole step scale each part."""
    model = make_setrec(reconstruction_weight=0.0)
    before, labels = torch.tensor([[0, 2], [2, -1]]), torch.tensor([[3, 4], [8, -100]])
    whole = model(HISTORY, before, labels).loss
    parts = [model(HISTORY[row : row + 1], before[row : row + 1], labels[row : row + 1], 3).loss for row in range(2)]
    torch.testing.assert_close(sum(parts), whole)


@pytest.mark.parametrize("backbone", BACKBONES)
@pytest.mark.parametrize("num_semantic", [0, 2])
def test_every_weight_but_the_words_gets_a_gradient(backbone, num_semantic):
    model = make_setrec(backbone, num_semantic=num_semantic).train()
    model(HISTORY, torch.tensor([[0, 2], [2, -1]]), torch.tensor([[3, 4], [8, -100]])).loss.backward()
    without = {name for name, parameter in model.named_parameters() if parameter.grad is None}
    assert without <= {"backbone.decoder.embed_tokens.weight", "backbone.encoder.embed_tokens.weight"}


@torch.no_grad()
@pytest.mark.parametrize("backbone", BACKBONES)
def test_a_saved_model_loads_as_it_was(backbone, tmp_path):
    model = make_setrec(backbone)
    model.config.beta = 0.3
    model.save_pretrained(tmp_path)
    assert {path.suffix for path in tmp_path.iterdir()} == {".json", ".safetensors"}
    loaded = SetRecModel.from_pretrained(tmp_path).eval()
    loaded.set_items(make_features())
    assert loaded.config.beta == 0.3
    assert torch.equal(loaded.query(HISTORY), model.query(HISTORY))


def test_features_of_another_width_are_refused():
    with pytest.raises(ValueError, match="widths"):
        make_setrec().set_items(ItemFeatures(torch.zeros(3, 4), torch.zeros(3, 16), torch.ones(3, dtype=torch.bool)))


def test_features_are_saved_and_loaded(tmp_path):
    features = make_features()
    features.save(tmp_path)
    loaded = ItemFeatures.load(tmp_path)
    for name in ("cf", "text", "warm"):
        assert torch.equal(getattr(loaded, name), getattr(features, name))
