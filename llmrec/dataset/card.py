"""The dataset card: what the Hub shows, and which file is which split."""

import json
from typing import Any


def dataset_card(info: dict[str, Any]) -> str:
    """README.md of a dataset folder, from the content of dataset.json."""
    protocol = "\n".join(f"- {name}: {value}" for name, value in info["protocol"].items())
    counts = "\n".join(f"| {name.replace('_', ' ')} | {value:,} |" for name, value in info["counts"].items())
    return f"""---
pretty_name: {info["name"]}
tags:
- llmrec
- recommendation
- sequential-recommendation
configs:
- config_name: histories
  default: true
  data_files:
  - {{split: validation, path: valid.parquet}}
  - {{split: test, path: test.parquet}}
- config_name: train
  data_files: train.parquet
- config_name: interactions
  data_files: interactions.parquet
- config_name: items
  data_files: items.parquet
---

# {info["name"]}

Prepared with llmrec from {info["source"]}. Split fingerprint: `{info["split_fingerprint"]}`.

| | |
| --- | --- |
{counts}

## Protocol

{protocol}

## Files

`interactions.parquet` holds every kept event in order, `items.parquet` the items, `train.parquet` each user's training
history, `valid.parquet` and `test.parquet` what a model sees (`history`), must find (`target_item_ids`)
and may not repeat (`seen_item_ids`). The licence is that of the source.
"""


def query_card(info: dict[str, Any]) -> str:
    """README.md of a folder of queries, from the content of queries.json."""
    kinds = sorted({kind for counts in info["counts"].values() for kind in counts} - {"all"})
    rows = "\n".join(
        f"| {split} | {' | '.join(f'{counts.get(kind, 0):,}' for kind in ['all', *kinds])} |"
        for split, counts in info["counts"].items()
    )
    return f"""---
pretty_name: {json.dumps(info["name"])}
tags:
- llmrec
- search
configs:
- config_name: queries
  default: true
  data_files: queries.parquet
- config_name: items
  data_files: items.parquet
---

# {info["name"]}

Search queries over a catalogue, from {info["source"]}, written by {info["writer"] or "the users"}. Fingerprint:
`{info["fingerprint"]}`.

| split | all | {" | ".join(kinds)} |
| --- |{" --- |" * (len(kinds) + 1)}
{rows}

`queries.parquet` holds each query with its kind, split, keywords (the chain of thought) and graded items
(`item_ids`, `grades`; above 0 is relevant). No query and no query-item pair stands in two splits. `items.parquet` holds
the catalogue. The licence is that of the source.
"""
