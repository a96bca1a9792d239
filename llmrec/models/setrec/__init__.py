"""SETRec: items as unordered sets of continuous tokens, generated in one forward pass (arXiv 2502.10833)."""

from transformers import AutoConfig, AutoModel

from llmrec.models.setrec.config import SetRecConfig
from llmrec.models.setrec.item_features import ItemFeatures
from llmrec.models.setrec.model import SetRecModel

# transformers' own way to make a kind of model known: its tokenizers and Auto classes then read such folders too
AutoConfig.register(SetRecConfig.model_type, SetRecConfig)
AutoModel.register(SetRecConfig, SetRecModel)

__all__ = ["ItemFeatures", "SetRecConfig", "SetRecModel"]
