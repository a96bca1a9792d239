"""The table of changes to the recommended configuration."""

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from benchmarks import ablation
from tests.tiny import make_catalog


def fake_run(folder: Path, less: float) -> dict:
    """What a finished run of lcrec leaves behind, as far as the table reads it; ``less`` is taken from its ndcg@10."""
    (folder / "checkpoint-4").mkdir(parents=True)
    log = [{"eval_ndcg@10": 0.2 - less, "eval_loss": 3.0}, {"eval_ndcg@10": 0.1, "eval_loss": 2.0}, {"loss": 1.0}]
    (folder / "checkpoint-4" / "trainer_state.json").write_text(json.dumps({"log_history": log}))
    make_catalog(12, (4, 4)).save(folder)
    users = np.arange(9) / 100
    columns = {"lcrec": users + 0.2 - less, "lcrec+item_knn": users + 0.3}
    pq.write_table(pa.table({"user_id": [f"u{n}" for n in range(9)], **columns}), folder / "per_user.parquet")
    return {
        "results": {"lcrec": {"ndcg@10": 0.24 - less}, "lcrec+item_knn": {"ndcg@10": 0.34}},
        "protocol": {"valid_ndcg@10_by_weight": {"0.0": 0.2 - less, "0.5": 0.25}},
        "seconds": {"training": 120.0},
        "folder": folder,
    }


def test_a_change_is_compared_with_the_recommended_runs_user_by_user(tmp_path: Path) -> None:
    reference: dict[str, np.ndarray] = {}
    recommended = [fake_run(tmp_path / f"r{seed}", 0.0) for seed in range(2)]
    changed = [fake_run(tmp_path / f"c{seed}", 0.04 + 0.02 * seed) for seed in range(2)]
    rows = [ablation.row(ablation.RECOMMENDED, recommended, reference), ablation.row("AdamW", changed, reference)]
    assert rows[0]["less_test"]["difference"] == 0.0
    assert rows[1]["valid"] == pytest.approx([0.16, 0.14])
    # both codes of an item, at the pass that ndcg@10 chose and not at the lowest loss
    assert rows[1]["valid_nats"] == [6.0, 6.0]
    assert rows[1]["valid_fused"] == [0.25, 0.25]
    # every user lost .04 with one seed and .06 with the other
    less = rows[1]["less_test"]
    assert [less["difference"], less["low"], less["high"]] == pytest.approx([-0.05, -0.05, -0.05])
    assert rows[1]["less_test_fused"]["difference"] == pytest.approx(0.0)
    assert "test -0.0500 (-0.0500 to -0.0500)" in ablation.format_row(rows[1])
    ablation.plot(rows, "ring", tmp_path / "ablation.png")
    assert (tmp_path / "ablation.png").stat().st_size > 1000
