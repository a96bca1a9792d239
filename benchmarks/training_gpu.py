"""Training on one GPU: tokens a second, share of the card's matrix peak, peak memory; TRL's defaults against ours.

    python -m benchmarks.training_gpu

SmolLM2-135M's shape (its weights with --weights FOLDER) and a Qwen3 of 0.6B from its config, over made-up histories of
MovieLens' lengths and semantic IDs of 4 x 256 codes, so that nothing but torch, transformers, TRL and PEFT is needed.
About 16,000 tokens a batch for every contender. Full tuning has float32 weights under bfloat16 autocast; LoRA
bfloat16 ones, 4-bit LoRA nf4 ones (skipped without bitsandbytes). A contender that fails is listed with its error.

The share of the peak counts the work that the tokens need, padding and recomputation left out: for each token 2 N in
the forward pass (N: parameters of the layers' matrices), 2 V h for each token under the loss, and 2 L d n^2 for the
causal attention of an example of n tokens (L layers, heads x head size d); three times that in training, and twice
where the weights have no gradients (LoRA).
"""

import argparse
import gc
import tempfile
import traceback
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

from benchmarks import training_contenders
from benchmarks.decoding_measure import PeakMemory, hardware, machine_rates
from benchmarks.decoding_setup import MODEL_SHAPES
from benchmarks.training_contenders import (
    CHECKPOINTED,
    Contender,
    TrainingSettings,
    build_contender,
    load_base,
)
from benchmarks.training_measure import Counts, Progress, measure, versions
from benchmarks.training_setup import Workload, made_up_catalog, made_up_histories
from llmrec.atomic import write_json
from llmrec.models.from_config import train_text_tokenizer
from llmrec.prompts.renderer import SegmentRenderer
from llmrec.training.varlen_attention import VARLEN, register_varlen_attention
from llmrec.vocabulary import ItemVocabulary

#: Dense bfloat16 operations a second, from the vendor's data sheets.
PEAKS = {"H100": 989.4e12, "H200": 989.4e12, "A100": 312e12}
TOKENS_A_BATCH = 16_384

_SHARED = ("trl_defaults", "prefix", "prefix_grouped", "prefix_packed", "history", "history_packed")
CONTENDERS: dict[str, Contender] = {name: training_contenders.CONTENDERS[name] for name in _SHARED} | {
    "history_packed_checkpointing": Contender(
        "history loss, packed, gradient checkpointing", "history", packed=True, options=CHECKPOINTED
    ),
    "lora": Contender("LoRA, packed", "history", packed=True, tuning="lora", pretrained=True),
    "lora_checkpointing": Contender(
        "LoRA, packed, gradient checkpointing",
        "history",
        packed=True,
        options=CHECKPOINTED,
        tuning="lora",
        pretrained=True,
    ),
    "lora_4bit": Contender("4-bit LoRA, packed", "history", packed=True, tuning="lora_4bit", pretrained=True),
    "lora_4bit_checkpointing": Contender(
        "4-bit LoRA, packed, gradient checkpointing",
        "history",
        packed=True,
        options=CHECKPOINTED,
        tuning="lora_4bit",
        pretrained=True,
    ),
}


def main(argv: list[str] | None = None) -> None:
    args = parse(argv)
    results: dict[str, Any] = {
        "settings": {**vars(args), "output": str(args.output)},
        "hardware": hardware(args.device),
        "versions": versions(),
        "rates": machine_rates(args.device, "bfloat16"),
        "peak_flops": peak_flops(args.device),
        "models": {},
    }
    args.output.parent.mkdir(parents=True, exist_ok=True)
    catalog = made_up_catalog(10_000, (256,) * 4, args.seed)
    histories = made_up_histories(catalog, args.users, args.seed)
    for name in args.models:
        with tempfile.TemporaryDirectory() as folder:
            weights = args.weights if name == "smollm2-135m" else None
            config, tokenizer = save_base(name, weights, folder, args)
            vocabulary = ItemVocabulary.add_to(tokenizer, catalog.codebook_sizes)
            rows = 2 * args.steps * args.tokens_a_batch // 200
            workload = Workload(SegmentRenderer(catalog, vocabulary), histories, 50, rows, args.seed)
            model = {"weights": "random" if weights is None else weights, "config": config.to_diff_dict(), "runs": {}}
            results["models"][name] = model
            for key in args.contenders:
                model["runs"][key] = attempt(CONTENDERS[key], config, tokenizer, workload, folder, args, results)
                write_json(args.output, results)
                print(f"{name}: {line(CONTENDERS[key].label, model['runs'][key])}", flush=True)


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda", choices=("cuda", "cpu"))
    parser.add_argument("--models", nargs="+", choices=MODEL_SHAPES, default=["smollm2-135m", "qwen3-0.6b"])
    parser.add_argument("--weights", help="folder of SmolLM2-135M; its shape with random weights if not given")
    parser.add_argument("--contenders", nargs="+", choices=CONTENDERS, default=list(CONTENDERS))
    parser.add_argument(
        "--steps", type=int, default=20, help="training steps of each contender; the first 3 do not count"
    )
    parser.add_argument("--limit_s", type=float, default=15.0, help="seconds after which a contender stops before that")
    parser.add_argument("--tokens_a_batch", type=int, default=TOKENS_A_BATCH)
    parser.add_argument("--max_length", type=int, default=2048, help="of a packed sequence")
    parser.add_argument("--users", type=int, default=2_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, default=Path("benchmarks/results/training_gpu.json"))
    return parser.parse_args(argv)


