"""The benchmarks' own counting: what is called invalid, equal, or work."""

import numpy as np
import pytest
import torch

from benchmarks import decoding
from benchmarks.decoding_contenders import AllowedTokens, Lists, build_contender, nested_dictionary
from benchmarks.decoding_measure import Clock, timed_search
from benchmarks.decoding_setup import BenchmarkCatalog, build_model, make_prompts
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


def test_ours_meets_every_shape_and_the_others_the_headline_once() -> None:
    settings, _ = decoding.parse(["--beams", "50", "256", "--histories", "20", "50", "--batch_sizes", "1", "8"])
    shared = settings.shared_catalog_size
    ours = [settings.headline, *decoding.grid_of("ours", settings, shared)]
    assert len(ours) == len(set(ours)) == 8
    theirs = decoding.grid_of("generate_prefix_fn", settings, shared)
    assert theirs.count(settings.headline) == 1
    assert {cell.batch_size for cell in theirs if cell != settings.headline} == {1}


def test_a_contender_without_memory_for_a_shape_is_listed_and_the_run_goes_on(monkeypatch) -> None:
    settings, _ = decoding.parse(SMALL)
    measure = decoding.measure

    def measure_ours(contender, *arguments) -> dict[str, float]:
        if contender.search is None:
            raise torch.OutOfMemoryError
        return measure(contender, *arguments)

    monkeypatch.setattr(decoding, "measure", measure_ours)
    model = build_model(settings)
    catalogs = {size: BenchmarkCatalog(settings, size) for size in settings.catalog_sizes}
    results = {"not_built": [], "lists": {"invalid": 0}, "rates": {"bytes_per_s": 1e9, "flops_per_s": 1e9}}
    results["runs"] = decoding.run_sizes("ours", settings, model, catalogs)
    for size, catalog in catalogs.items():
        for name in ("ours", "generate_prefix_fn"):
            decoding.run_contender(name, settings, model, catalog, size, results)
    assert {run["contender"] for run in results["runs"]} == {"ours"}
    assert len(results["not_built"]) == len(catalogs)
    assert all("out of memory" in entry["reason"] for entry in results["not_built"])
    summary = decoding.summary(settings, model, results)
    assert np.isnan([summary["users_per_s_ratio"], summary["memory_ratio"]]).all()
    assert summary["invalid"] == 0


def test_catalogs_take_turns_so_that_a_slow_start_falls_on_all_of_them(monkeypatch) -> None:
    settings, _ = decoding.parse([*SMALL, "--repeats", "3"])
    order = []

    def take_sample(_, __, ___, catalog, *____) -> decoding.Sample:
        order.append(len(catalog.semantic_ids))
        seconds = 5.0 if len(order) <= 2 else 1.0
        return decoding.Sample(seconds, seconds, 0.1, 1)

    monkeypatch.setattr(decoding, "take_sample", take_sample)
    catalogs = {size: BenchmarkCatalog(settings, size) for size in settings.catalog_sizes}
    rows = decoding.run_sizes("ours", settings, build_model(settings), catalogs)
    assert order == [50, 2000] * 3
    assert [(row["ms_step"], row["invalid"]) for row in rows] == [(1000.0, 3)] * 2
    assert [row["catalog_size"] for row in rows if "peak_bytes" in row] == [settings.headline.catalog_size]


def test_constraint_spans_leave_the_head_and_the_model_out() -> None:
    settings, _ = decoding.parse(SMALL)
    contender = build_contender("ours", build_model(settings), BenchmarkCatalog(settings, 2000))
    clock, prompts = Clock("cpu"), make_prompts(settings, 3, 2)
    start = clock.mark()
    with timed_search(contender.search, clock) as spans:
        contender.rank(prompts, 8)
    end = clock.mark()
    assert len(spans) == 2 * settings.num_codebooks
    marks = [mark for span in spans for mark in span]
    assert marks == sorted(marks)
    assert 0 < sum(clock.seconds(*span) for span in spans) < clock.seconds(start, end)
