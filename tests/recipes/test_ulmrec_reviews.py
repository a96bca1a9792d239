"""Real reviews: every user gets an index of their own, and nothing that was written later reaches the model."""

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import Dataset
from transformers import AutoTokenizer

from llmrec.dataset import PreparationConfig, RawData, RecDataset, prepare_dataset, read_amazon_reviews
from llmrec.hub import load_checkpoint
from llmrec.recipe import user_index
from tests.recipes.conftest import load_recipe
from tests.recipes.test_ulmrec import TINY

pytestmark = pytest.mark.slow

MARKER = "XYZZYHELDOUT"


@pytest.fixture(scope="module")
def marked(llmrec_data: Path, tmp_path_factory: pytest.TempPathFactory) -> RecDataset:
    """Gift Cards, with a word in front of every review of a validation or test item."""
    folder, source = tmp_path_factory.mktemp("gift_cards"), llmrec_data / "amazon2018_giftcards_raw"
    raw = read_amazon_reviews(source / "Gift_Cards_5.json.gz", source / "meta_Gift_Cards.json.gz", drop_untitled=True)
    plain = prepare_dataset(raw, folder / "plain", PreparationConfig())
    lengths = dict(zip(plain.train["user_id"].to_pylist(), map(len, plain.train["item_ids"].to_pylist()), strict=True))
    events, seen = plain.interactions.to_pylist(), dict.fromkeys(lengths, 0)
    for event in events:
        seen[event["user_id"]] += 1
        if seen[event["user_id"]] > lengths[event["user_id"]]:
            event["review"] = f"{MARKER} {event['review'] or ''}"
    interactions = pa.Table.from_pylist(events, plain.interactions.schema)
    dataset = prepare_dataset(
        RawData("Gift Cards, marked", interactions, plain.items, "a test"), folder / "marked", PreparationConfig()
    )
    assert dataset.fingerprint == plain.fingerprint
    assert sum(MARKER in event["review"] for event in events if event["review"]) == 2 * len(lengths)
    return dataset


def test_no_later_review_reaches_an_index_a_prompt_or_a_preference(marked, tmp_path, monkeypatch) -> None:
    read: list[str] = []
    embed = user_index.embed_texts

    def spied(texts: list[str], **options: object) -> object:
        read.extend(texts)
        return embed(texts, **options)

    monkeypatch.setattr(user_index, "embed_texts", spied)
    options = ["--dataset_dir", str(marked.folder), "--output_dir", str(tmp_path), *TINY, "--max_steps", "2"]
    load_recipe("ulmrec").main(options)

    reviews = [review for review in marked.interactions["review"].to_pylist() if review]
    assert len(read) > 1000, "these users write"
    assert set(read) <= {review.strip() for review in reviews if MARKER not in review}

    written = pq.read_table(marked.folder / "instructions" / "preferenceobtain.parquet").to_pylist()
    assert written
    assert MARKER not in json.dumps(written)

    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    files = list((marked.folder / "tokenized").glob("*.arrow"))
    assert files
    for file in files:
        texts = tokenizer.batch_decode([*Dataset.from_file(str(file))["input_ids"]])
        assert any("Preference" in text for text in texts)
        assert not any(MARKER in text for text in texts)

    users = load_checkpoint(tmp_path).users
    assert len({users.codes(user_id) for user_id in users.user_ids}) == marked.train.num_rows == len(users.user_ids)
