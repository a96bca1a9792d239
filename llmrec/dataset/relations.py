"""The relational work, written once in Ibis: filters, duplicates, k-core, order, splits. Same rows on every engine."""

import logging
from typing import Any

import ibis
import numpy as np

from llmrec.dataset.config import PreparationConfig
from llmrec.dataset.engines import Engine

logger = logging.getLogger(__name__)

#: How simultaneous events of a user are ordered; part of every split's definition.
TIE_RULE = "timestamp, then item id (shorter ids first, then alphabetical: numeric for whole numbers), then input order"


def kept_events(engine: Engine, events: ibis.Table, items: ibis.Table, config: PreparationConfig) -> ibis.Table:
    """Events that stay: of known items, rated highly enough, without duplicates, in the k-core."""
    events = events.semi_join(items, "item_id")
    if config.min_rating is not None:
        events = events.filter(events.rating >= config.min_rating)
    return _k_core(engine, _without_duplicates(events, config), config.k_core)


def _without_duplicates(events: ibis.Table, config: PreparationConfig) -> ibis.Table:
    """Of a user's events with one item, keep the first, the last, or all."""
    if config.duplicates == "keep":
        return events
    keys = [events.timestamp, events.input_row]
    if config.duplicates == "last":
        keys = [ibis.desc(key) for key in keys]
    window = ibis.window(group_by=[events.user_id, events.item_id], order_by=keys)
    numbered = events.mutate(occurrence=ibis.row_number().over(window))
    return numbered.filter(numbered.occurrence == 0).drop("occurrence")


def _k_core(engine: Engine, events: ibis.Table, k: int) -> ibis.Table:
    """The largest set of events in which every user and every item has ``k`` or more, found by repeated filtering."""
    events = engine.materialize("core_0", events)
    count = events.count().execute()
    for round_number in range(1, count + 2):
        counted = events.mutate(
            of_user=events.count().over(ibis.window(group_by=events.user_id)),
            of_item=events.count().over(ibis.window(group_by=events.item_id)),
        )
        kept = counted.filter((counted.of_user >= k) & (counted.of_item >= k)).drop("of_user", "of_item")
        kept = engine.materialize(f"core_{round_number}", kept)
        remaining = kept.count().execute()
        logger.info("%d-core, round %d: %d of %d interactions kept.", k, round_number, remaining, count)
        if remaining == count:
            break
        events, count = kept, remaining
    return events


def split_events(events: ibis.Table, config: PreparationConfig) -> ibis.Table:
    """Events in order, each with ``position`` in its user's history and ``split``: train, valid or test."""
    user = ibis.window(group_by=events.user_id)
    in_order = ibis.window(
        group_by=events.user_id,
        order_by=[events.timestamp, events.item_id.length(), events.item_id, events.input_row],
    )
    numbered = events.mutate(position=ibis.row_number().over(in_order), of_user=events.count().over(user))
    if config.split == "leave_last_out":
        labelled = numbered.mutate(split=_last_out(numbered))
    else:
        valid_from, test_from = _period_starts(events, config)
        labelled = numbered.mutate(
            split=ibis.cases(
                (numbered.timestamp >= test_from, "test"), (numbered.timestamp >= valid_from, "valid"), else_="train"
            )
        )
    columns = ["user_id", "item_id", "timestamp", "rating", "input_row", "position", "split"]
    ordered = labelled.order_by([labelled.user_id.length(), labelled.user_id, labelled.position])
    return ordered.select(*columns)


def _last_out(events: ibis.Table) -> Any:
    """The last event is for test and the one before for validation, of users with three or more."""
    from_end = events.of_user - 1 - events.position
    enough = events.of_user >= 3
    return ibis.cases((enough & (from_end == 0), "test"), (enough & (from_end == 1), "valid"), else_="train")


def _period_starts(events: ibis.Table, config: PreparationConfig) -> tuple[int, int]:
    """First timestamps of the validation and the test period: exact order statistics over all events."""
    count = events.count().execute()
    test_at = round(count * (1 - config.test_fraction))
    valid_at = round(count * (1 - config.test_fraction - config.valid_fraction))
    per_time = events.group_by("timestamp").agg(events=events.count()).order_by("timestamp").execute()
    up_to = per_time["events"].cumsum().to_numpy()
    ranks = np.minimum([valid_at, test_at], count - 1)  # of few events, a share may round to none
    valid_from, test_from = per_time["timestamp"].to_numpy()[np.searchsorted(up_to, ranks, side="right")]
    return int(valid_from), int(test_from)
