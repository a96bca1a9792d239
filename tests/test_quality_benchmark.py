"""The table of all methods, and RecTools' part in it with a stand-in for its interpreter."""

import json
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import save_file

from benchmarks import quality, rectools_sasrec
from tests.recipes.conftest import ring_dataset  # noqa: F401 -- a fixture

STAND_IN = """#!{python}
import csv, json, pathlib, sys
worker, folder = sys.argv[1], pathlib.Path(sys.argv[2])
assert pathlib.Path(worker).name == "rectools_worker.py"
k = json.loads((folder / "options.json").read_text())["k"]
last, seen = {{}}, {{}}
for row in csv.DictReader((folder / "histories.csv").open()):
    last[row["user"]] = int(row["item"])
    seen.setdefault(row["user"], set()).add(int(row["item"]))
items = 1 + max(int(row["item"]) for row in csv.DictReader((folder / "train.csv").open()))
with (folder / "ranked.csv").open("w") as file:
    file.write("user_id,item_id,rank\\n")
    for user, item in last.items():
        ahead = [(item + step) % items for step in range(1, items)]
        kept = [item for item in ahead if item not in seen[user]][:k]
        file.writelines(f"{{user}},{{item}},{{rank}}\\n" for rank, item in enumerate(kept, start=1))
(folder / "measured.json").write_text(json.dumps({{"training_seconds": 1.5}}))
"""


@pytest.mark.slow
def test_what_rectools_ranks_is_scored_as_all_else(ring_dataset: Path, tmp_path: Path) -> None:  # noqa: F811
    stand_in = tmp_path / "python"
    stand_in.write_text(STAND_IN.format(python=sys.executable))
    stand_in.chmod(0o755)
    folder, options = tmp_path / "run", {"num_epochs": 1, "session_max_len": 20, "num_negatives": None}
    found = rectools_sasrec.run(str(stand_in), ring_dataset, folder, 0, options)
    # on the ring, the item behind the last one comes next
    assert found["results"]["rectools_sasrec"]["hit_rate@5"] == 1.0
    assert found["seconds"] == {"training": 1.5}
    row = quality.table({"rectools_sasrec": [{**found, "folder": folder}]})[0]
    assert row["training_minutes"] == [1.5 / 60]
    assert row["parameters"] is None
    # what is finished is read, and only where it is the same
    assert rectools_sasrec.run("no interpreter", ring_dataset, folder, 0, options) == found
    with pytest.raises(SystemExit, match="other options or data"):
        rectools_sasrec.run(str(stand_in), ring_dataset, folder, 0, {**options, "num_epochs": 2})


def test_sequences_are_written_place_by_place(tmp_path: Path) -> None:
    rectools_sasrec.write_sequences([[5, 3], [], [7]], tmp_path / "train.csv")
    assert (tmp_path / "train.csv").read_text().split() == ["user,item,place", "0,5,0", "0,3,1", "2,7,0"]


def fake_run(folder: Path, seed: int) -> dict:
    """What a finished run of lcrec leaves behind, as far as the table reads it."""
    (folder / "checkpoint-4").mkdir(parents=True)
    log = [{"eval_ndcg@10": 0.1 + seed / 100, "eval_loss": 3.0}, {"eval_ndcg@10": 0.05, "eval_loss": 2.0}, {"loss": 1}]
    (folder / "checkpoint-4" / "trainer_state.json").write_text(json.dumps({"log_history": log}))
    save_file({"a": torch.zeros(3, 4), "b": torch.zeros(5)}, folder / "model.safetensors")
    names = ("lcrec+item_knn", "lcrec", "popularity", "item_knn")
    values = dict.fromkeys(quality.METRICS, 0.05 + seed / 100)
    results = {name: dict(values) for name in names}
    users = [f"u{n}" for n in range(9)]
    columns = {name: np.arange(9) / 100 + (0.01 + seed / 100) * name.startswith("lcrec") for name in names}
    pq.write_table(pa.table({"user_id": users, **columns}), folder / "per_user.parquet")
    protocol = {"dataset": "ring", "num_users": 9, "fusion_weight": 0.5}
    return {
        "results": results,
        "protocol": protocol,
        "split_fingerprint": "abc",
        "seconds": {"training": 60.0},
        "folder": folder,
    }


def test_the_table_has_every_seed_and_the_floors_once(tmp_path: Path) -> None:
    runs = {"lcrec": [fake_run(tmp_path / str(seed), seed) for seed in (0, 2)]}
    rows = quality.table(runs)
    assert [row["name"] for row in rows] == ["lcrec+item_knn", "lcrec", "popularity", "item_knn"]
    assert rows[0]["metrics"]["ndcg@10"] == [0.05, 0.07]
    assert rows[0]["valid_ndcg@10"] is None
    assert rows[1]["valid_ndcg@10"] == pytest.approx([0.1, 0.12])
    assert rows[0]["parameters"] == 17
    assert rows[0]["fusion_weight"] == [0.5, 0.5]
    assert rows[1]["training_minutes"] == [1.0, 1.0]
    assert [len(row["metrics"]["ndcg@10"]) for row in rows] == [2, 2, 1, 1]
    line = next(line for line in quality.format_table(rows).splitlines() if line.startswith("| lcrec+item_knn |"))
    # every user has .01 more for seed 0 and .03 more for seed 2, so the mean's difference has no spread
    assert "| .0600 | .0500 .0700 |" in line
    assert "| +.0200 (+.0200 to +.0200) | .5 .5 | 0.0M | 1.0 |" in line
    assert rows[3]["less"] == {}
    quality.plot(rows, "ring", tmp_path / "table.png")
    assert (tmp_path / "table.png").stat().st_size > 1000


def test_a_seed_that_mixes_nothing_in_counts_with_the_models_own_lists(tmp_path: Path) -> None:
    runs = [fake_run(tmp_path / str(seed), seed) for seed in (0, 2)]
    del runs[1]["results"]["lcrec+item_knn"]
    row = quality.table({"lcrec": runs})[0]
    assert row["metrics"]["ndcg@10"] == [0.05, 0.07]
    assert quality.mean_per_user("lcrec+item_knn", runs)[0] == pytest.approx(0.02)


def test_runs_of_other_users_are_not_averaged(tmp_path: Path) -> None:
    runs = [fake_run(tmp_path / str(seed), seed) for seed in (0, 2)]
    table = pq.read_table(tmp_path / "2" / "per_user.parquet")
    pq.write_table(table.take(list(range(8, -1, -1))), tmp_path / "2" / "per_user.parquet")
    with pytest.raises(ValueError, match="other users"):
        quality.mean_per_user("lcrec", runs)


def test_a_folder_that_is_no_dataset_is_named(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="no prepared dataset"):
        quality.prepared(tmp_path)
