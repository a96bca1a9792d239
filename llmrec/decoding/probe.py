"""Finds out how a model can be searched: a few tokens through each way, against a plain forward pass."""

import logging
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from transformers import PreTrainedModel

from llmrec.decoding.copied_caches import CopiedCaches
from llmrec.decoding.device_trie import DeviceTrie
from llmrec.decoding.model_outputs import CodeLogits
from llmrec.decoding.shared_prefix import SharedPrefix

logger = logging.getLogger(__name__)

#: Largest difference of a logit from the plain pass, in standard deviations of the logits.
_TOLERANCE = {torch.float32: 1e-3, torch.float64: 1e-3}
_HALF_TOLERANCE = 5e-2

BeamState = Callable[[PreTrainedModel, Sequence[Sequence[int]], bool], "SharedPrefix | CopiedCaches"]


class SearchWay(NamedTuple):
    """How the beams run, and whether the output head is evaluated by us from hidden states."""

    state: BeamState
    hidden: bool


#: Fastest first.
_WAYS = (
    SearchWay(SharedPrefix, True),
    SearchWay(SharedPrefix, False),
    SearchWay(CopiedCaches, True),
    SearchWay(CopiedCaches, False),
)


def find_way(model: PreTrainedModel, trie: DeviceTrie) -> SearchWay:
    """The fastest way to run beams that gives this model's own logits.

    Two prompts of different lengths, two beams each, two levels with crossed parents: enough to tell a mask that is
    ignored, a position by column, a hidden state that is not the head's input, or a head with a transformation of its
    own. A way that does not fit is logged and the next one taken; all give the same results where they fit.

    Raises:
        ValueError: if none gives the model's logits.
    """
    tokens = torch.cat(trie.code_tokens).tolist()
    tokens = [tokens[place % len(tokens)] for place in range(9)]
    probe = _Probe([tokens[:5], tokens[5:8]], torch.tensor(tokens[:2]), torch.tensor(tokens[1:3]))
    expected = probe.expected(model)
    reasons: list[str] = []
    for way in _WAYS:
        reason = probe.mismatch(model, trie, way, expected)
        if reason is None:
            if reasons:
                logger.warning("%s: %s, since %s.", type(model).__name__, _describe(way), "; ".join(reasons))
            return way
        reasons.append(f"{_describe(way)}: {reason}")
    raise ValueError(
        f"No way to run beams gives the logits of {type(model).__name__} ({'; '.join(reasons)}). "
        "It needs a key-value cache and left padding; generate with CatalogLogitsProcessor may still serve it."
    )


class _Probe(NamedTuple):
    prompts: list[list[int]]
    first: Tensor  # tokens of the two beams at the first level
    second: Tensor  # and at the second, where each continues the other one's beam

    def expected(self, model: PreTrainedModel) -> list[Tensor]:
        """Logits (users, beams, vocabulary) after the prompt, the first and the second level, from whole sequences."""
        crossed = self.first.flip(0).tolist()
        paths = [[a, b] for a, b in zip(crossed, self.second.tolist(), strict=True)]
        users = [torch.stack([_plain_logits(model, prompt, path) for path in paths]) for prompt in self.prompts]
        logits = torch.stack(users)
        return [logits[:, :1, 0], logits[:, :, 1].flip(1), logits[:, :, 2]]

    def mismatch(self, model: PreTrainedModel, trie: DeviceTrie, way: SearchWay, expected: list[Tensor]) -> str | None:
        """Why ``way`` does not fit, or None."""
        try:
            observed = self._run(model, way)
            differences = [_difference(model, trie, way, *pair) for pair in zip(observed, expected, strict=True)]
            worst = float(torch.stack(differences).max())
        except Exception as error:
            return f"the model refuses it ({type(error).__name__}: {str(error).partition(chr(10))[0]})"
        tolerance = _TOLERANCE.get(model.dtype, _HALF_TOLERANCE)
        return None if worst <= tolerance else f"logits differ by {worst:.2g} standard deviations from a plain pass"

    def _run(self, model: PreTrainedModel, way: SearchWay) -> list[Tensor]:
        state = way.state(model, self.prompts, way.hidden)
        users = len(self.prompts)
        outputs = [state.prefill()]
        for tokens, parents in ((self.first, [0, 0]), (self.second, [1, 0])):
            beams = tokens.to(model.device).expand(users, -1)
            outputs.append(state.advance(beams, torch.tensor(parents, device=model.device).expand(users, -1)))
        return outputs


def _difference(model: PreTrainedModel, trie: DeviceTrie, way: SearchWay, outputs: Tensor, expected: Tensor) -> Tensor:
    """Largest difference in standard deviations of the logits, over every level's codes and both kinds of scores."""
    expected = expected.float()
    code_logits = CodeLogits(model, trie, way.hidden)
    differences = []
    for depth, tokens in enumerate(trie.code_tokens):
        differences.append(code_logits.logits(outputs, depth) - expected[..., tokens])
        differences.append(code_logits.log_probs(outputs, depth) - expected.log_softmax(-1)[..., tokens])
    return torch.cat([difference.abs().flatten() for difference in differences]).max() / expected.std()


def _plain_logits(model: PreTrainedModel, prompt: list[int], path: list[int]) -> Tensor:
    """Logits (1 + len(path), vocabulary) after the prompt and each token of ``path``."""
    inputs: dict[str, Any] = {"input_ids": torch.tensor([[*prompt, *path]], device=model.device)}
    if model.config.is_encoder_decoder:
        start = model.config.decoder_start_token_id
        inputs = {
            "input_ids": torch.tensor([prompt], device=model.device),
            "decoder_input_ids": torch.tensor([[start, *path]], device=model.device),
        }
    return model(**inputs, use_cache=False).logits[0, -1 - len(path) :]


def _describe(way: SearchWay) -> str:
    beams = "beams over one shared prefix" if way.state is SharedPrefix else "beams with copied caches"
    return f"{beams}, {'rows of the output head' if way.hidden else 'the whole output head'}"
