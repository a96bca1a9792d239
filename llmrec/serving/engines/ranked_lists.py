"""From what a search ranked to the answers of an engine."""

from collections.abc import Sequence

from llmrec.decoding.device_trie import DeviceTrie
from llmrec.decoding.ranked_items import RankedItems
from llmrec.decoding.trace import BeamTrace
from llmrec.serving.engines.engine import RankedList, RankRequest


def ranked_lists(
    trie: DeviceTrie, ranked: RankedItems, trace: BeamTrace, requests: Sequence[RankRequest]
) -> list[RankedList]:
    """The answer to each request of one batch.

    Args:
        trie: of the search.
        ranked: its lists, at least as long as any request asks for.
        trace: its levels.
        requests: in the order of the batch.
    """
    code_log_probs = trace.code_log_probs(trie, ranked.items).tolist()
    rows = zip(requests, ranked.items.tolist(), ranked.scores.tolist(), code_log_probs, strict=True)
    answers = []
    for row, (request, items, scores, log_probs) in enumerate(rows):
        count = sum(item >= 0 for item in items[: request.k])
        levels = trace.levels(trie, row, request.num_beams) if request.trace else None
        answers.append(RankedList(items[:count], scores[:count], log_probs[:count], levels))
    return answers
