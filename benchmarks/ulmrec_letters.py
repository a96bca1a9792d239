"""Users a second of ranking by letters: a model of 135M parameters, 20 candidates, one forward pass for a user.

    python -m benchmarks.ulmrec_letters --dataset_dir data/ml-100k

The model has SmolLM2-135M's shape and random weights (what it answers is not compared here); prompts are the recipe's,
with item-kNN's candidates. What all prompts begin with is computed once, or, for comparison, with every prompt.
"""

import argparse
import statistics
import time

import torch
from transformers import AutoModelForCausalLM

from benchmarks.decoding_measure import hardware, versions
from benchmarks.decoding_setup import MODEL_SHAPES
from llmrec.atomic import write_json
from llmrec.baselines import ItemKNN
from llmrec.catalog import Catalog
from llmrec.dataset import RecDataset
from llmrec.decoding.letters import LetterLogits
from llmrec.evaluation import Evaluator
from llmrec.evaluation.candidates import CandidateRecommender
from llmrec.models.from_config import train_text_tokenizer
from llmrec.prompts.candidates import INSTRUCTION, letter_token_ids
from llmrec.prompts.titles import TitleRenderer
from llmrec.recipe.item_features import training_rows
from llmrec.vocabulary import ItemVocabulary


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset_dir", default="data/ml-100k", help="prepared dataset")
    parser.add_argument("--num_users", type=int, default=200)
    parser.add_argument("--max_history", type=int, default=20)
    parser.add_argument("--batch_size", type=int, default=8)
    parser.add_argument("--model", choices=MODEL_SHAPES, default="smollm2-135m", help="shape, with random weights")
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument("--output", default="benchmarks/results/ulmrec_letters.json")
    args = parser.parse_args()
    dataset = RecDataset.load(args.dataset_dir)
    item_ids = dataset.items["item_id"].to_pylist()
    evaluator = Evaluator(dataset, item_ids, "test", num_users=args.num_users)
    catalog = Catalog(dataset.items, torch.empty(len(item_ids), 0).numpy(), ())
    tokenizer = train_text_tokenizer([*catalog.titles, INSTRUCTION], 4096)
    vocabulary = ItemVocabulary(tokenizer, ())
    retriever = ItemKNN().fit(training_rows(dataset, refit=False), len(item_ids))
    recommender = CandidateRecommender(
        TitleRenderer(catalog, vocabulary), retriever, args.max_history, args.batch_size, seed=0
    )
    shown = recommender.lettered(evaluator.histories, evaluator.seen)
    prompts = [
        recommender.prompt_tokens(history, items[items >= 0])
        for history, items in zip(evaluator.histories, shown, strict=True)
    ]
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(MODEL_SHAPES[args.model]).eval()
    letters = LetterLogits(model, letter_token_ids(vocabulary, 20))
    lengths = [len(prompt) for prompt in prompts]
    print(
        f"{model.num_parameters() / 1e6:.0f}M parameters, prompts of {statistics.mean(lengths):.0f} tokens on average"
    )
    contenders = {
        "beginning cached": lambda: letters(prompts, args.batch_size),
        # a token of its own in front of one prompt leaves nothing that all of them begin with
        "beginning repeated": lambda: letters([[0, *prompts[0]], *prompts[1:]], args.batch_size),
    }
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    letters(prompts[: args.batch_size], args.batch_size)
    for _ in range(args.repeats):
        for name, rank in contenders.items():
            start = time.perf_counter()
            rank()
            seconds[name].append(time.perf_counter() - start)
    rates = {name: len(prompts) / statistics.median(times) for name, times in seconds.items()}
    print(" ".join(f"{name.replace(' ', '_')}_users_per_s={rate:.2f}" for name, rate in rates.items()))
    results = {"settings": vars(args), "hardware": hardware("cpu"), "versions": versions()}
    write_json(args.output, {**results, "prompt_tokens": lengths, "seconds": seconds, "users_per_second": rates})


if __name__ == "__main__":
    main()
