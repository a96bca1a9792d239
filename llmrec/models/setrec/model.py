"""SETRec: a set of tokens for each item, queries that yield such a set, and the catalogue scored with it."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import AutoModel, PreTrainedModel

from llmrec.models.setrec.attention import check_backend
from llmrec.models.setrec.auto_encoder import ItemAutoEncoder
from llmrec.models.setrec.backbone import query_states
from llmrec.models.setrec.catalog_loss import catalog_cross_entropy
from llmrec.models.setrec.config import SetRecConfig
from llmrec.models.setrec.item_features import ItemFeatures
from llmrec.models.setrec.layout import set_layout

#: Fills a row of histories or branches that is shorter than the longest.
PADDING = -1
#: A target that there is none of, as transformers counts them.
IGNORED_TARGET = -100


class SetRecOutput(NamedTuple):
    """What ``SetRecModel.forward`` returns; a tuple, so that trainers find the loss in front."""

    loss: Tensor


class SetRecModel(PreTrainedModel):
    """Order-agnostic identifiers for generative recommendation (arXiv 2502.10833).

    An item is a CF token, projected from a sequential recommender's embedding, and N semantic tokens, encoded from its
    text's embedding. Both embeddings are frozen and belong to a catalogue, not to the weights: ``set_items`` gives
    them, and others later, for new items.

    Args:
        config: with the backbone's.
        backbone: built from the config where none is given.
    """

    config_class = SetRecConfig
    base_model_prefix = "backbone"
    main_input_name = "history"
    supports_gradient_checkpointing = True
    accepts_loss_kwargs = True
    _supports_sdpa = True
    _supports_flex_attn = True
    _supports_flash_attn = False

    def __init__(self, config: SetRecConfig, backbone: PreTrainedModel | None = None) -> None:
        super().__init__(config)
        self.backbone = AutoModel.from_config(config.text_config) if backbone is None else backbone
        check_backend(self.backbone.config._attn_implementation)
        self.cf_projection = nn.Linear(config.cf_dim, config.hidden_size)
        self.auto_encoder: ItemAutoEncoder | None = None
        if config.num_semantic_tokens:
            self.auto_encoder = ItemAutoEncoder(
                config.text_dim, config.encoder_sizes, config.num_semantic_tokens, config.hidden_size
            )
        self.queries = nn.Embedding(config.num_tokens, config.hidden_size)
        self._items: ItemFeatures | None = None
        self.post_init()

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        """The released code's: queries normal with a deviation of .02, linear layers after Xavier."""
        if isinstance(module, nn.Embedding):
            nn.init.normal_(module.weight, std=0.02)
        elif isinstance(module, nn.Linear):
            nn.init.xavier_normal_(module.weight)
            nn.init.zeros_(module.bias)

    def get_input_embeddings(self) -> nn.Module:
        return self.backbone.get_input_embeddings()

    def set_items(self, items: ItemFeatures) -> None:
        """Say which catalogue is read and scored from now on.

        Raises:
            ValueError: if the embeddings are of other widths than the model's.
        """
        self.check_features(items)
        self._items = items

    def check_features(self, items: ItemFeatures) -> None:
        """Refuse embeddings that the model was not made for.

        Raises:
            ValueError: if they are of other widths.
        """
        widths = items.cf.shape[1], items.text.shape[1]
        if widths != (self.config.cf_dim, self.config.text_dim):
            raise ValueError(
                f"The items' embeddings have widths {widths}, and the model reads "
                f"{(self.config.cf_dim, self.config.text_dim)} (collaborative, text): embed them as for training."
            )

    @property
    def items(self) -> ItemFeatures:
        """Embeddings of the catalogue's items, where the weights are."""
        if self._items is None:
            raise ValueError("The model knows no items yet: call set_items, or load it from a checkpoint.")
        self._items = self._items.to(self.queries.weight.device)
        return self._items

    def item_tokens(self, items: Tensor) -> Tensor:
        """Tokens of items: indices of any shape to (..., 1 + N, hidden_size), the CF token first."""
        return self.tokenize(self.items.cf[items], self.items.text[items])

    def tokenize(self, cf: Tensor, text: Tensor) -> Tensor:
        """Tokens of items by their embeddings: (..., cf_dim) and (..., text_dim) to (..., 1 + N, hidden_size)."""
        dtype = self.cf_projection.weight.dtype
        token = self.cf_projection(cf.to(dtype)).unsqueeze(-2)
        if self.auto_encoder is None:
            return token
        return torch.cat([token, self.auto_encoder.encode(text.to(dtype))], dim=-2)

    def query(
        self,
        history: Tensor,
        items_before: Tensor | None = None,
        tokens_of: Callable[[Tensor], Tensor] | None = None,
    ) -> Tensor:
        """Hidden states at the queries: what the tokens of the next item should be.

        Args:
            history: item indices, oldest first, int64 of shape (batch, max_history), padded at the end with -1.
            items_before: for each branch, how many items of the history it comes after, int64 of shape (batch,
                num_branches), -1 for a branch that there is none of; None asks once, after the whole history.
            tokens_of: item indices (n,) to tokens (n, 1 + N, hidden_size), of another catalogue than ``items``.

        Returns:
            Shape (batch, num_branches, 1 + N, hidden_size).
        """
        config = self.config
        lengths = (history != PADDING).sum(dim=1)
        items_before = lengths[:, None] if items_before is None else items_before
        layout = set_layout(
            lengths,
            history.shape[1],
            items_before,
            config.num_tokens,
            instruction_length=len(config.instruction_token_ids),
            response_length=len(config.response_token_ids),
            rule=config.attention_rule,
        )
        embeddings = self._embeddings(history, items_before.shape[1], tokens_of or self.item_tokens)
        states = query_states(self.backbone, embeddings, layout)
        return states.unflatten(1, (items_before.shape[1], config.num_tokens))

    def _embeddings(self, history: Tensor, num_branches: int, tokens_of: Callable[[Tensor], Tensor]) -> Tensor:
        """Of all tokens, in the order of the layout."""
        batch = len(history)
        # padding reads some item: nothing attends to it
        rows, places = history.clamp(min=0).unique(return_inverse=True)
        items = tokens_of(rows)[places].flatten(1, 2)
        instruction = self._words(self.config.instruction_token_ids).expand(batch, -1, -1)
        response = self._words(self.config.response_token_ids).repeat(num_branches, 1).expand(batch, -1, -1)
        # called, not read: ZeRO-3 gathers a module's weights when it is called
        queries = self.queries(torch.arange(self.config.num_tokens, device=items.device))
        queries = queries.repeat(num_branches, 1).expand(batch, -1, -1)
        return torch.cat([instruction.to(items.dtype), items, response.to(items.dtype), queries.to(items.dtype)], dim=1)

    def _words(self, token_ids: Sequence[int]) -> Tensor:
        ids = torch.tensor(token_ids, dtype=torch.int64, device=self.queries.weight.device)
        return self.get_input_embeddings()(ids)

    def forward(
        self,
        history: Tensor,
        items_before: Tensor,
        labels: Tensor,
        num_items_in_batch: Tensor | int | None = None,
        **kwargs: Any,  # noqa: ARG002 -- what trainers pass to every model
    ) -> SetRecOutput:
        """The training loss: cross-entropy over the catalogue plus alpha times the auto-encoder's (equation 8).

        Args:
            history: as for ``query``.
            items_before: as for ``query``.
            labels: item index that each branch asks for, int64 of shape (batch, num_branches), -100 for none.
            num_items_in_batch: targets of the whole optimizer step, where this is a part of it.
        """
        targets = labels != IGNORED_TARGET
        states = self.query(history, items_before)[targets]
        total = catalog_cross_entropy(states, labels[targets], self.item_tokens, len(self.items))
        count = targets.sum().clamp(min=1)
        whole = count if num_items_in_batch is None else torch.as_tensor(num_items_in_batch, device=count.device)
        loss = total / (whole * self.config.num_tokens)
        if self.auto_encoder is not None:
            share = count / whole
            loss = loss + self.config.reconstruction_weight * share * self._reconstruction_loss(history)
        return SetRecOutput(loss)

    def _reconstruction_loss(self, history: Tensor) -> Tensor:
        """Mean squared error over the items of the histories, each as often as it is there."""
        assert self.auto_encoder is not None
        rows, counts = history[history != PADDING].unique(return_counts=True)
        texts = self.items.text[rows].to(self.cf_projection.weight.dtype)
        errors = functional.mse_loss(
            self.auto_encoder.decode(self.auto_encoder.encode(texts)), texts, reduction="none"
        ).mean(dim=1)
        return (errors * counts).sum() / counts.sum().clamp(min=1)
