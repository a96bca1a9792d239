"""Memory of one GPU while it trains a Qwen3, computed: which mode fits which card.

    python -m benchmarks.training_memory

prints the table of docs/training.md. GB are 10^9 bytes. The parts, in bytes (P parameters, P_linear of them in linear
layers, P_embedding in embedding and head, P_adapter in LoRA and the new rows, n GPUs):

- weights: full 4 P (float32) and 2 P_linear for the bfloat16 copies of autocast; LoRA 2 P (bfloat16); 4-bit LoRA
  0.5625 P_linear (nf4, and a float32 scale for every 64 weights) and 2 for each other weight; an adapter 4 P_adapter.
- gradients 4, and AdamW's two moments 8, for each trained parameter.
- ZeRO-2 keeps 2 P, the bfloat16 weights, on each GPU and shares the rest, 2 P of gradients and 12 P of float32 weights
  and moments; ZeRO-3 shares all 16 P and FSDP2 4 P + 4 P + 8 P; both gather one layer at a time, and the embedding.
- activations: what backward keeps of a layer (``layer_bytes``, counted on the real one), for every layer; with gradient
  checkpointing for one layer, and the inputs of all.
- head: the float32 gradient of the output embedding, and one tile of logits of TRL's chunked loss. LoRA that trains the
  new rows also copies the embedding with them put in.

The CUDA context, fragmentation and buffers of communication are not computed: ``RESERVE`` of a card stays free.
"""

import argparse
from dataclasses import dataclass
from typing import Literal

Mode = Literal["full", "lora", "lora_4bit", "zero2", "zero3", "fsdp2"]

VOCABULARY = 151_936
CARDS = (24, 48, 80)  # GB
RESERVE = 0.1  # of a card
LORA_RANK = 16
NEW_ROWS = 1024  # 4 levels of 256 codes
#: Tokens and vocabulary entries of a tile of logits in TRL 1.16.
TILE = (4096, 32_768)
MODES: dict[Mode, str] = {
    "full": "full, 1 GPU",
    "lora": "LoRA, 1 GPU",
    "lora_4bit": "4-bit LoRA, 1 GPU",
    "zero2": "full, ZeRO-2, 8 GPUs",
    "zero3": "full, ZeRO-3, 8 GPUs",
    "fsdp2": "full, FSDP2, 8 GPUs",
}


@dataclass(frozen=True)
class Shape:
    """Of a Qwen3 decoder: head size 128, three matrices in the feed-forward layer."""

    layers: int
    hidden: int
    intermediate: int
    heads: int
    kv_heads: int = 8
    tied: bool = True
    vocabulary: int = VOCABULARY
    head_dim: int = 128

    @property
    def matrices(self) -> list[tuple[int, int]]:
        """Inputs and outputs of the linear layers of one decoder layer."""
        queries, keys = self.heads * self.head_dim, self.kv_heads * self.head_dim
        attention = [(self.hidden, queries), (self.hidden, keys), (self.hidden, keys), (queries, self.hidden)]
        return [*attention, *[(self.hidden, self.intermediate)] * 2, (self.intermediate, self.hidden)]

    @property
    def layer_parameters(self) -> int:
        return sum(inputs * outputs for inputs, outputs in self.matrices)

    @property
    def linear(self) -> int:
        return self.layers * self.layer_parameters

    @property
    def embedding(self) -> int:
        return self.vocabulary * self.hidden * (1 if self.tied else 2)

    @property
    def parameters(self) -> int:
        norms = self.layers * 2 * (self.hidden + self.head_dim) + self.hidden
        return self.linear + self.embedding + norms

    @property
    def adapter(self) -> int:
        """Trained parameters of LoRA on every linear layer, and of the new rows."""
        low_rank = self.layers * sum(LORA_RANK * (inputs + outputs) for inputs, outputs in self.matrices)
        return low_rank + NEW_ROWS * self.hidden * (1 if self.tied else 2)

    def layer_bytes(self, float32_weights: bool) -> int:
        """What backward keeps of one token in one layer under bfloat16, with attention that stores no scores.

        Of each norm its input, twice, and its output; of queries and keys what their norms and rotation need, values
        and the attention's output; the feed-forward layer's gate, activated gate, up and product. Between float32
        weights, as under autocast, the residual stream is float32.
        """
        queries, keys = self.heads * self.head_dim, self.kv_heads * self.head_dim
        return (26 if float32_weights else 16) * self.hidden + 10 * (queries + keys) + 8 * self.intermediate


