"""A stateless constraint for ``generate``: only continuations that lead to a catalogue item."""

import torch
from torch import Tensor
from transformers import LogitsProcessor

from llmrec.decoding.device_trie import DeviceTrie, ExcludedItems


class CatalogLogitsProcessor(LogitsProcessor):
    """Masks every token that does not continue a true prefix of an item's semantic ID.

    It holds constants only, so one object may serve any number of ``generate`` calls. After a whole semantic ID only
    ``eos_token_id`` is allowed. ``generated_items`` reads the outcome.

    Beam search keeps all its beams even where the catalogue has fewer continuations than beams: the beams left over
    carry a score of -inf and end in tokens that lead nowhere. They stay masked, and ``generated_items`` drops them. Any
    other unknown prefix raises, since going on unconstrained would silently invent items.

    Args:
        trie: the catalogue's semantic IDs on the model's device.
        prompt_length: columns of ``input_ids`` before the first generated token: the padded prompt's width for a
            decoder-only model, 1 (the start token) for an encoder-decoder.
        eos_token_id: token that may follow a whole semantic ID.
        num_beams: as given to ``generate``.
        excluded: items that must not be generated for each prompt.
    """

    def __init__(
        self,
        trie: DeviceTrie,
        prompt_length: int,
        eos_token_id: int,
        num_beams: int = 1,
        excluded: ExcludedItems | None = None,
    ) -> None:
        self.trie = trie
        self.prompt_length = prompt_length
        self.eos_token_id = eos_token_id
        self.num_beams = num_beams
        self.excluded = excluded

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """Mask ``scores`` of shape (rows, vocabulary) for the prefixes ``input_ids[:, prompt_length:]``.

        Raises:
            ValueError: if a prefix is not a prefix of any item.
        """
        generated = input_ids[:, self.prompt_length :]
        depth = min(generated.shape[1], self.trie.num_codebooks)
        nodes = torch.zeros(len(generated), dtype=torch.long, device=generated.device)
        for column in generated[:, :depth].unbind(1):
            nodes = self.trie.step(nodes, column)
        self._check(nodes, generated)
        allowed = torch.zeros_like(scores, dtype=torch.bool)
        if depth == self.trie.num_codebooks:
            allowed[:, self.eos_token_id] = nodes >= 0
        else:
            _, tokens, valid = self._children(nodes.view(-1, self.num_beams), depth)
            # an invalid slot may name a token that a valid one allows: count, so that one "yes" is enough
            allowed = allowed.int().scatter_add_(1, tokens.flatten(0, 1), valid.flatten(0, 1).int()).bool()
        return scores.masked_fill(~allowed, -torch.inf)

    def _children(self, nodes: Tensor, depth: int) -> tuple[Tensor, Tensor, Tensor]:
        children, tokens, valid = self.trie.children(nodes, depth)
        if self.excluded is not None:
            valid = valid & self.excluded.allows(children)
        return children, tokens, valid

    def _check(self, nodes: Tensor, generated: Tensor) -> None:
        live = (nodes >= 0).view(-1, self.num_beams).sum(1)
        # every live prefix has a continuation, so as many beams live on as the first level had to offer
        root = torch.zeros(len(live), 1, dtype=torch.long, device=nodes.device)
        min_live = self._children(root, 0)[2].sum((1, 2)).clamp(max=self.num_beams)
        if (live < min_live).any():
            prompt = int((live < min_live).nonzero()[0])
            row = prompt * self.num_beams + int((nodes.view(-1, self.num_beams)[prompt] < 0).nonzero()[0])
            raise ValueError(
                f"Row {row} holds the tokens {generated[row].tolist()}, which are no prefix of a catalogue item. Check "
                f"that prompt_length ({self.prompt_length}) is the width of the padded prompt, that num_beams "
                f"({self.num_beams}) is what generate was given, and that model and catalog belong together."
            )


def generated_items(trie: DeviceTrie, sequences: Tensor, sequences_scores: Tensor, prompt_length: int) -> Tensor:
    """Item indices of generated sequences: int64 of shape (sequences,), -1 for beams the catalogue could not fill.

    Args:
        trie: the catalogue's semantic IDs.
        sequences: int64 of shape (sequences, length), as ``generate`` returns them.
        sequences_scores: float of shape (sequences,), as ``generate`` returns them with ``output_scores=True``.
        prompt_length: as given to ``CatalogLogitsProcessor``.
    """
    nodes = torch.zeros(len(sequences), dtype=torch.long, device=sequences.device)
    for column in sequences[:, prompt_length : prompt_length + trie.num_codebooks].unbind(1):
        nodes = trie.step(nodes, column)
    # generate starts all beams but the first at -1e9: such a row repeats another one
    return trie.items(torch.where(sequences_scores > -1e8, nodes, -1))
