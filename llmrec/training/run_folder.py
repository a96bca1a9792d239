"""The output folder of a run: start it, resume it, or see that it is finished."""

import json
import logging
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformers.trainer import TRAINER_STATE_NAME

from llmrec.atomic import atomic_path, write_json

logger = logging.getLogger(__name__)

RUN_FILE = "run.json"
REPORT_FILE = "report.txt"
INPUTS_FILE = "inputs.json"


@dataclass(frozen=True)
class RunFolder:
    """One run's output folder.

    Attributes:
        folder: holds the final checkpoint, metrics.json and the report once the run is finished.
        last_checkpoint: where an interrupted training goes on, or None.
    """

    folder: Path
    last_checkpoint: str | None

    @property
    def finished(self) -> bool:
        """Whether an earlier call ended with a result."""
        return (self.folder / REPORT_FILE).is_file()

    @property
    def report(self) -> str:
        """What a finished run reported."""
        return (self.folder / REPORT_FILE).read_text()

    def check_inputs(self, fingerprints: dict[str, str]) -> None:
        """Note what the run is trained on, or see that it is the same as when it started.

        Raises:
            ValueError: if data or catalog have changed since.
        """
        noted = self.folder / INPUTS_FILE
        if not noted.is_file():
            write_json(noted, fingerprints)
        elif json.loads(noted.read_text()) != fingerprints:
            raise ValueError(
                f"{self.folder} was started with {noted.read_text().strip()}, and the data now is {fingerprints}. "
                "Restore the data, or name another --output_dir."
            )

    def finish(self, report: str) -> None:
        """Write the report, the last file of a run."""
        with atomic_path(self.folder / REPORT_FILE) as temporary:
            temporary.write_text(report + "\n")


def open_run(folder: str | Path, config: dict[str, Any]) -> RunFolder:
    """Start or continue the run that ``config`` describes.

    Args:
        folder: the output folder; made if missing.
        config: everything that changes the result, as JSON values.

    Raises:
        ValueError: if the folder holds a run with another configuration; going on would mix the two.
    """
    folder = Path(folder)
    run_file = folder / RUN_FILE
    config = json.loads(json.dumps(config))
    if run_file.is_file():
        earlier = json.loads(run_file.read_text())
        changed = sorted(name for name in {*earlier, *config} if earlier.get(name) != config.get(name))
        if changed:
            values = "; ".join(f"{name}: {earlier.get(name)!r} -> {config.get(name)!r}" for name in changed[:5])
            raise ValueError(
                f"{folder} holds a run with other options ({values}). Repeat that run's command to resume it, name "
                f"another --output_dir, or delete {folder} to start over."
            )
    else:
        folder.mkdir(parents=True, exist_ok=True)
        write_json(run_file, config)
    return RunFolder(folder, _last_complete_checkpoint(folder))


def _last_complete_checkpoint(folder: Path) -> str | None:
    """The latest checkpoint whose writing was finished; a half-written one after it is removed.

    The trainer writes a checkpoint in place and its state last, so a state that can be read says that all is there.
    """
    numbered = [(int(path.name.split("-")[1]), path) for path in folder.glob("checkpoint-*")]
    for _, path in sorted(numbered, reverse=True):
        try:
            json.loads((path / TRAINER_STATE_NAME).read_text())
        except (FileNotFoundError, json.JSONDecodeError):
            logger.warning("%s was interrupted while it was written: removed.", path)
            shutil.rmtree(path)
        else:
            return str(path)
    return None
