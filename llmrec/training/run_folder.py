"""The output folder of a run: start it, resume it, or see that it is finished."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerBase

from llmrec.atomic import atomic_path, write_json
from llmrec.training.checkpoints import checkpoint_inputs, complete_checkpoints, is_complete, remove_incomplete

RUN_FILE = "run.json"
REPORT_FILE = "report.txt"
INPUTS_FILE = "inputs.json"

#: ``--resume_from_checkpoint``: go on from the run's own last complete checkpoint, or start if there is none.
RESUME_AUTO = "auto"

#: Of each weight file, as many samples of so many bytes decide its fingerprint.
_SAMPLES, _SAMPLE_BYTES = 64, 65_536


@dataclass(frozen=True)
class RunFolder:
    """One run's output folder.

    Attributes:
        folder: holds the final checkpoint, metrics.json and the report once the run is finished.
        last_checkpoint: where training goes on, or None.
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

    def check_inputs(self, fingerprints: Mapping[str, str]) -> None:
        """Note what the run is trained on, or see that it is the same as when it, or its checkpoint, was made.

        Args:
            fingerprints: of the split, the catalog, the vocabulary ...

        Raises:
            ValueError: if one of them has changed since.
        """
        noted = self.folder / INPUTS_FILE
        if self.last_checkpoint is not None:
            _check_same(self.last_checkpoint, checkpoint_inputs(Path(self.last_checkpoint)), fingerprints)
        if noted.is_file():
            _check_same(str(self.folder), json.loads(noted.read_text()), fingerprints)
        else:
            write_json(noted, dict(fingerprints))

    def finish(self, report: str) -> None:
        """Write the report, the last file of a run."""
        with atomic_path(self.folder / REPORT_FILE) as temporary:
            temporary.write_text(report + "\n")


def open_run(folder: str | Path, config: dict[str, Any], resume_from_checkpoint: str | None = RESUME_AUTO) -> RunFolder:
    """Start or continue the run that ``config`` describes.

    Args:
        folder: the output folder; made if missing.
        config: everything that changes the result, as JSON values.
        resume_from_checkpoint: ``auto`` (also None) for the run's last complete checkpoint if it has one, or the path
            of a complete checkpoint, of this run or another.

    Raises:
        ValueError: if the folder holds a run with another configuration, since going on would mix the two, or if
            ``resume_from_checkpoint`` is no complete checkpoint.
    """
    folder = Path(folder)
    if resume_from_checkpoint not in (None, RESUME_AUTO):
        _check_checkpoint(Path(str(resume_from_checkpoint)), folder)
    _check_options(folder, json.loads(json.dumps(config)))
    remove_incomplete(folder)
    if resume_from_checkpoint in (None, RESUME_AUTO):
        complete = complete_checkpoints(folder)
        return RunFolder(folder, str(complete[-1]) if complete else None)
    return RunFolder(folder, resume_from_checkpoint)


def vocabulary_fingerprint(tokenizer: PreTrainedTokenizerBase) -> str:
    """Hash of which token has which id."""
    vocabulary = json.dumps(tokenizer.get_vocab(), sort_keys=True)
    return hashlib.sha256(vocabulary.encode()).hexdigest()[:16]


def weights_fingerprint(model_name_or_path: str | None) -> str:
    """Hash of samples of a local folder's weights, quick for any size; the name itself for the Hub's or no model."""
    folder = Path(model_name_or_path or "")
    files = sorted(folder.glob("*.safetensors")) if model_name_or_path and folder.is_dir() else []
    if not files:
        return str(model_name_or_path)
    digest = hashlib.sha256()
    for path in files:
        size = path.stat().st_size
        digest.update(f"{path.name} {size}".encode())
        with path.open("rb") as file:
            for part in range(_SAMPLES):
                file.seek(size * part // _SAMPLES)
                digest.update(file.read(_SAMPLE_BYTES))
    return digest.hexdigest()[:16]


def _check_options(folder: Path, config: dict[str, Any]) -> None:
    run_file = folder / RUN_FILE
    if run_file.is_file():
        earlier = json.loads(run_file.read_text())
        changed = sorted(name for name in {*earlier, *config} if earlier.get(name) != config.get(name))
        if changed:
            values = "; ".join(f"{name}: {earlier.get(name)!r} -> {config.get(name)!r}" for name in changed[:5])
            raise ValueError(
                f"{folder} holds a run with other options ({values}). Repeat that run's command to resume it, name "
                f"another --output_dir, or delete {folder} to start over."
            )
        return
    if any(folder.glob("checkpoint-*")):
        raise ValueError(f"{folder} holds checkpoints of something else ({RUN_FILE} is missing): name another folder.")
    folder.mkdir(parents=True, exist_ok=True)
    write_json(run_file, config)


def _check_checkpoint(checkpoint: Path, run_folder: Path) -> None:
    if is_complete(checkpoint):
        return
    folders = dict.fromkeys((run_folder, checkpoint.parent))
    complete = [str(path) for folder in folders for path in complete_checkpoints(folder)]
    raise ValueError(
        f"--resume_from_checkpoint {checkpoint} {'is incomplete' if checkpoint.is_dir() else 'is not a folder'}. Give "
        f"{RESUME_AUTO}, or a complete checkpoint: {', '.join(complete) or f'there is none in {run_folder}'}."
    )


def _check_same(where: str, earlier: Mapping[str, str], now: Mapping[str, str]) -> None:
    changed = [name for name in {**earlier, **now} if earlier.get(name) != now.get(name)]
    if changed:
        values = "; ".join(f"{name}: {earlier.get(name)} -> {now.get(name)}" for name in changed)
        raise ValueError(
            f"{where} was trained on something else (fingerprints of {values}). Restore what has changed, or start "
            "anew under another --output_dir."
        )
