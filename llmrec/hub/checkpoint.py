"""Checkpoints that carry everything they need, on disk and on the Hub.

A checkpoint is a folder that plain ``transformers`` loads (``model.safetensors``, ``config.json``, the tokenizer), with
the catalog, ``prompts.json``, ``llmrec.json`` and more beside it. docs/evaluation.md lists the files.
"""

import json
import platform
import shutil
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import numpy as np
from huggingface_hub import HfApi, snapshot_download
from huggingface_hub.errors import (
    HFValidationError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from safetensors.numpy import load_file, save_file

from llmrec.atomic import write_json
from llmrec.catalog import Catalog
from llmrec.schema import DataError

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from llmrec.baselines import Fusion
    from llmrec.item_tokenizer.user_index import UserIndex
    from llmrec.models.setrec import ItemFeatures

INFO_FILE = "llmrec.json"
PROMPTS_FILE = "prompts.json"
ITEM_TOKENIZER_FOLDER = "item_tokenizer"
USER_INDEX_FOLDER = "user_index"
FUSION_FOLDER = "fusion"

#: In a folder of their own: vLLM takes every safetensors file beside a config for weights.
ITEM_EMBEDDINGS_FOLDER = "item_embeddings"
_EMBEDDINGS_FILE = "embeddings.safetensors"

#: What one checkpoint may lack where another has it: the next one in the same place must not inherit it.
_PARTS = (ITEM_TOKENIZER_FOLDER, USER_INDEX_FOLDER, FUSION_FOLDER, ITEM_EMBEDDINGS_FOLDER)
_WEIGHTS = "model*.safetensors*"

#: The method whose models are not transformers' own.
SETREC = "setrec"
#: The method that searches for queries.
LREM = "lrem"

#: How the folders are called that checkpoints are written into before their files take their places.
_WRITING = ".writing-"

#: Not sent to the Hub: states of the trainer, hidden files, and anything that only pickle can read.
_NOT_PUSHED = ["checkpoint-*/**", "cold_start/**", ".*", "**/.*", "*.bin", "*.pt", "*.pth", "*.pkl"]


@dataclass(frozen=True)
class Checkpoint:
    """A loaded checkpoint.

    Args:
        folder: where its files lie, Hub downloads included.
        tokenizer: with the item tokens.
        catalog: the one that the model was trained with.
        config: the resolved config of the run.
        prompts: the prompts in use.
        method: ``lcrec``, ...
    """

    folder: Path
    tokenizer: "PreTrainedTokenizerBase"
    catalog: Catalog
    config: dict[str, Any]
    prompts: dict[str, Any]
    method: str

    @cached_property
    def model(self) -> "PreTrainedModel":
        """The model, loaded when it is first asked for: on the CPU, in evaluation mode, in the precision it has."""
        options = {"dtype": "auto", "use_safetensors": True}
        if self.method != SETREC:
            return auto_model_class(self.folder).from_pretrained(self.folder, **options).eval()
        from llmrec.models.setrec import ItemFeatures, SetRecModel  # noqa: PLC0415 -- as in load_checkpoint

        model = SetRecModel.from_pretrained(self.folder, **options).eval()
        model.set_items(ItemFeatures.load(self.folder))
        return model

    @property
    def item_tokenizer_folder(self) -> Path | None:
        """What made the semantic IDs; None where they came from elsewhere, or the method has none."""
        folder = self.folder / ITEM_TOKENIZER_FOLDER
        return folder if folder.is_dir() else None

    @cached_property
    def users(self) -> "UserIndex | None":
        """Users and their indices, where the method has such and the model was trained with them."""
        from llmrec.item_tokenizer.user_index import UserIndex  # noqa: PLC0415 -- as in load_checkpoint

        folder = self.folder / USER_INDEX_FOLDER
        return UserIndex.load(folder) if folder.is_dir() else None

    @cached_property
    def fusion(self) -> "Fusion | None":
        """What the search mixes into the model's ranking; None for the model alone.

        Raises:
            DataError: if the run that trained the model was stopped before it decided, or it is another catalogue's.
        """
        from llmrec.baselines import Fusion  # noqa: PLC0415 -- as in load_checkpoint

        state = json.loads((self.folder / INFO_FILE).read_text()).get("fusion", "none")
        if state == "pending":
            raise DataError(
                f"{self.folder} was saved before its run had chosen a fusion weight: run the recipe again with the "
                "same options to finish it."
            )
        if state == "none":  # whatever an earlier run may have left beside it
            return None
        fusion = Fusion.load(self.folder / FUSION_FOLDER)
        num_linked = fusion.item_knn.links.shape[0]
        if num_linked != len(self.catalog):
            raise DataError(
                f"{self.folder / FUSION_FOLDER} links {num_linked} items, and the catalogue has {len(self.catalog)}: "
                "they are of different runs."
            )
        return fusion

    @cached_property
    def item_embeddings(self) -> np.ndarray:
        """LREM's embeddings of the catalogue, float32 of shape (num_items, hidden size), as they were saved.

        Raises:
            FileNotFoundError: if the method has none.
        """
        path = self.folder / ITEM_EMBEDDINGS_FOLDER / _EMBEDDINGS_FILE
        if not path.is_file():
            raise FileNotFoundError(f"There is no {path}: only LREM's checkpoints embed their items.")
        return load_file(path)["embeddings"]

    def check_prompts(self, prompts: Mapping[str, Any]) -> None:
        """Refuse prompts that are worded otherwise than those the model was trained with.

        Raises:
            ValueError: naming the option.
        """
        for name, value in prompts.items():
            if self.prompts.get(name) != value:
                raise ValueError(
                    f"{self.folder} was trained with {name} {self.prompts.get(name)!r}, and {value!r} is asked for: "
                    f"give {self.prompts.get(name)!r}, or train another model."
                )


def save_checkpoint(
    folder: str | Path,
    model: "PreTrainedModel",
    tokenizer: "PreTrainedTokenizerBase",
    catalog: Catalog,
    item_tokenizer_folder: str | Path | None,
    config: Mapping[str, Any],
    prompts: Mapping[str, Any],
    *,
    method: str,
    state_dict: "Mapping[str, Tensor] | None" = None,
    item_features: "ItemFeatures | None" = None,
    users: "UserIndex | None" = None,
    item_embeddings: np.ndarray | None = None,
    fusion_pending: bool = False,
) -> None:
    """Write a checkpoint into ``folder``; files of other names that are there stay.

    ``llmrec.json`` goes last and comes off first, so a folder that has one is complete.

    Args:
        folder: made if it is not there.
        model: the whole model on this process, adapters merged.
        tokenizer: with the item tokens.
        catalog: whose items the tokens stand for.
        item_tokenizer_folder: what ``ItemTokenizer.save`` wrote; None where semantic IDs are from elsewhere, or none.
        config: the resolved config of the run; JSON values only.
        prompts: the prompts in use; JSON values only.
        method: name of the method, as in metrics.json.
        state_dict: all weights, where ``model`` holds shards of them only.
        item_features: what SETRec makes its tokens of.
        users: ULMRec's users and their indices.
        item_embeddings: LREM's, float32 of shape (num_items, hidden size).
        fusion_pending: whether ``save_fusion`` is still to come: until then nobody may rank with the checkpoint.

    Raises:
        ValueError: if the model still has adapters beside it.
        FileNotFoundError: if there is no item tokenizer in ``item_tokenizer_folder``.
    """
    folder = Path(folder)
    if hasattr(model, "merge_and_unload"):
        raise ValueError("The model has adapters: pass model.merge_and_unload(), which loads without peft.")
    if item_tokenizer_folder is not None and not Path(item_tokenizer_folder).is_dir():
        raise FileNotFoundError(f"{item_tokenizer_folder} is not a folder: pass the one that ItemTokenizer.save wrote.")
    info = {
        "method": method,
        "catalog_fingerprint": catalog.fingerprint,
        "config": dict(config),
        "fusion": "pending" if fusion_pending else "none",
        "versions": {name: version(name) for name in ("llmrec", "torch", "transformers")}
        | {"python": platform.python_version()},
    }
    from llmrec.vocabulary import bind_catalog  # noqa: PLC0415 -- as below

    bind_catalog(model, catalog)
    folder.mkdir(parents=True, exist_ok=True)
    for left in folder.glob(f"{_WRITING}*"):
        shutil.rmtree(left)  # by a process that was killed
    with TemporaryDirectory(dir=folder, prefix=_WRITING) as name:
        temporary = Path(name)
        model.save_pretrained(temporary, state_dict=state_dict)
        for weights in temporary.glob("*.safetensors"):
            # safetensors lets the owner alone read them: whoever may read the config may read the weights
            weights.chmod((temporary / "config.json").stat().st_mode)
        tokenizer.save_pretrained(temporary)
        catalog.save(temporary)
        if item_tokenizer_folder is not None:
            shutil.copytree(item_tokenizer_folder, temporary / ITEM_TOKENIZER_FOLDER)
        if item_features is not None:
            item_features.save(temporary)
        if users is not None:
            users.save(temporary / USER_INDEX_FOLDER)
        if item_embeddings is not None:
            (temporary / ITEM_EMBEDDINGS_FOLDER).mkdir()
            save_file({"embeddings": item_embeddings}, temporary / ITEM_EMBEDDINGS_FOLDER / _EMBEDDINGS_FILE)
        write_json(temporary / PROMPTS_FILE, dict(prompts))
        (folder / INFO_FILE).unlink(missing_ok=True)
        _remove_earlier_weights(folder)
        for path in sorted(temporary.iterdir()):
            path.replace(folder / path.name)
    write_json(folder / INFO_FILE, info)


def save_fusion(folder: str | Path, fusion: "Fusion | None") -> None:
    """Add to a checkpoint what its search mixes into the model's ranking; None for the model alone."""
    path = Path(folder) / INFO_FILE
    info = json.loads(path.read_text())
    if fusion is not None:
        fusion.save(Path(folder) / FUSION_FOLDER)
    elif (Path(folder) / FUSION_FOLDER).is_dir():
        shutil.rmtree(Path(folder) / FUSION_FOLDER)
    write_json(path, {**info, "fusion": "none" if fusion is None else "item_knn"})


def resolve_checkpoint(name_or_path: str | Path, revision: str | None = None) -> Path:
    """The folder of a checkpoint: as it is, or downloaded from the Hub.

    Args:
        name_or_path: a folder, or a Hub name such as ``user/model``.
        revision: branch, tag or commit on the Hub.

    Raises:
        FileNotFoundError: if it is neither a folder nor a model on the Hub that can be reached.
    """
    path = Path(name_or_path)
    if path.is_dir():
        return path
    try:
        return Path(snapshot_download(str(name_or_path), revision=revision, ignore_patterns=_NOT_PUSHED))
    except RevisionNotFoundError:
        raise FileNotFoundError(f"The Hub's {name_or_path} has no revision {revision!r}.") from None
    except (HFValidationError, RepositoryNotFoundError, LocalEntryNotFoundError, OfflineModeIsEnabled) as error:
        raise FileNotFoundError(
            f"{str(name_or_path)!r} is neither a folder here nor a model on the Hub that can be reached "
            f"({type(error).__name__}). Check the spelling; for a private model run `hf auth login`."
        ) from error


def load_checkpoint(name_or_path: str | Path, revision: str | None = None) -> Checkpoint:
    """Load tokenizer and catalog, and check that they and the model belong together; weights come when asked for.

    Raises:
        FileNotFoundError: if there is no such checkpoint, or it is not one of llmrec's.
        DataError: if its catalog is not the one that the model was trained with.
    """
    from transformers import AutoConfig, AutoTokenizer  # noqa: PLC0415 -- torch: seconds that pushing a dataset saves

    from llmrec.vocabulary import check_catalog  # noqa: PLC0415 -- as above

    folder = resolve_checkpoint(name_or_path, revision)
    if not (folder / INFO_FILE).is_file():
        raise FileNotFoundError(
            f"{folder} holds no {INFO_FILE}: it is not a checkpoint of llmrec, or writing it was interrupted. "
            "Name the output folder of a recipe that has finished."
        )
    info = json.loads((folder / INFO_FILE).read_text())
    if info["method"] == SETREC:
        import llmrec.models.setrec  # noqa: F401, PLC0415 -- makes its config known; torch, as above
    catalog = Catalog.load(folder)
    catalog.check_fingerprint(info["catalog_fingerprint"], str(folder / INFO_FILE))
    check_catalog(AutoConfig.from_pretrained(folder), catalog)
    return Checkpoint(
        folder=folder,
        tokenizer=AutoTokenizer.from_pretrained(folder),
        catalog=catalog,
        config=info["config"],
        prompts=json.loads((folder / PROMPTS_FILE).read_text()),
        method=info["method"],
    )


def push_to_hub(folder: str | Path, repo_id: str, private: bool = False, repo_type: str = "model") -> str:
    """Send a folder to the Hub as one commit and return the repository's address.

    Trainer states (``checkpoint-*``), hidden files and pickled files stay here. Of an earlier checkpoint on the Hub,
    weights and parts that this one lacks are deleted; files under other names stay there.

    Args:
        folder: a checkpoint, or a dataset folder.
        repo_id: ``user/name``; made if it is not there.
        private: whether a repository that is made now is private.
        repo_type: ``model`` or ``dataset``.

    Raises:
        FileNotFoundError: if ``folder`` is not a folder.
    """
    if not Path(folder).is_dir():
        raise FileNotFoundError(f"{folder} is not a folder: nothing to push.")
    api = HfApi(library_name="llmrec", library_version=version("llmrec"))
    url = api.create_repo(repo_id, private=private, repo_type=repo_type, exist_ok=True)
    with warnings.catch_warnings():
        # catalog.parquet belongs to the model: no need to ask whether this should have been a dataset
        warnings.filterwarnings("ignore", message="It seems that you are about to commit a data file")
        api.upload_folder(
            repo_id=url.repo_id,
            folder_path=folder,
            repo_type=repo_type,
            commit_message=f"Upload {repo_type} with llmrec",
            ignore_patterns=_NOT_PUSHED,
            delete_patterns=[_WEIGHTS, *(f"{part}/*" for part in _PARTS)] if repo_type == "model" else None,
        )
    return str(url)


def _remove_earlier_weights(folder: Path) -> None:
    """A model in several files may take the place of one in a single file, and the other way round."""
    for path in folder.glob(_WEIGHTS):
        path.unlink()
    for name in _PARTS:
        shutil.rmtree(folder / name, ignore_errors=True)


def auto_model_class(folder: Path) -> Any:
    """``AutoModelForCausalLM``, or ``AutoModelForSeq2SeqLM`` where the model in ``folder`` is an encoder-decoder."""
    from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSeq2SeqLM  # noqa: PLC0415 -- as above

    encoder_decoder = AutoConfig.from_pretrained(folder).is_encoder_decoder
    return AutoModelForSeq2SeqLM if encoder_decoder else AutoModelForCausalLM
