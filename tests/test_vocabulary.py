"""Codes as tokens: in the tokenizer, in the model, and never in user text."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM

from llmrec.models.from_config import train_text_tokenizer
from llmrec.prompts.renderer import SegmentRenderer
from llmrec.prompts.segments import Segment, user_segment
from llmrec.vocabulary import ItemVocabulary, code_token, resize_embeddings, start_from_codebooks
from tests.tiny import make_catalog, make_model

HOSTILE_TITLES = [
    "<a_0><b_1><c_2>",
    "Buy <a_3> now",
    "<|endoftext|>",
    "a</s>b<pad>",
    "<a_1",
    "<<a_1>>",
    "＜/s＞ ＜a_0＞",  # full-width: a normaliser turns it into the real thing
    "<a_0>" * 20,
    "",
]


def _unigram_tokenizer() -> PreTrainedTokenizerBase:
    """A T5-like tokenizer: unigram with ``</s>`` among its pieces, and a normaliser."""
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.normalizer = normalizers.NFKC()
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    trainer = trainers.UnigramTrainer(
        vocab_size=200,
        special_tokens=["<pad>", "</s>", "<unk>"],
        unk_token="<unk>",
        initial_alphabet=list("<>/_abcds0123456789"),
        show_progress=False,
    )
    tokenizer.train_from_iterator(["some films of the sea and the sky <a_b c/s>"] * 20, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="</s>", pad_token="<pad>", unk_token="<unk>")


@pytest.fixture(params=["bpe", "unigram"])
def vocabulary(request: pytest.FixtureRequest) -> ItemVocabulary:
    tokenizer = train_text_tokenizer(["some films"], 300) if request.param == "bpe" else _unigram_tokenizer()
    return ItemVocabulary.add_to(tokenizer, (4, 4, 4))


def _control_ids(vocabulary: ItemVocabulary) -> set[int]:
    return set(vocabulary.tokenizer.added_tokens_decoder) - {vocabulary.tokenizer.unk_token_id}


@pytest.mark.parametrize("title", HOSTILE_TITLES)
def test_a_hostile_title_becomes_plain_text(vocabulary: ItemVocabulary, title: str) -> None:
    assert not _control_ids(vocabulary) & set(vocabulary.encode_text(title))


@given(text=st.text(alphabet="<>/_abs01|pdenotx ", max_size=40))
@settings(max_examples=200)
def test_no_text_becomes_a_control_token_and_bpe_keeps_every_byte(text: str) -> None:
    vocabulary = ItemVocabulary.add_to(train_text_tokenizer(["some films"], 300), (2, 2))
    ids = vocabulary.encode_text(text)
    assert not _control_ids(vocabulary) & set(ids)
    assert vocabulary.tokenizer.decode(ids, clean_up_tokenization_spaces=False) == text


def test_ordinary_text_is_encoded_as_the_tokenizer_alone_would(vocabulary: ItemVocabulary) -> None:
    text = "some films of the sea"
    assert vocabulary.encode_text(text) == vocabulary.tokenizer(text, add_special_tokens=False)["input_ids"]


def test_the_models_own_language_has_item_tokens_and_they_survive_decoding(vocabulary: ItemVocabulary) -> None:
    ids = vocabulary.item_token_ids(np.array([1, 2, 3]))
    assert vocabulary.tokenizer("<a_1><b_2><c_3>", add_special_tokens=False)["input_ids"][-3:] == ids.tolist()
    decoded = vocabulary.tokenizer.decode(ids, skip_special_tokens=True)
    assert decoded.replace(" ", "") == "<a_1><b_2><c_3>"


def test_adding_twice_changes_nothing_and_a_missing_token_is_an_error(vocabulary: ItemVocabulary) -> None:
    again = ItemVocabulary.add_to(vocabulary.tokenizer, (4, 4, 4))
    np.testing.assert_array_equal(again.code_token_ids, vocabulary.code_token_ids)
    with pytest.raises(ValueError, match="<c_4>"):
        ItemVocabulary(vocabulary.tokenizer, (4, 4, 5))


def _qwen(tokenizer: PreTrainedTokenizerBase, tied: bool, padding_rows: int) -> Qwen3ForCausalLM:
    torch.manual_seed(0)
    return Qwen3ForCausalLM(
        Qwen3Config(
            vocab_size=len(tokenizer) + padding_rows,
            hidden_size=32,
            intermediate_size=32,
            num_hidden_layers=1,
            num_attention_heads=2,
            num_key_value_heads=2,
            head_dim=16,
            tie_word_embeddings=tied,
        )
    )


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("padding_rows", [0, 100])
def test_new_rows_start_near_the_text_of_their_items_and_old_rows_stay(tied: bool, padding_rows: int) -> None:
    catalog = make_catalog(titles=[f"title {number} about {'sea' if number % 2 else 'sky'}" for number in range(30)])
    tokenizer = train_text_tokenizer(catalog.titles, 300)
    model = _qwen(tokenizer, tied, padding_rows)
    num_old = len(tokenizer)
    before_input = model.get_input_embeddings().weight.detach().clone()
    before_output = model.get_output_embeddings().weight.detach().clone()
    vocabulary = ItemVocabulary.add_to(tokenizer, catalog.codebook_sizes)
    resize_embeddings(model, vocabulary, catalog)
    for module, before in (
        (model.get_input_embeddings(), before_input),
        (model.get_output_embeddings(), before_output),
    ):
        weight = module.weight.detach()
        assert len(weight) == max(len(tokenizer), num_old + padding_rows)
        assert torch.equal(weight[:num_old], before[:num_old])
        code = int(catalog.semantic_ids[0, 0])
        items = np.flatnonzero(catalog.semantic_ids[:, 0] == code)
        text = [token for item in items for token in vocabulary.encode_text(catalog.titles[item])]
        expected = before[text].mean(0)
        row = weight[vocabulary.code_token_ids[0, code]]
        assert (row - expected).std() < 0.2 * before[:num_old].std()
        assert len(torch.unique(weight[vocabulary.new_token_ids], dim=0)) == len(vocabulary.new_token_ids)
    assert (model.get_input_embeddings().weight is model.get_output_embeddings().weight) == tied


def test_rows_that_were_trained_before_stay() -> None:
    catalog = make_catalog()
    model, tokenizer, vocabulary = make_model(catalog)
    before = model.get_input_embeddings().weight.detach().clone()
    again = ItemVocabulary.add_to(tokenizer, catalog.codebook_sizes)
    assert again.added_token_ids == []
    resize_embeddings(model, again, catalog)
    assert torch.equal(model.get_input_embeddings().weight, before)
    assert vocabulary.added_token_ids == vocabulary.new_token_ids


def test_the_plain_default_leaves_what_transformers_draws_and_a_seed_repeats_the_rows() -> None:
    catalog = make_catalog()
    rows = []
    for initialization in ("text", "text", "default"):
        tokenizer = train_text_tokenizer(catalog.titles, 300)
        model = _qwen(tokenizer, True, 0)
        vocabulary = ItemVocabulary.add_to(tokenizer, catalog.codebook_sizes)
        resize_embeddings(model, vocabulary, catalog, initialization, seed=1)
        rows.append(model.get_input_embeddings().weight.detach()[vocabulary.new_token_ids])
    assert torch.equal(rows[0], rows[1])
    assert not torch.allclose(rows[0], rows[2])


def test_an_encoder_decoder_shares_its_new_rows() -> None:
    catalog = make_catalog()
    model, tokenizer, _ = make_model(catalog, "t5")
    vocabulary = ItemVocabulary.add_to(tokenizer, (4, 4, 6))
    resize_embeddings(model, vocabulary, make_catalog(codebook_sizes=(4, 4, 6)))
    assert model.encoder.embed_tokens.weight is model.decoder.embed_tokens.weight
    assert model.get_output_embeddings().weight.shape[0] == len(tokenizer)


def test_tokens_are_named_as_the_field_does() -> None:
    assert code_token(0, 12) == "<a_12>"
    assert code_token(3, 255) == "<d_255>"


def test_users_codes_have_tokens_apart_from_items_and_no_text_becomes_one() -> None:
    catalog = make_catalog()
    tokenizer = train_text_tokenizer(catalog.titles, 300)
    vocabulary = ItemVocabulary.add_to(tokenizer, catalog.codebook_sizes, (3, 5))
    users, items = set(vocabulary.user_token_ids[vocabulary.user_token_ids >= 0]), set(vocabulary.code_token_ids.flat)
    assert len(users) == 3 + 5
    assert not users & items
    assert set(vocabulary.new_token_ids) == users | items
    assert vocabulary.user_tokens([2, 4]) == tokenizer.convert_tokens_to_ids(["<user_a_2>", "<user_b_4>"])
    assert not (users | items) & set(vocabulary.encode_text("for <user_a_2> and <a_1>"))
    with pytest.raises(ValueError, match="<user_b_5>"):
        ItemVocabulary(tokenizer, catalog.codebook_sizes, (3, 6))


def test_users_rows_start_at_the_mean_of_all() -> None:
    catalog = make_catalog()
    tokenizer = train_text_tokenizer(catalog.titles, 300)
    model = _qwen(tokenizer, True, 0)
    before = model.get_input_embeddings().weight.detach().clone()
    vocabulary = ItemVocabulary.add_to(tokenizer, catalog.codebook_sizes, (3, 5))
    resize_embeddings(model, vocabulary, catalog)
    rows = model.get_input_embeddings().weight.detach()[vocabulary.user_tokens([1, 1])]
    assert (rows - before.mean(0)).std() < 0.2 * before.std()
    assert not torch.equal(rows[0], rows[1])


@pytest.mark.parametrize("user_codebook_sizes", [(), (3, 20)], ids=["sub-words", "tokens"])
def test_a_users_index_is_spelt_out_or_has_its_tokens(user_codebook_sizes) -> None:
    catalog = make_catalog()
    tokenizer = train_text_tokenizer(catalog.titles, 300)
    vocabulary = ItemVocabulary.add_to(tokenizer, catalog.codebook_sizes, user_codebook_sizes)
    renderer = SegmentRenderer(catalog, vocabulary)
    tokens = renderer([Segment("text", "User:"), user_segment([2, 17]), Segment("item", "4")])
    if user_codebook_sizes:
        expected = [*vocabulary.encode_text("User:"), *vocabulary.user_tokens([2, 17])]
    else:
        expected = vocabulary.encode_text("User: <a_2> <b_17>")
        assert not set(expected) & set(vocabulary.new_token_ids)
    assert tokens == [*expected, *renderer.item_tokens("4")]


@pytest.mark.parametrize("latent_dim", [5, 64])
def test_codes_start_with_the_distances_of_their_codebook(latent_dim) -> None:
    model, _, vocabulary = make_model(make_catalog(num_items=30))
    levels = len(vocabulary.codebook_sizes) - 1  # the last one disambiguates
    size = vocabulary.codebook_sizes[0]
    codebooks = torch.randn(levels, size, latent_dim, generator=torch.Generator().manual_seed(0)) + 3
    weight = model.get_input_embeddings().weight
    before, std = weight.detach().clone(), weight.std().item()
    start_from_codebooks(model, vocabulary, codebooks, seed=1)
    touched = vocabulary.code_token_ids[:levels, :size].ravel().tolist()
    untouched = sorted(set(range(len(weight))) - set(touched))
    assert torch.equal(weight[untouched], before[untouched])
    assert model.get_output_embeddings().weight is weight
    for level, codebook in enumerate(codebooks):
        rows = weight[vocabulary.code_token_ids[level, :size].tolist()].detach()
        assert rows.std().item() == pytest.approx(std, rel=1e-3)
        assert rows.mean(0).abs().max() < 1e-6
        if latent_dim <= weight.shape[1]:  # nothing is projected away
            ratio = torch.pdist(rows) / torch.pdist(codebook)
            torch.testing.assert_close(ratio, ratio[:1].expand_as(ratio), rtol=1e-3, atol=0)
    again = before.clone()
    with torch.no_grad():
        weight.copy_(again)
    start_from_codebooks(model, vocabulary, codebooks, seed=1)
    assert rows.equal(weight[vocabulary.code_token_ids[level, :size].tolist()])
