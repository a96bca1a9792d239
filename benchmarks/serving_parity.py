"""Do both engines answer over HTTP with the lists that offline evaluation ranks? A checkpoint's own users.

    python -m benchmarks.serving_parity --checkpoint outputs/demo --dataset_dir data/ml-100k

The test histories go to `/v1/recommendations` of a server with either engine, several at a time so that batches form,
and through `Recommender`, which evaluation uses. Lists must agree but for items whose scores differ by less than 1e-3;
anything else counts as a mismatch and the exit status is 1. All of it in float32. The last line is for machines.
"""

import argparse
import json
import sys
import tempfile
from itertools import combinations
from pathlib import Path
from typing import Any

import httpx
import torch

from benchmarks.decoding_contenders import ScoredKeys
from benchmarks.decoding_measure import hardware, versions
from benchmarks.generate_parity import same_lists
from benchmarks.serving import server_versions, shown
from benchmarks.serving_client import closed_loop, recommendation_body, recommended
from benchmarks.serving_process import OURS, serving
from benchmarks.serving_setup import Workload, load_workload
from llmrec.atomic import write_json
from llmrec.decoding.beam_search import BeamSearch
from llmrec.decoding.rules import Rules
from llmrec.evaluation.recommender import prior_scores

TIE = 1e-3
OFFLINE = "offline"

Lists = list[ScoredKeys]  # (item id, score) of each user, best first


@torch.no_grad()
def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", help="folder of a recipe that has finished; a model is made up without")
    parser.add_argument("--dataset_dir", help="the dataset folder it was trained on; histories are made up without")
    parser.add_argument("--num_users", type=int, default=200, help="(%(default)s)")
    parser.add_argument("--num_beams", type=int, default=20, help="(%(default)s)")
    parser.add_argument("--k", type=int, default=10, help="(%(default)s)")
    parser.add_argument("--users", type=int, default=8, help="concurrent requests (%(default)s)")
    parser.add_argument("--engines", nargs="+", choices=OURS, default=list(OURS))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, default=Path("benchmarks/results/serving_parity.json"))
    args = parser.parse_args(argv)
    with tempfile.TemporaryDirectory(prefix="llmrec-parity-") as name:
        folder = Path(name)
        workload = load_workload(args.checkpoint, args.dataset_dir, folder, args.seed)
        lists = {OFFLINE: offline_lists(workload, args)}
        for engine in args.engines:
            lists[engine] = served_lists(engine, workload, args, folder / f"{engine}.log")
    compared = [compare(first, second, lists) for first, second in combinations(lists, 2)]
    result = {
        "settings": shown(vars(args)),
        "workload": workload.description,
        "hardware": hardware("cpu"),
        "versions": versions() | server_versions(),
        "compared": compared,
    }
    args.output.parent.mkdir(parents=True, exist_ok=True)
    write_json(args.output, result)
    print(json.dumps(result, indent=2))
    mismatches = sum(row["mismatches"] for row in compared)
    identical, ties = (min(row["identical"] for row in compared), max(row["differ_by_ties"] for row in compared))
    print(f"users={len(lists[OFFLINE])} identical={identical} differ_by_ties={ties} mismatches={mismatches}")
    sys.exit(int(mismatches > 0))


def offline_lists(workload: Workload, args: argparse.Namespace) -> Lists:
    """What evaluation ranks, its order by ``Recommender``, and scores by the search under it."""
    served = workload.checkpoint
    catalog, model = served.catalog, served.load_model().float()
    recommender = served.recommender(args.num_beams, "vocabulary")
    histories, seen = (
        [catalog.rows_of(items) for items in users[: args.num_users]] for users in (workload.histories, workload.seen)
    )
    ranked = recommender.recommend(model, histories, args.k, seen)
    search = BeamSearch.from_catalog(model, catalog, served.vocabulary, scores="vocabulary")
    lists = []
    for row, (history, known) in enumerate(zip(histories, seen, strict=True)):
        prompt = recommender.prompt_tokens(history, served.is_encoder_decoder)
        prior = prior_scores(recommender.fusion, [history])
        beams = search([prompt], args.num_beams, rules=[Rules(exclude=known)], prior=prior)
        scores = dict(zip(beams.items[0].tolist(), beams.scores[0].tolist(), strict=True))
        lists.append([(catalog.item_ids[item], scores[item]) for item in ranked[row].tolist() if item >= 0])
    return lists


def served_lists(engine: str, workload: Workload, args: argparse.Namespace, log: Path) -> Lists:
    """What a server answers for the same users, who have seen the same items."""
    bodies: list[dict[str, Any]] = [
        recommendation_body(history, args.num_beams, args.k, exclude=seen)
        for history, seen in zip(workload.histories[: args.num_users], workload.seen, strict=False)
    ]
    with serving(engine, workload.checkpoint.folder, args.num_beams, log) as server:
        load = closed_loop(f"{server.url}/v1/recommendations", bodies, args.users, engine)
    refused = [reply for reply in load.replies if reply.status != httpx.codes.OK]
    if refused:
        raise RuntimeError(f"{engine} answered {refused[0].status}: {refused[0].body.decode(errors='replace')}")
    return [recommended(reply).items for reply in load.replies]


def compare(first: str, second: str, lists: dict[str, Lists]) -> dict[str, Any]:
    """How many users' lists are identical, differ by ties, or differ."""
    pairs = list(zip(lists[first], lists[second], strict=True))
    identical = sum(same_lists(a, b, 0.0) for a, b in pairs)
    mismatches = sum(not same_lists(a, b, TIE) for a, b in pairs)
    apart = [abs(score - dict(b)[key]) for a, b in pairs for key, score in a if key in dict(b)]
    return {
        "lists": [first, second],
        "users": len(pairs),
        "identical": identical,
        "differ_by_ties": len(pairs) - identical - mismatches,
        "mismatches": mismatches,
        "largest_score_difference": max(apart, default=0.0),
    }


if __name__ == "__main__":
    main()
