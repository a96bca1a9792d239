"""From the rules of a request, which name items by id, to those of the search."""

from collections.abc import Iterable, Sequence

import numpy as np

from llmrec.decoding.rules import Rules
from llmrec.serving.http.catalogs import ServedCatalog
from llmrec.serving.http.errors import ApiError
from llmrec.serving.http.protocol import RuleFields

#: Unknown ids that a refusal names.
_MAX_NAMED = 10


def search_rules(served: ServedCatalog, fields: RuleFields, seen: Sequence[int], skipped: list[str] | None) -> Rules:
    """The rules of one list, checked: what the engine gets cannot fail on them.

    Args:
        served: the catalogue of the request.
        fields: as the client gave them.
        seen: rows to leave out besides.
        skipped: takes the ids that the catalogue lacks; None refuses them.

    Raises:
        ApiError: 422, if an id is not known, a prefix is not one of the catalogue, or nothing is allowed.
    """
    exclude = known_rows(served, fields.exclude, "exclude", skipped)
    allow = None if fields.allow is None else known_rows(served, fields.allow, "allow", skipped)
    if allow is not None and not allow:
        raise ApiError(422, "allow has no item: nothing could be returned. Leave it out to allow all.", "allow")
    by_code = ("require_prefix", "forbid_prefixes", "max_per_first_code")
    given = [name for name in by_code if getattr(fields, name)]
    if given and not served.catalog.num_codebooks:
        message = f"{given[0]} is about semantic IDs, and this model's items have none. Leave it out."
        raise ApiError(422, message, given[0])
    if fields.require_prefix:
        _check_prefix(served, fields.require_prefix, "require_prefix")
    for prefix in fields.forbid_prefixes:
        _check_prefix(served, prefix, "forbid_prefixes")
    return Rules([*exclude, *seen], allow, fields.require_prefix, fields.forbid_prefixes)


def known_rows(served: ServedCatalog, item_ids: Sequence[str], name: str, skipped: list[str] | None) -> list[int]:
    """Rows of items, in order.

    Args:
        served: the catalogue of the request.
        item_ids: as the client gave them.
        name: the field that they came from.
        skipped: takes the ids that the catalogue lacks; None refuses them.

    Raises:
        ApiError: 422.
    """
    index = served.catalog.item_index
    unknown = [item_id for item_id in item_ids if item_id not in index]
    if not unknown:
        return [index[item_id] for item_id in item_ids]
    if skipped is None:
        raise unknown_items(unknown, name, "ids")
    skipped += unknown
    return [index[item_id] for item_id in item_ids if item_id in index]


def unknown_items(unknown: Iterable[str], name: str, kind: str, can_skip: bool = True) -> ApiError:
    """The refusal that names items which the catalogue lacks; ``can_skip`` tells of the route that goes on without."""
    distinct = list(dict.fromkeys(unknown))
    named = ", ".join(repr(one[:100]) for one in distinct[:_MAX_NAMED])
    more = f" and {len(distinct) - _MAX_NAMED} more" if len(distinct) > _MAX_NAMED else ""
    message = f"{name} holds {kind} that the catalogue does not have: {named}{more}. Leave them out"
    message += '; /v1/recommendations skips them with "unknown_items": "skip".' if can_skip else "."
    return ApiError(422, message, name, "unknown_items")


def _check_prefix(served: ServedCatalog, prefix: Sequence[int], name: str) -> None:
    assert served.trie is not None
    depth = served.trie.num_codebooks
    if not 0 < len(prefix) <= depth:
        raise ApiError(422, f"{name} holds {prefix[:20]}; a prefix has 1 to {depth} codes.", name)
    if served.trie.walk(np.array([prefix]))[0] < 0:
        raise ApiError(422, f"{name} holds {prefix}, which no item's semantic ID starts with.", name)
