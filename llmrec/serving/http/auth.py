"""Who may ask: everything needs a key, except what is listed here."""

import hmac
from collections.abc import Sequence

from starlette.types import ASGIApp, Receive, Scope, Send

from llmrec.serving.http.errors import ApiError, error_response

_ADMIN_PATHS = ("/v1/catalog/reload", "/v1/catalog/rollback")


class KeyCheck:
    """Refuses requests without the right ``Authorization: Bearer KEY`` before anything of them is read.

    Args:
        app: what gets the others.
        api_keys: any of them opens the ordinary routes; none leaves those open.
        admin_key: opens every route; where None, the routes that change the catalogue stay closed.
    """

    def __init__(self, app: ASGIApp, api_keys: Sequence[str], admin_key: str | None) -> None:
        self.app = app
        self.api_keys = [key.encode() for key in api_keys]
        self.admin_key = None if admin_key is None else admin_key.encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """An ASGI application."""
        refusal = self._refusal(scope) if scope["type"] == "http" else None
        if refusal is None:
            await self.app(scope, receive, send)
        else:
            await error_response(refusal)(scope, receive, send)

    def _refusal(self, scope: Scope) -> ApiError | None:
        path = scope["path"]
        if path in ("/health", "/") or path.startswith("/page/"):
            return None
        given = _bearer(scope)
        is_admin = self.admin_key is not None and given is not None and hmac.compare_digest(given, self.admin_key)
        is_user = given is not None and any([hmac.compare_digest(given, key) for key in self.api_keys])  # noqa: C419 -- no short cut: takes as long for any key
        if path in _ADMIN_PATHS:
            return None if is_admin else self._admin_refusal(given, is_user)
        if not self.api_keys or is_user or is_admin:
            return None
        return _unauthorized(given)

    def _admin_refusal(self, given: bytes | None, is_user: bool) -> ApiError:
        if self.api_keys and not is_user:
            return _unauthorized(given)
        if self.admin_key is None:
            message = (
                "This server has no admin key, so nobody can change its catalogue: start it with LLMREC_ADMIN_KEY set."
            )
        elif given is None:
            return _unauthorized(given)
        else:
            message = "Changing the catalogue needs the admin key; this key is not it."
        return ApiError(403, message, code="admin_key_required")


def _unauthorized(given: bytes | None) -> ApiError:
    message = "No API key was given" if given is None else "The API key is not one of this server's"
    message += ": send the header 'Authorization: Bearer KEY'."
    return ApiError(401, message, code="invalid_api_key", headers={"WWW-Authenticate": "Bearer"})


def _bearer(scope: Scope) -> bytes | None:
    """The key given, if any."""
    for name, value in scope["headers"]:
        if name == b"authorization":
            scheme, _, key = value.partition(b" ")
            return key.strip() if scheme.lower() == b"bearer" and key.strip() else None
    return None
