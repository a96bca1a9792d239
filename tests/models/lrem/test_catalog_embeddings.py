"""Embedding a catalogue in parts: what comes out is what one go gives, whatever was cut off, and never a mixture."""

import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from transformers import PreTrainedModel

from llmrec.models.from_config import SmallModelConfig, build_small_model, train_text_tokenizer
from llmrec.models.lrem import LremPrompts, LremSearcher, catalog_embeddings
from llmrec.models.lrem.catalog_embeddings import embed_catalog, weights_fingerprint
from llmrec.models.lrem.searcher import embed_sequences
from llmrec.schema import DataError

LINES = [f"Film {number} of the sea" + " and of more of it" * (number % 3) for number in range(23)]


def make(seed: int = 0, **options: Any) -> tuple[PreTrainedModel, LremPrompts]:
    tokenizer = train_text_tokenizer(LINES, 300)
    LremPrompts.add_to(tokenizer)
    small = SmallModelConfig(hidden_size=32, num_layers=1, num_heads=2, head_dim=16, intermediate_size=32)
    return build_small_model(small, tokenizer, seed).eval(), LremPrompts(tokenizer, **options)


def counted(monkeypatch: pytest.MonkeyPatch, stop_after: int | None = None) -> list[int]:
    """Sizes of the parts that are embedded from now on; the one after ``stop_after`` of them is interrupted."""
    sizes: list[int] = []

    def embed(model: PreTrainedModel, sequences: Sequence[Sequence[int]], batch_size: int) -> np.ndarray:
        if len(sizes) == stop_after:
            raise KeyboardInterrupt
        sizes.append(len(sequences))
        return embed_sequences(model, sequences, batch_size)

    monkeypatch.setattr(catalog_embeddings, "embed_sequences", embed)
    return sizes


def test_parts_together_are_the_catalogue(tmp_path: Path) -> None:
    model, prompts = make()
    expected = LremSearcher(prompts, LINES, 4).embed_items(model)
    for rows in (1, 5, 23, 100):
        vectors = embed_catalog(model, prompts, LINES, tmp_path / str(rows), 4, rows, progress=False)
        assert vectors.dtype == np.float32
        np.testing.assert_allclose(vectors, expected, atol=1e-5)
    assert embed_catalog(model, prompts, [], tmp_path / "none", 4, progress=False).shape == (0, 32)


def test_an_interrupted_run_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, prompts = make()
    with monkeypatch.context() as patch:
        sizes = counted(patch, stop_after=2)
        with pytest.raises(KeyboardInterrupt):
            embed_catalog(model, prompts, LINES, tmp_path, 4, 5, progress=False)
        assert sizes == [5, 5]
    (tmp_path / "part-00000000.npy").write_bytes(b"")  # as a machine that lost power may leave it
    sizes = counted(monkeypatch)
    # another batch size changes no embedding, and may be what a run out of memory needs
    vectors = embed_catalog(model, prompts, LINES, tmp_path, 2, 5, progress=False)
    assert sizes == [5, 5, 5, 3]
    np.testing.assert_allclose(vectors, LremSearcher(prompts, LINES, 4).embed_items(model), atol=1e-5)
    sizes.clear()
    assert np.array_equal(embed_catalog(model, prompts, LINES, tmp_path, 4, 5, progress=False), vectors)
    assert not sizes


@pytest.mark.parametrize(
    ("change", "told"),
    [("weights", "weights"), ("lines", "lines"), ("prompts", "prompts"), ("rows", "rows_per_part 5")],
)
def test_parts_of_another_run_are_refused(tmp_path: Path, change: str, told: str) -> None:
    model, prompts = make()
    embed_catalog(model, prompts, LINES, tmp_path, 4, 5, progress=False)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    if change == "weights":
        next(model.parameters()).data[0, 0] += 1
    elif change == "prompts":
        _, prompts = make(max_text_tokens=7)
    lines = [*LINES[:-1], "Another"] if change == "lines" else LINES
    with pytest.raises(DataError, match=rf"embeddings of another run, made with {told}"):
        embed_catalog(model, prompts, lines, tmp_path, 4, 6 if change == "rows" else 5, progress=False)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_an_item_without_words_is_named(tmp_path: Path) -> None:
    model, prompts = make()
    with pytest.raises(DataError, match="Row 2 has no title"):
        embed_catalog(model, prompts, ["a", "b", " "], tmp_path, 4, progress=False)
    with pytest.raises(DataError, match="rows_per_part is 0"):
        embed_catalog(model, prompts, ["a"], tmp_path, 4, 0, progress=False)


def test_weights_are_told_apart_in_any_precision() -> None:
    model, _ = make()
    assert weights_fingerprint(model) == weights_fingerprint(make()[0])
    seen = {weights_fingerprint(model), weights_fingerprint(make(1)[0]), weights_fingerprint(model.bfloat16())}
    assert len(seen) == 3


_RUN = """
import sys, time
from llmrec.models.lrem import catalog_embeddings
from tests.models.lrem.test_catalog_embeddings import LINES, make

embed = catalog_embeddings.embed_sequences
def slow(*arguments):
    time.sleep(0.3)
    return embed(*arguments)
catalog_embeddings.embed_sequences = slow
catalog_embeddings.embed_catalog(*make(), LINES, sys.argv[1], 4, 2, progress=False)
"""


@pytest.mark.slow
def test_a_killed_process_leaves_whole_parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    process = subprocess.Popen([sys.executable, "-c", _RUN, str(tmp_path)])
    deadline = time.monotonic() + 120
    while len(list(tmp_path.glob("part-*.npy"))) < 3:
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.wait()
    model, prompts = make()
    sizes = counted(monkeypatch)
    vectors = embed_catalog(model, prompts, LINES, tmp_path, 4, 2, progress=False)
    assert 0 < len(sizes) <= 9
    np.testing.assert_allclose(vectors, LremSearcher(prompts, LINES, 4).embed_items(model), atol=1e-5)