SHAPES: dict[str, Shape] = {
    "0.6B": Shape(28, 1024, 3072, 16),
    "1.7B": Shape(28, 2048, 6144, 16),
    "4B": Shape(36, 2560, 9728, 32),
    "8B": Shape(36, 4096, 12288, 32, tied=False),
}


@dataclass(frozen=True)
class Memory:
    """Bytes on one GPU."""

    weights: float
    gradients: float
    optimizer: float
    activations: float
    head: float

    @property
    def total(self) -> float:
        return sum(vars(self).values())


def training_memory(shape: Shape, mode: Mode, tokens: int, checkpointing: bool, num_gpus: int = 8) -> Memory:
    """Peak memory of one training step on each GPU.

    Args:
        shape: of the model.
        mode: what is trained, and what the GPUs share.
        tokens: in a batch of one GPU, padding included.
        checkpointing: whether layers are computed again in the backward pass.
        num_gpus: that share, under zero2, zero3 and fsdp2.
    """
    parameters, share = shape.parameters, num_gpus if mode in ("zero2", "zero3", "fsdp2") else 1
    gathered = 2 * (shape.layer_parameters + shape.embedding)
    weights, gradients, optimizer = {
        "full": (4 * parameters + 2 * shape.linear, 4 * parameters, 8 * parameters),
        "lora": (2 * parameters + 4 * shape.adapter, 4 * shape.adapter, 8 * shape.adapter),
        "lora_4bit": (
            0.5625 * shape.linear + 2 * (parameters - shape.linear) + 4 * shape.adapter,
            4 * shape.adapter,
            8 * shape.adapter,
        ),
        "zero2": (2 * parameters, 2 * parameters / share, 12 * parameters / share),
        "zero3": (2 * parameters / share + gathered, 2 * parameters / share, 12 * parameters / share),
        "fsdp2": (4 * parameters / share + gathered, 4 * parameters / share, 8 * parameters / share),
    }[mode]
    float32 = mode == "full"
    layer, layer_input = shape.layer_bytes(float32), (4 if float32 else 2) * shape.hidden
    kept = layer + shape.layers * layer_input if checkpointing else shape.layers * layer
    one_matrix = shape.vocabulary * shape.hidden
    head = (
        4 * one_matrix + 2 * min(tokens, TILE[0]) * TILE[1] + (2 * one_matrix if mode in ("lora", "lora_4bit") else 0)
    )
    return Memory(weights, gradients, optimizer, tokens * kept, head)


def smallest_card(memory: Memory) -> int | None:
    """GB of the smallest of ``CARDS`` that holds it; None where none does."""
    return next((card for card in CARDS if memory.total <= (1 - RESERVE) * card * 1e9), None)


def table(tokens: int) -> str:
    """Markdown: GB without and with checkpointing, and the smallest card for each."""
    lines = ["| mode | " + " | ".join(f"Qwen3 {name}" for name in SHAPES) + " |", "| --- " * (len(SHAPES) + 1) + "|"]
    for mode, label in MODES.items():
        cells = [_cell(shape, mode, tokens) for shape in SHAPES.values()]
        lines.append(f"| {label} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _cell(shape: Shape, mode: Mode, tokens: int) -> str:
    parts = []
    for checkpointing in (False, True):
        memory = training_memory(shape, mode, tokens, checkpointing)
        card = smallest_card(memory)
        parts.append(f"{memory.total / 1e9:.0f} ({'-' if card is None else card})")
    return " / ".join(parts)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokens", type=int, default=8 * 512, help="in a batch of one GPU, padding included")
    tokens = parser.parse_args().tokens
    print(
        f"GB on one GPU (smallest card of {CARDS} GB), without / with gradient checkpointing, {tokens:,} tokens a GPU"
    )
    print(table(tokens))


if __name__ == "__main__":
    main()
