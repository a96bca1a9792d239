"""What an operator sets: where the server listens, who may ask, and how much."""

from dataclasses import dataclass

_LOOPBACK = ("127.0.0.1", "localhost", "::1")


@dataclass(frozen=True)
class ServerSettings:
    """Settings of one server.

    Args:
        host: address to listen at; the default is reachable from this machine only.
        port: TCP port; 0 takes a free one.
        api_keys: any of these opens the ordinary routes; none leaves them open to everyone who can connect.
        admin_key: opens the routes that change the catalogue, and the ordinary ones; without it nobody may change it.
        max_history_items: longest history of one user, in items.
        max_k: longest list.
        max_num_beams: widest search.
        max_users_per_request: lists that one request may ask for: users, prompts, or prompts x n of free text.
        max_body_bytes: largest request body.
        max_queue: lists and texts waiting or running, over all requests; what comes on top is told to come back later.
        max_text_tokens: longest free text, in tokens.
        max_prompt_tokens: longest prompt, in tokens.
        shutdown_seconds: on SIGTERM, how long requests in flight get to finish.
        log_level: ``debug``, ``info``, ``warning`` or ``error``.
        model_name: what clients call the model; the checkpoint's own name where None.

    Raises:
        ValueError: if a limit is below 1, or a key is empty or not plain ASCII.
    """

    host: str = "127.0.0.1"
    port: int = 8000
    api_keys: tuple[str, ...] = ()
    admin_key: str | None = None
    max_history_items: int = 2000
    max_k: int = 100
    max_num_beams: int = 100
    max_users_per_request: int = 256
    max_body_bytes: int = 2_000_000
    max_queue: int = 1024
    max_text_tokens: int = 1024
    max_prompt_tokens: int = 8192
    shutdown_seconds: int = 30
    log_level: str = "info"
    model_name: str | None = None

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if name.startswith("max_") and value < 1:
                raise ValueError(f"{name} is {value}; a limit is 1 or more.")
        for key in (*self.api_keys, *([] if self.admin_key is None else [self.admin_key])):
            if not key or not key.isascii() or any(character.isspace() for character in key):
                raise ValueError("An API key is empty, or holds white space or characters outside ASCII.")
        if self.admin_key in self.api_keys:
            raise ValueError("The admin key is an API key too: give it one of its own.")

    @property
    def is_loopback(self) -> bool:
        """Whether only this machine can connect."""
        return self.host in _LOOPBACK
