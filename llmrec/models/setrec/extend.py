"""New items for a trained model: their tokens come from their text, the CF part from their warm neighbours."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import torch

from llmrec.catalog import Catalog
from llmrec.item_tokenizer.embeddings import BUNDLED_MODEL, Encoder, embed_items
from llmrec.models.setrec.item_features import ItemFeatures, cf_from_neighbours
from llmrec.schema import ITEMS


def extend_items(
    folder: str | Path,
    new_items: pa.Table,
    output: str | Path,
    text_encoder: str = BUNDLED_MODEL,
    text_encoder_type: Encoder = "sentence_transformer",
) -> Catalog:
    """Write the catalogue of a checkpoint with more items, and their features, for a server to reload.

    Args:
        folder: of the checkpoint, or of a catalogue made by this function before.
        new_items: table with the columns of ``schema.ITEMS``; ids that the catalogue lacks.
        output: folder for catalogue and features.
        text_encoder: as in training: ``checkpoint.config["text_encoder"]``.
        text_encoder_type: likewise.

    Returns:
        The catalogue written.

    Raises:
        DataError: if an item is there already.
    """
    catalog, features = Catalog.load(folder), ItemFeatures.load(folder)
    items = pa.concat_tables([catalog.items, new_items.select(ITEMS.names).cast(ITEMS)])
    extended = Catalog(items, np.empty((items.num_rows, 0)), ())
    text = torch.from_numpy(embed_items(new_items, model=text_encoder, encoder=text_encoder_type))
    grown = ItemFeatures(
        torch.cat([features.cf, features.cf.new_zeros(len(text), features.cf.shape[1])]),
        torch.cat([features.text, text]),
        torch.cat([features.warm, torch.zeros(len(text), dtype=torch.bool)]),
    )
    # those that were cold before keep what they had: the model may have been trained with it
    new_cf = cf_from_neighbours(grown)[len(features) :]
    extended.save(output)
    replace(grown, cf=torch.cat([features.cf, new_cf])).save(output)
    return extended