def save_base(
    name: str, weights: str | None, folder: str, args: argparse.Namespace
) -> tuple[PreTrainedConfig, PreTrainedTokenizerBase]:
    """Put a model and its tokenizer into ``folder``: the given weights, or the shape's random ones."""
    if weights is not None:
        from transformers import AutoTokenizer  # noqa: PLC0415

        model = AutoModelForCausalLM.from_pretrained(weights, dtype=torch.bfloat16)
        tokenizer = AutoTokenizer.from_pretrained(weights)
    else:
        torch.manual_seed(args.seed)
        with torch.device(args.device):
            model = AutoModelForCausalLM.from_config(MODEL_SHAPES[name], dtype=torch.bfloat16)
        tokenizer = train_text_tokenizer([f"Item {number}" for number in range(100)], 1024)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return model.config, tokenizer


def attempt(
    contender: Contender,
    config: PreTrainedConfig,
    tokenizer: PreTrainedTokenizerBase,
    workload: Workload,
    folder: str,
    args: argparse.Namespace,
    results: dict[str, Any],
) -> dict[str, Any]:
    """The contender's figures, or why there are none."""
    if contender.tuning == "lora_4bit" and find_spec("bitsandbytes") is None:
        return {"skipped": "bitsandbytes is not installed"}
    try:
        return run(contender, config, tokenizer, workload, folder, args, results)
    except Exception as error:  # one failure must not lose the others
        return {"failed": f"{type(error).__name__}: {error}"[:500], "traceback": traceback.format_exc()[-2000:]}
    finally:
        gc.collect()
        if args.device == "cuda":
            torch.cuda.empty_cache()


def run(
    contender: Contender,
    config: PreTrainedConfig,
    tokenizer: PreTrainedTokenizerBase,
    workload: Workload,
    folder: str,
    args: argparse.Namespace,
    results: dict[str, Any],
) -> dict[str, Any]:
    synchronize: Callable[[], None] = torch.cuda.synchronize if args.device == "cuda" else lambda: None
    memory = PeakMemory(args.device)
    attention = VARLEN if contender.packed and args.device == "cuda" else "sdpa"
    register_varlen_attention()
    model = load_model(contender, workload, folder, attention)
    if contender.tuning != "lora_4bit":  # quantized weights are put on the device as they are loaded
        model.to(args.device)
    settings = TrainingSettings(
        device=args.device,
        bf16=True,
        batch_sizes=dict.fromkeys(("prefix", "history"), max(1, args.tokens_a_batch // 256)),
        packed_batch_size=max(1, args.tokens_a_batch // args.max_length),
        max_length=args.max_length,
        learning_rates={"prefix": 1e-5, "history": 1e-5, "lora": 1e-4},
        epochs={"prefix": 1, "history": 1},
        max_steps=args.steps,
        seed=args.seed,
    )
    with tempfile.TemporaryDirectory() as output:
        trainer = build_contender(contender, settings, workload, model, tokenizer, output)
        progress = Progress(synchronize, args.limit_s)

        def targets(label_tokens: int, examples: int) -> float:
            return workload.targets(contender.source, label_tokens, examples)

        result = measure(trainer, progress, targets, memory)
    timed = dict(result["timed"])
    seconds = timed.pop("seconds")
    flops = training_flops(config, Counts(**timed), frozen=contender.tuning != "full")
    peak = results["peak_flops"]
    return {
        **{key: value for key, value in result.items() if key not in ("validations", "reached")},
        "attention": attention,
        "flops_per_s": flops / seconds,
        "peak_share": None if peak is None else flops / seconds / peak,
        "measured_matrix_share": flops / seconds / results["rates"]["flops_per_s"],
    }


def load_model(contender: Contender, workload: Workload, folder: str, attention: str) -> PreTrainedModel:
    """The saved base: float32 for full tuning, bfloat16 or 4 bits under LoRA."""
    dtype = "float32" if contender.tuning == "full" else "bfloat16"
    return load_base(contender.tuning, folder, workload, dtype, attention)[0]


def training_flops(config: PreTrainedConfig, counts: Counts, frozen: bool) -> float:
    """Operations that training on ``counts`` needs; the formula is this module's description."""
    width = config.num_attention_heads * config.head_dim
    keys = config.num_key_value_heads * config.head_dim
    layer = config.hidden_size * (2 * width + 2 * keys + 3 * config.intermediate_size)
    forward = 2 * config.num_hidden_layers * layer * counts.tokens
    forward += 2 * config.vocab_size * config.hidden_size * counts.label_tokens
    attention = 2 * config.num_hidden_layers * width * counts.squares
    return (2 if frozen else 3) * forward + 3 * attention


def peak_flops(device: str) -> float | None:
    """The card's, where ``PEAKS`` knows it."""
    if device == "cpu":
        return None
    return next((peak for name, peak in PEAKS.items() if name in torch.cuda.get_device_name()), None)


def line(label: str, run: dict[str, Any]) -> str:
    if "tokens_per_s" not in run:
        return f"{label}: {run.get('skipped') or run['failed']}"
    share = "" if run["peak_share"] is None else f", {run['peak_share']:.1%} of the peak"
    return (
        f"{label}: {run['tokens_per_s']:,.0f} tokens/s, {run['targets_per_s']:,.0f} targets/s{share}, "
        f"{run['padding']:.0%} padding, {run['peak_bytes'] / 1e9:.1f} GB"
    )


if __name__ == "__main__":
    main()
