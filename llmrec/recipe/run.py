"""What a run is: the options that decide its result, and where its checkpoint goes in the end."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from transformers import TrainingArguments
from trl import ModelConfig

from llmrec.hub import push_to_hub

#: Options, or beginnings of their names, that can change from one call of a run to the next.
_CHANGE_NO_RESULT = (
    *("output_dir", "run_name", "report_to", "disable_tqdm", "push_to_hub", "resume_from_checkpoint"),
    *("save_total_limit", "save_only_model", "ddp_timeout"),
    *("hub_", "logging_", "log_", "dataloader_"),
)


def run_options(args: Any, config: TrainingArguments, model_args: ModelConfig) -> dict[str, Any]:
    """Everything that can change the result, as JSON values; ``args`` is the recipe's own dataclass."""
    training = {name: value for name, value in config.to_dict().items() if not name.startswith(_CHANGE_NO_RESULT)}
    return json.loads(json.dumps({**asdict(args), **asdict(model_args), **training}, default=str))


def push_checkpoint(folder: Path, config: TrainingArguments, push: bool) -> None:
    """Send the checkpoint to the Hub if ``push`` (--push_to_hub) says so."""
    if push:
        push_to_hub(folder, config.hub_model_id or folder.name, private=bool(config.hub_private_repo))
