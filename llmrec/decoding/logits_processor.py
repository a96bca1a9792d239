"""A stateless constraint for ``generate``: only continuations that lead to a catalogue item."""

import torch
from torch import Tensor
from transformers import LogitsProcessor

from llmrec.decoding.device_trie import DeviceTrie
from llmrec.decoding.rules import BatchRules, allowed_children


class CatalogLogitsProcessor(LogitsProcessor):
    """Masks every token that does not continue a true prefix of an item's semantic ID.

    It holds constants only, so one object may serve any number of ``generate`` calls, and a step on an accelerator
    never waits for the host. After a whole semantic ID only ``eos_token_id`` is allowed, at no cost. ``leaves`` reads
    the outcome.

    Beam search keeps all its beams even where the catalogue has fewer continuations than beams: the beams left over
    carry a score of -inf and end in tokens that lead nowhere. They stay masked, and ``leaves`` drops them. Any other
    unknown prefix is an error, since going on unconstrained would silently invent items: at once on the CPU, and in
    ``leaves`` on an accelerator, where its rows are masked from end to end meanwhile.

    Args:
        trie: the catalogue's semantic IDs on the model's device.
        prompt_length: columns of ``input_ids`` before the first generated token: the padded prompt's width for a
            decoder-only model, 1 (the start token) for an encoder-decoder.
        eos_token_id: token that may follow a whole semantic ID.
        num_beams: as given to ``generate``.
        limits: rules of the prompts.
    """

    def __init__(
        self,
        trie: DeviceTrie,
        prompt_length: int,
        eos_token_id: int,
        num_beams: int = 1,
        limits: BatchRules | None = None,
    ) -> None:
        self.trie = trie
        self.prompt_length = prompt_length
        self.eos_token_id = eos_token_id
        self.num_beams = num_beams
        self.limits = limits

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """Mask ``scores`` of shape (rows, vocabulary) for the prefixes ``input_ids[:, prompt_length:]``.

        Raises:
            ValueError: if a prefix is not a prefix of any item, on the CPU.
        """
        generated = input_ids[:, self.prompt_length :]
        nodes = self._walk(generated)
        if scores.device.type == "cpu":
            self._check(nodes.view(-1, self.num_beams), generated)
        depth = generated.shape[1]
        if depth >= self.trie.num_codebooks:
            masked = torch.full_like(scores, -torch.inf)
            masked[:, self.eos_token_id].masked_fill_(nodes >= 0, 0.0)
            return masked
        return continuations(self.trie, nodes.view(-1, self.num_beams), depth, scores, self.eos_token_id, self.limits)

    def leaves(self, sequences: Tensor, num_prompts: int, sequences_scores: Tensor | None = None) -> Tensor:
        """Trie leaves of what ``generate`` returned: int64 (sequences,), -1 for beams the catalogue could not fill.

        Args:
            sequences: int64 of shape (num_prompts * sequences of each, length).
            num_prompts: how many prompts there were.
            sequences_scores: float of shape (sequences,), which beam search gives with ``output_scores=True``.

        Raises:
            ValueError: if no sequence of a prompt is an item though there were items for it.
        """
        generated = sequences[:, self.prompt_length : self.prompt_length + self.trie.num_codebooks]
        nodes = self._walk(generated)
        if generated.shape[1] < self.trie.num_codebooks:  # generate stops early only where all IDs have ended
            for depth in range(generated.shape[1], self.trie.num_codebooks):
                end = torch.full_like(nodes, self.eos_token_id)
                nodes = self.trie.step(nodes, end, depth, self.eos_token_id)
        if sequences_scores is not None:
            # generate starts all beams but the first at -1e9: such a row repeats another one
            nodes = torch.where(sequences_scores > -1e8, nodes, -1)
        found = (nodes.view(num_prompts, -1) >= 0).any(1)
        lost = ~found & (self._num_choices(num_prompts) > 0)
        if lost.any():
            self._raise(generated, int(lost.nonzero()[0]) * (len(sequences) // num_prompts))
        return nodes

    def _walk(self, generated: Tensor) -> Tensor:
        nodes = torch.zeros(len(generated), dtype=torch.long, device=generated.device)
        for depth, column in enumerate(generated[:, : self.trie.num_codebooks].unbind(1)):
            nodes = self.trie.step(nodes, column, depth, self.eos_token_id)
        return nodes

    def _num_choices(self, num_prompts: int) -> Tensor:
        """How many first codes each prompt may start with: int64 (num_prompts,)."""
        root = torch.zeros(num_prompts, 1, dtype=torch.long, device=self.trie.device)
        return allowed_children(self.trie, root, 0, self.limits)[2].sum((1, 2))

    def _check(self, nodes: Tensor, generated: Tensor) -> None:
        live = (nodes >= 0).sum(1)
        # every live prefix has a continuation, so as many beams live on as the first level had to offer
        lost = live < self._num_choices(len(nodes)).clamp(max=self.num_beams)
        if lost.any():
            prompt = int(lost.nonzero()[0])
            self._raise(generated, prompt * self.num_beams + int((nodes[prompt] < 0).nonzero()[0]))

    def _raise(self, generated: Tensor, row: int) -> None:
        raise ValueError(
            f"Row {row} holds the tokens {generated[row].tolist()}, which are no prefix of a catalogue item. Check "
            f"that prompt_length ({self.prompt_length}) is the width of the padded prompt, that num_beams "
            f"({self.num_beams}) is what generate was given, and that model and catalog belong together."
        )


def continuations(
    trie: DeviceTrie,
    nodes: Tensor,
    depth: int,
    scores: Tensor,
    eos_token_id: int,
    limits: BatchRules | None = None,
) -> Tensor:
    """``scores`` where a token continues a prefix, -inf elsewhere: float (rows, vocabulary).

    Args:
        trie: the catalogue's semantic IDs.
        nodes: int64 (users, beams), whose product is the rows: nodes at ``depth``, -1 for dead ones.
        depth: length of the prefixes, less than num_codebooks.
        scores: float (rows, vocabulary).
        eos_token_id: ends an ID that is shorter than the longest, at no cost.
        limits: rules of the users.
    """
    _, codes, valid = allowed_children(trie, nodes, depth, limits)
    codes, valid = codes.flatten(0, 1), valid.flatten(0, 1)
    tokens = torch.where(codes >= 0, trie.code_tokens[depth][codes.clamp(min=0)], eos_token_id)
    values = torch.where(codes >= 0, scores.gather(1, tokens), 0.0).masked_fill(~valid, -torch.inf)
    masked = torch.full_like(scores, -torch.inf)
    # an invalid slot may name a token that a valid one allows: the larger value wins
    return masked.scatter_reduce_(1, tokens, values.to(scores.dtype), "amax")
