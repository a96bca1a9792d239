"""A catalogue's codes as new tokens of a language model: tokenizer entries, embedding rows, and safe text encoding."""

import string
from collections.abc import Callable, Sequence
from typing import Literal

import numpy as np
import torch
from torch import nn
from transformers import AddedToken, PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

from llmrec.catalog import Catalog

Initialization = Literal["text", "default"]


def code_token(level: int, code: int) -> str:
    """The token of one code, in the field's usual form: ``<a_12>`` is code 12 of the first level."""
    return f"<{string.ascii_lowercase[level]}_{code}>"


def user_code_token(level: int, code: int) -> str:
    """The token of one code of a user's index: ``<user_a_12>``."""
    return f"<user_{string.ascii_lowercase[level]}_{code}>"


class ItemVocabulary:
    """Token ids of semantic-ID codes in one tokenizer, and text that can never become one of them.

    Users' indices may have tokens of their own (``recipes/ulmrec.py``), apart from those of items.

    Every code of every level has a token, used or not, so that items added later need no new row.

    Args:
        tokenizer: a tokenizer that has the tokens already (see ``add_to``).
        codebook_sizes: number of codes of each level.
        user_codebook_sizes: the same of users' indices; empty where these have no tokens.

    Attributes:
        code_token_ids: int64 array of shape (num_codebooks, largest codebook size); -1 past a smaller codebook.
        user_token_ids: the same of users' codes.
        added_token_ids: those that ``add_to`` found missing; the others may have been trained already.

    Raises:
        ValueError: if the tokenizer lacks one of the tokens.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        codebook_sizes: Sequence[int],
        user_codebook_sizes: Sequence[int] = (),
    ) -> None:
        self.tokenizer = tokenizer
        self.codebook_sizes = tuple(codebook_sizes)
        self.user_codebook_sizes = tuple(user_codebook_sizes)
        self.code_token_ids = _token_ids(tokenizer, self.codebook_sizes, code_token)
        self.user_token_ids = _token_ids(tokenizer, self.user_codebook_sizes, user_code_token)
        self.added_token_ids: list[int] = []
        self._control_ids = frozenset(tokenizer.added_tokens_decoder) - {tokenizer.unk_token_id}

    @classmethod
    def add_to(
        cls,
        tokenizer: PreTrainedTokenizerBase,
        codebook_sizes: Sequence[int],
        user_codebook_sizes: Sequence[int] = (),
    ) -> "ItemVocabulary":
        """Add every code's token to ``tokenizer`` (in place; nothing happens to those it has already)."""
        most = max(len(codebook_sizes), len(user_codebook_sizes))
        if most > len(string.ascii_lowercase):
            raise ValueError(f"{most} codebooks; at most {len(string.ascii_lowercase)} have a letter.")
        tokens = [code_token(level, code) for level, size in enumerate(codebook_sizes) for code in range(size)]
        tokens += [
            user_code_token(level, code) for level, size in enumerate(user_codebook_sizes) for code in range(size)
        ]
        # not special: they must survive decode(skip_special_tokens=True); encode_text is what keeps text from them
        known = tokenizer.get_vocab()
        tokenizer.add_tokens([AddedToken(token, special=False, normalized=False) for token in tokens])
        vocabulary = cls(tokenizer, codebook_sizes, user_codebook_sizes)
        vocabulary.added_token_ids = [
            token_id for token, token_id in zip(tokens, vocabulary.new_token_ids, strict=True) if token not in known
        ]
        return vocabulary

    @property
    def new_token_ids(self) -> list[int]:
        """Every code's token id, level by level; items' before users'."""
        tables = self.code_token_ids, self.user_token_ids
        return [token_id for table in tables for token_id in table[table >= 0].tolist()]

    def item_token_ids(self, semantic_ids: np.ndarray) -> np.ndarray:
        """Token ids of ``semantic_ids``, both integer arrays of shape (..., num_codebooks)."""
        return self.code_token_ids[np.arange(len(self.codebook_sizes)), semantic_ids]

    def user_tokens(self, codes: Sequence[int]) -> list[int]:
        """Token ids of a user's index, one for each level."""
        return self.user_token_ids[np.arange(len(codes)), list(codes)].tolist()

    def encode_text(self, text: str) -> list[int]:
        """Token ids of user text. Whatever the text spells, none of them is an item token or another added token.

        ``split_special_tokens=True`` is not enough: it covers only tokens added as special ones, and a unigram model
        can still produce ``</s>`` as an ordinary piece. So the result is checked, and a text that did produce
        some is encoded in pieces, cut inside the offending spans.
        """
        encoding = self.tokenizer(text, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
        tokens = zip(encoding["input_ids"], encoding["offset_mapping"], strict=True)
        spans = [span for token_id, span in tokens if token_id in self._control_ids]
        if not spans:
            return encoding["input_ids"]
        # all at once: one at a time, a text of a thousand of them would be a thousand calls deep
        pieces, begin = [], 0
        for start, end in spans:
            long = end - start > 1
            pieces.append(text[begin : start + long])
            # one that is a single character long: the text goes on without that character
            begin = start + 1 if long else end
        pieces.append(text[begin:])
        return [token_id for piece in pieces for token_id in self.encode_text(piece)]


def _token_ids(tokenizer: PreTrainedTokenizerBase, sizes: Sequence[int], name: Callable[[int, int], str]) -> np.ndarray:
    token_ids = np.full((len(sizes), max(sizes, default=0)), -1, dtype=np.int64)
    known = tokenizer.get_vocab()
    for level, size in enumerate(sizes):
        for code in range(size):
            if name(level, code) not in known:
                raise ValueError(
                    f"The tokenizer has no token {name(level, code)}; this catalog needs codebooks of sizes "
                    f"{list(sizes)}. Use the checkpoint trained with it, or ItemVocabulary.add_to."
                )
            token_ids[level, code] = known[name(level, code)]
    return token_ids


def bind_catalog(model: PreTrainedModel, catalog: Catalog) -> None:
    """Name ``catalog`` in the model's config, which travels with its weights: its item tokens mean these items."""
    model.config.catalog_fingerprint = catalog.fingerprint


def check_catalog(config: PreTrainedConfig, catalog: Catalog) -> None:
    """Refuse a catalog that is not the one a model was trained with, where its config names one.

    Raises:
        DataError: if the fingerprints differ.
    """
    expected = getattr(config, "catalog_fingerprint", None)
    if expected is not None:
        catalog.check_fingerprint(expected, f"The model {config.name_or_path or config.model_type}")


def resize_embeddings(
    model: PreTrainedModel,
    vocabulary: ItemVocabulary,
    catalog: Catalog,
    initialization: Initialization = "text",
    seed: int = 42,
) -> None:
    """Give ``model`` input and output rows for the new tokens, in place; tied weights stay tied.

    Args:
        model: decoder-only or encoder-decoder model.
        vocabulary: new tokens, already in the tokenizer.
        catalog: items whose titles the rows are initialised from.
        initialization: ``"text"`` sets the rows of each code that ``add_to`` added to the mean of the title embeddings
            of the items that carry it (a user's code: to the mean of all embeddings), plus noise of a tenth of the
            embeddings' standard deviation so that no two codes start equal (our choice; the LC-Rec paper says
            nothing). Rows of tokens that the tokenizer had before, as in a checkpoint of ours, stay. ``"default"``
            keeps what transformers draws.
        seed: of the noise.
    """
    num_tokens = max(len(vocabulary.tokenizer), model.get_input_embeddings().num_embeddings)
    # the padding rows of a checkpoint (Qwen has some) are kept and used
    model.resize_token_embeddings(num_tokens, mean_resizing=False)
    if initialization == "default" or not vocabulary.added_token_ids:
        return
    rows = _code_text_rows(vocabulary, catalog)
    embeddings = [model.get_input_embeddings()]
    head = model.get_output_embeddings()
    if head is not None and head.weight is not embeddings[0].weight:
        embeddings.append(head)
    generator = torch.Generator().manual_seed(seed)
    for module in embeddings:
        _initialize_rows(module, vocabulary, rows, generator)


@torch.no_grad()
def start_from_codebooks(
    model: PreTrainedModel, vocabulary: ItemVocabulary, codebooks: torch.Tensor, seed: int
) -> None:
    """Let the rows of codes start with the distances that their codebook has, in place; tied weights stay tied.

    A codebook is centred, turned into the model's width by a random projection with orthonormal rows or columns, and
    scaled to the embeddings' standard deviation. A disambiguation level has no codebook: its rows stay. Our choice, for
    a model that is trained from scratch; it learns in fewer passes (docs/benchmarks.md).

    Args:
        model: with rows for all tokens.
        vocabulary: of the catalogue that ``codebooks`` made.
        codebooks: float32 (num_codebooks, codebook_size, latent_dim), as an item tokenizer has them.
        seed: of the projection.
    """
    weight = model.get_input_embeddings().weight
    std = weight.float().std()
    generator = torch.Generator().manual_seed(seed)
    for level, codebook in enumerate(codebooks.float().cpu()):
        width, latent_dim = weight.shape[1], codebook.shape[1]
        noise = torch.randn(max(width, latent_dim), min(width, latent_dim), generator=generator)
        basis = torch.linalg.qr(noise).Q
        rows = (codebook - codebook.mean(0)) @ (basis if latent_dim > width else basis.T)
        if not rows.any():
            continue  # a level that had nothing left to tell apart
        rows *= std / rows.std()
        token_ids = torch.from_numpy(vocabulary.code_token_ids[level, : len(codebook)])
        weight[token_ids] = rows.to(weight)


def _code_text_rows(vocabulary: ItemVocabulary, catalog: Catalog) -> dict[int, np.ndarray]:
    """For each new token id, the token ids of the titles of the items that carry its code (repeats kept)."""
    titles = [np.array(vocabulary.encode_text(title), dtype=np.int64) for title in catalog.titles]
    rows: dict[int, np.ndarray] = {}
    for level in range(catalog.num_codebooks):
        order = np.argsort(catalog.semantic_ids[:, level], kind="stable")
        codes, starts = np.unique(catalog.semantic_ids[order, level], return_index=True)
        for code, items in zip(codes, np.split(order, starts[1:]), strict=True):
            rows[int(vocabulary.code_token_ids[level, code])] = np.concatenate([titles[item] for item in items])
    return rows


@torch.no_grad()
def _initialize_rows(
    module: nn.Embedding | nn.Linear,
    vocabulary: ItemVocabulary,
    rows: dict[int, np.ndarray],
    generator: torch.Generator,
) -> None:
    weight = module.weight
    new = torch.tensor(vocabulary.added_token_ids, dtype=torch.long)
    old = torch.ones(len(weight), dtype=torch.bool)
    old[new] = False
    old[len(vocabulary.tokenizer) :] = False
    reference = weight[old.to(weight.device)].float()
    noise = 0.1 * reference.std() * torch.randn(len(new), weight.shape[1], generator=generator).to(weight.device)
    fallback = reference.mean(0)
    for row, token_id in enumerate(new.tolist()):
        text = rows.get(token_id)
        mean = fallback if text is None or len(text) == 0 else weight[torch.from_numpy(text)].float().mean(0)
        weight[token_id] = (mean + noise[row]).to(weight.dtype)
