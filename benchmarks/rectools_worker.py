"""Runs under an interpreter that has RecTools and nothing of ours: a folder of CSV in, ranked lists out.

``train.csv`` and ``histories.csv`` hold user, item and place; ``ranked.csv`` gets user, item and rank.
"""

import json
import sys
import time
from pathlib import Path

import pandas as pd
from pytorch_lightning import seed_everything
from rectools import Columns
from rectools.dataset import Dataset
from rectools.models import SASRecModel


def main(folder: Path) -> None:
    options = json.loads((folder / "options.json").read_text())
    seed_everything(options["seed"], workers=True)
    negatives = options["num_negatives"]
    loss = {"loss": "softmax"} if negatives is None else {"loss": "sampled_softmax", "n_negatives": negatives}
    model = SASRecModel(
        **loss,
        n_factors=64,
        n_blocks=2,
        n_heads=1,
        session_max_len=options["session_max_len"],
        epochs=options["num_epochs"],
        deterministic=True,
        recommend_torch_device="cpu",
    )
    start = time.perf_counter()
    model.fit(read(folder / "train.csv"))
    seconds = time.perf_counter() - start
    histories = read(folder / "histories.csv")
    users = histories.user_id_map.external_ids
    ranked = model.recommend(users, histories, options["k"], filter_viewed=True, on_unsupported_targets="warn")
    ranked[[Columns.User, Columns.Item, Columns.Rank]].to_csv(folder / "ranked.csv", index=False)
    (folder / "measured.json").write_text(json.dumps({"training_seconds": seconds}))


def read(path: Path) -> Dataset:
    """Interactions, one second apart in the order of their places."""
    table = pd.read_csv(path)
    columns = {Columns.User: table["user"], Columns.Item: table["item"], Columns.Weight: 1.0}
    columns[Columns.Datetime] = pd.to_datetime(table["place"], unit="s")
    return Dataset.construct(pd.DataFrame(columns))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
