"""The benchmarks' own counting: what is called invalid, equal, or work."""

import numpy as np
import pytest
import torch

from benchmarks import decoding
from benchmarks.decoding_contenders import AllowedTokens, Lists, nested_dictionary
from benchmarks.decoding_setup import BenchmarkCatalog
from benchmarks.generate_parity import same_lists

SMALL = ["--model", "tiny", "--beams", "8", "--histories", "3", "--batch_sizes", "2", "--catalog_sizes", "50", "2000"]


def test_items_outside_the_catalog_and_repeated_ones_are_invalid() -> None:
    settings, _ = decoding.parse(SMALL)
    catalog = BenchmarkCatalog(settings, 50)
    good = np.arange(6).reshape(2, 3)
    keys = catalog.keys[good]
    scores = np.zeros((2, 3), dtype=np.float32)
    assert Lists(good, keys, scores).count_invalid(catalog) == 0
    repeated = good.copy()
    repeated[0, 1] = repeated[0, 0]
    assert Lists(repeated, catalog.keys[repeated], scores).count_invalid(catalog) == 1
    unknown = keys.copy()
    unknown[1, 2] = -1
    assert Lists(good, unknown, scores).count_invalid(catalog) == 1


def test_lists_are_equal_only_up_to_ties() -> None:
    a = [((1,), 0.5), ((2,), 0.4), ((3,), 0.3)]
    assert same_lists(a, list(a), 0.0)
    swapped = [a[1], a[0], a[2]]
    assert not same_lists(a, swapped, 1e-4)
    tied = [((1,), 0.5), ((2,), 0.50001), ((3,), 0.3)]
    assert same_lists(tied, [tied[1], tied[0], tied[2]], 1e-4)
    assert not same_lists(a, [a[0], a[1], ((4,), 0.3)], 0.0)
    assert not same_lists(a, [a[0], a[1]], 1e-4)


def test_a_dictionary_allows_exactly_the_continuations() -> None:
    allowed = AllowedTokens(nested_dictionary(np.array([[1, 2], [1, 3], [4, 2]])), prompt_width=1)
    assert [allowed(0, torch.tensor([9, *prefix])) for prefix in ([], [1], [4])] == [[1, 4], [2, 3], [2]]


@pytest.mark.slow
def test_a_run_ends_with_its_figures_and_finds_no_invalid_item(tmp_path, capsys) -> None:
    decoding.main([*SMALL, "--repeats", "1", "--output", str(tmp_path / "decoding.json")])
    last = capsys.readouterr().out.strip().splitlines()[-1]
    figures = dict(pair.split("=") for pair in last.split(" "))
    assert list(figures) == ["users_per_s_ratio", "memory_ratio", "constraint_share", "flatness", "invalid"]
    assert figures["invalid"] == "0"
    assert all(0 <= float(value) < 1000 for value in figures.values())
    assert (tmp_path / "decoding.png").stat().st_size > 1000
