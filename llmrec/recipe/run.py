"""What a run is: the options that decide its result, its start or resumption, and where its checkpoint goes."""

import json
import logging
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from accelerate import PartialState
from transformers import TrainingArguments
from trl import ModelConfig

from llmrec.hub import push_to_hub
from llmrec.training.faults import explain_failures
from llmrec.training.run_folder import RunFolder, open_run

#: Options, or beginnings of their names, that can change from one call of a run to the next.
_CHANGE_NO_RESULT = (
    *("output_dir", "run_name", "report_to", "disable_tqdm", "push_to_hub", "resume_from_checkpoint"),
    *("save_total_limit", "save_only_model", "ddp_timeout"),
    *("hub_", "logging_", "log_", "dataloader_"),
)


def set_up_logging() -> None:
    """Our messages, from the main process alone unless they are warnings."""
    logging.basicConfig(format="%(asctime)s %(name)s: %(message)s", datefmt="%H:%M:%S")
    logging.getLogger("llmrec").setLevel(logging.INFO if PartialState().is_main_process else logging.WARNING)


def start_run(
    args: Any,
    config: TrainingArguments,
    model_args: ModelConfig,
    work: Callable[[RunFolder], None],
    data_folder: str,
) -> None:
    """Do the ``work`` of the run that the options describe, or print the report of one that is finished.

    Args:
        args: the recipe's own dataclass.
        config: of the training.
        model_args: TRL's.
        work: every stage, from data to report; goes on from the run's last checkpoint.
        data_folder: where the run writes too.
    """
    with PartialState().main_process_first():
        run = open_run(config.output_dir, run_options(args, config, model_args), config.resume_from_checkpoint)
    if run.finished:
        if PartialState().is_main_process:
            print(run.report)
            push_checkpoint(run.folder, config, config.push_to_hub)
        return
    with explain_failures(run.folder, Path(data_folder)):
        work(run)


def run_options(args: Any, config: TrainingArguments, model_args: ModelConfig) -> dict[str, Any]:
    """Everything that can change the result, as JSON values; ``args`` is the recipe's own dataclass."""
    training = {name: value for name, value in config.to_dict().items() if not name.startswith(_CHANGE_NO_RESULT)}
    return json.loads(json.dumps({**asdict(args), **asdict(model_args), **training}, default=str))


def push_checkpoint(folder: Path, config: TrainingArguments, push: bool) -> None:
    """Send the checkpoint to the Hub if ``push`` (--push_to_hub) says so."""
    if push:
        push_to_hub(folder, config.hub_model_id or folder.name, private=bool(config.hub_private_repo))
