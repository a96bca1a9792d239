import pytest
import torch

from llmrec import vector_index
from llmrec.models.setrec.search import SetSearch
from tests.models.test_setrec_model import NUM_ITEMS, make_features, make_setrec

HISTORIES = [[3, 1, 4], [], [5, 9, 2, 6, 5]]
EXCLUDE = [[3, 1, 4], [], [5, 9, 2, 6]]
ALLOW = [None, [7, 2, 11], [2, 8, 0]]


@pytest.mark.parametrize("beta", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("index", [None, "exact", "approximate"])
@pytest.mark.parametrize("backbone", ["qwen3", "t5"])
def test_the_best_items_are_those_of_the_highest_scores(backbone, index, beta, monkeypatch):
    monkeypatch.setattr(vector_index, "_FEWEST_PER_CELL", 4)  # 12 items are few: three cells, all of them searched
    model, features = make_setrec(backbone), make_features()
    grounded = SetSearch(model, features).score(HISTORIES).grounded(beta)
    items, values = SetSearch(model, features, index).best(HISTORIES, beta, 4, EXCLUDE, ALLOW)
    for row, (exclude, allow) in enumerate(zip(EXCLUDE, ALLOW, strict=True)):
        allowed = set(range(NUM_ITEMS) if allow is None else allow) - set(exclude)
        expected = sorted(allowed, key=lambda item: -grounded[row, item])[:4]
        assert items[row].tolist() == expected + [-1] * (4 - len(expected))
        torch.testing.assert_close(values[row, : len(expected)], grounded[row, expected], rtol=1e-4, atol=1e-4)
        assert values[row, len(expected) :].isneginf().all()


def test_a_search_over_other_items_reads_those_items():
    """A reloaded catalogue is searched, and its histories are read, with its own features; the model keeps its own."""
    model = make_setrec()
    more = make_features(num_items=20, seed=5)
    here = SetSearch(model, more).score([[19, 3]])
    model.set_items(more)
    states = model.query(torch.tensor([[19, 3]]))[0, 0]
    tokens = model.item_tokens(torch.arange(20))
    torch.testing.assert_close(here.cf[0], tokens[:, 0] @ states[0], rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(here.semantic[0], (tokens[:, 1:] * states[1:]).sum((1, 2)), rtol=1e-4, atol=1e-4)


def test_an_index_knows_no_score_of_every_item():
    with pytest.raises(ValueError, match="without an index"):
        SetSearch(make_setrec(), make_features(), "exact").score([[1]])
