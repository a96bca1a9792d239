"""Runs of recipes in processes of their own, for benchmarks that compare what they leave behind."""

import json
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]


def run_recipe(recipe: str, folder: Path, seed: int, options: Sequence[str]) -> dict[str, Any]:
    """The content of metrics.json; a run that is finished is read, not repeated.

    Args:
        recipe: script in recipes/, without its ending.
        folder: of the run.
        seed: of everything drawn.
        options: of the recipe.
    """
    command = [sys.executable, str(ROOT / "recipes" / f"{recipe}.py"), "--output_dir", str(folder)]
    command += ["--seed", str(seed), "--disable_tqdm", "True", *options]
    print(" ".join(["recipes/" + Path(command[1]).name, *command[2:]]), flush=True)
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return json.loads((folder / "metrics.json").read_text())


def run_folder(runs_dir: str | Path, name: str, seed: int) -> Path:
    """Where the run of a table's row lies."""
    return Path(runs_dir) / f"{re.sub('[^a-z0-9]+', '_', name.lower())}_seed{seed}"


def best_validation(folder: Path) -> float:
    """The best ndcg@10 of a run's validations."""
    return float(best_step(folder)["eval_ndcg@10"])


def best_step(folder: Path) -> dict[str, float]:
    """What a run logged at the validation with the best ndcg@10, such as ``eval_loss``."""
    states = sorted(folder.glob("checkpoint-*/trainer_state.json"), key=lambda path: int(path.parent.name[11:]))
    log = json.loads(states[-1].read_text())["log_history"]
    return max((entry for entry in log if "eval_ndcg@10" in entry), key=lambda entry: entry["eval_ndcg@10"])
