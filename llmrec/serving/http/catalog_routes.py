"""``/v1/items`` and ``/v1/catalog``: what is served, and changing it while it is."""

from pathlib import Path
from typing import Annotated, Any

from fastapi import APIRouter, Query

from llmrec.serving.http.catalogs import Catalogs, Change, ServedCatalog, code_text
from llmrec.serving.http.errors import ApiError, error_responses
from llmrec.serving.http.json_body import JsonRoute
from llmrec.serving.http.protocol import CatalogChange, CatalogState, Item, Items, ReloadRequest
from llmrec.serving.http.service import Service


def catalog_router(service: Service) -> APIRouter:
    """The routes that show the catalogue, over ``service``."""
    router = APIRouter()
    catalogs = service.catalogs

    @router.get("/v1/items", responses=error_responses(400, 401, 413, 422), summary="Search items by title")
    def items(
        search: Annotated[str, Query(max_length=500, description="Words of the title, in any case.")] = "",
        limit: Annotated[int, Query(ge=1, le=100)] = 20,
    ) -> Items:
        served = catalogs.current
        rows = served.search(search.split(), limit)
        return Items(catalog=served.catalog.fingerprint, data=[_item(served, row) for row in rows])

    @router.get("/v1/items/{item_id:path}", responses=error_responses(400, 401, 404, 413, 422), summary="One item")
    def item(item_id: str) -> Item:
        served = catalogs.current
        row = served.catalog.item_index.get(item_id)
        if row is None:
            raise ApiError(404, f"The catalogue has no item {item_id[:100]!r}.", "item_id", "unknown_items")
        return _item(served, row)

    @router.get("/v1/catalog", responses=error_responses(400, 401, 413), summary="The catalogue served")
    def state() -> CatalogState:
        return CatalogState(**_state(catalogs))

    return router


def admin_router(service: Service) -> APIRouter:
    """The routes that change the catalogue, over ``service``."""
    router = APIRouter(route_class=JsonRoute)
    catalogs = service.catalogs
    admin = error_responses(400, 401, 403, 413, 422)

    @router.post("/v1/catalog/reload", responses=admin, summary="Serve a new catalogue (admin key)")
    async def reload(body: ReloadRequest | None = None) -> CatalogChange:
        given = None if body is None else body.folder
        folder = service.checkpoint.folder if given is None else Path(given)
        try:
            change = await catalogs.reload(folder)
        except (ValueError, TypeError, KeyError, OSError) as error:
            message = f"The catalogue stays as it was. {error}"
            raise ApiError(422, message, "folder", "catalog_refused") from error
        return _changed(catalogs, change)

    @router.post("/v1/catalog/rollback", responses=admin, summary="Serve the catalogue before (admin key)")
    async def rollback() -> CatalogChange:
        try:
            change = await catalogs.rollback()
        except ValueError as error:
            raise ApiError(422, str(error), code="catalog_refused") from error
        return _changed(catalogs, change)

    return router


def _item(served: ServedCatalog, row: int) -> Item:
    catalog, semantic_id = served.catalog, served.semantic_id(row)
    return Item(
        item_id=catalog.item_ids[row], title=catalog.titles[row], semantic_id=semantic_id, text=code_text(semantic_id)
    )


def _state(catalogs: Catalogs) -> dict[str, Any]:
    catalog, previous = catalogs.current.catalog, catalogs.previous
    return {
        "catalog": catalog.fingerprint,
        "num_items": len(catalog),
        "num_codebooks": catalog.num_codebooks,
        "codebook_sizes": list(catalog.codebook_sizes),
        "previous": None if previous is None else previous.catalog.fingerprint,
    }


def _changed(catalogs: Catalogs, change: Change) -> CatalogChange:
    return CatalogChange(**_state(catalogs), added=change.added, removed=change.removed)
