"""Give every item of a dataset folder a unique semantic ID.

Embeds the items, fits an item tokenizer, and writes tokenizer, catalog and quality report. A second run with the same
dataset and options does nothing. docs/item_tokenizer.md explains the options and how to read the report.

  python data_prep/semantic_ids.py --dataset_dir data/ml-100k
  python data_prep/semantic_ids.py --dataset_dir data/ml-100k --combine collaborative --num_codebooks 3 \\
      --codebook_size 32 --output_dir outputs/semantic_ids_collaborative
  python data_prep/semantic_ids.py --dataset_dir data/beauty --encoder causal_lm --model Qwen/Qwen3-0.6B \\
      --combine text --quantizer rqvae
"""

import argparse
import logging
import sys
from dataclasses import fields
from pathlib import Path
from typing import Any

from llmrec.dataset import RecDataset
from llmrec.item_tokenizer import EmbeddingConfig, ItemTokenizerConfig, build_catalog, catalog_folder
from llmrec.schema import DataError


class _Formatter(argparse.ArgumentDefaultsHelpFormatter, argparse.RawDescriptionHelpFormatter):
    """The docstring as it stands, and each option's default."""


def build_parser() -> argparse.ArgumentParser:
    usage = "%(prog)s --dataset_dir FOLDER [--output_dir FOLDER] [options]"
    parser = argparse.ArgumentParser(usage=usage, description=__doc__, formatter_class=_Formatter)
    parser.add_argument("--dataset_dir", type=Path, required=True, help="folder written by another data_prep script")
    parser.add_argument(
        "--output_dir", type=Path, help="None: a folder for these options in the dataset's semantic_ids"
    )
    _add_embedding_options(parser.add_argument_group("what is quantized"))
    _add_tokenizer_options(parser.add_argument_group("how it is quantized"))
    _add_rqvae_options(parser.add_argument_group("training of the RQ-VAE (LC-Rec's values)"))
    return parser


def _add_embedding_options(group: argparse._ArgumentGroup) -> None:
    default = EmbeddingConfig()
    combine, encoders = ("text", "collaborative", "concat", "average"), ("sentence_transformer", "causal_lm")
    _add(group, default, "combine", "text, who-was-near-whom in training histories, or both", choices=combine)
    _add(group, default, "collaborative_weight", "share of the collaborative part in both, 0 to 1")
    shrinkage = "training interactions at which an item has half that share; 0: all have the whole"
    _add(group, default, "collaborative_shrinkage", shrinkage)
    _add(group, default, "collaborative_dim", "width of the collaborative embeddings")
    _add(group, default, "collaborative_window", "largest distance of two items in a history that count as near")
    _add(group, default, "model", "text model: bundled (all-MiniLM-L6-v2), a folder, or a Hub name")
    _add(group, default, "encoder", "causal_lm: mean of title and description, as LC-Rec", choices=encoders)
    _add(group, default, "revision", "of a model on the Hub")
    _add(group, default, "max_length", "tokens of one text at most; None: the model's limit", type=int)
    _add(group, default, "embedding_batch_size", "texts in one forward pass")
    _add(group, default, "cache_dir", "of text embeddings; None: embeddings in the dataset folder")


def _add_tokenizer_options(group: argparse._ArgumentGroup) -> None:
    default = ItemTokenizerConfig()
    _add(group, default, "quantizer", "kind of quantizer", choices=("residual_kmeans", "rqvae"))
    _add(group, default, "num_codebooks", "levels; one more where collisions are left")
    _add(group, default, "codebook_size", "codes at each level")
    _add(group, default, "conflict_rounds", "Sinkhorn rounds over colliding items; 0: none")
    _add(group, default, "sinkhorn_epsilon", "smaller follows distances more closely")
    _add(group, default, "sinkhorn_iterations", "row and column normalisations")
    _add(group, default, "kmeans_iterations", "most passes over the items for each level of residual_kmeans")
    _add(group, default, "num_components", "principal components that residual_kmeans keeps")
    _add(group, default, "seed", "of everything random")
    _add(group, default, "device", "torch device; None: a GPU where there is one")


def _add_rqvae_options(group: argparse._ArgumentGroup) -> None:
    default = ItemTokenizerConfig()
    _add(
        group,
        default,
        "hidden_sizes",
        "encoder widths; None: 2048-...-64, those up to the input's",
        type=int,
        nargs="+",
    )
    _add(group, default, "latent_dim", "width of the latent and of the codes")
    _add(group, default, "epochs", "passes over the items")
    _add(group, default, "batch_size", "items in one step")
    _add(group, default, "learning_rate", "peak, after warm-up")
    _add(group, default, "weight_decay", "of AdamW")
    _add(group, default, "warmup_epochs", "at most a tenth of the epochs")
    _add(group, default, "max_grad_norm", "gradients are clipped to this norm")
    _add(group, default, "beta", "weight of the commitment loss")
    _add(group, default, "quantization_weight", "weight of the quantization loss")
    _add(group, default, "eval_every", "epochs between collision counts and restarts of dead codes")


def _add(group: argparse._ArgumentGroup, default: Any, name: str, text: str, **how: Any) -> None:
    value = getattr(default, name)
    if value is not None and "choices" not in how:
        how = {"type": type(value), **how}
    group.add_argument(f"--{name}", default=value, help=text, **how)


def main(arguments: list[str] | None = None) -> None:
    options = build_parser().parse_args(arguments)
    logging.basicConfig(format="%(message)s")
    logging.getLogger("llmrec").setLevel(logging.INFO)
    embedding, config = (
        kind(**{field.name: getattr(options, field.name) for field in fields(kind)})
        for kind in (EmbeddingConfig, ItemTokenizerConfig)
    )
    dataset = RecDataset.load(options.dataset_dir)
    output_dir = options.output_dir or catalog_folder(dataset, embedding, config)
    tokenizer, catalog = build_catalog(dataset, output_dir, embedding, config)
    sizes = " x ".join(map(str, tokenizer.codebook_sizes))
    print(f"{output_dir}: {len(catalog)} items, codes {sizes}, catalog {catalog.fingerprint}")


if __name__ == "__main__":
    try:
        main()
    except (DataError, ValueError, FileNotFoundError, ImportError) as error:
        sys.exit(f"error: {error}")
