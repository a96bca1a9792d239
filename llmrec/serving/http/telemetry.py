"""What the server counts, in Prometheus' form. Nothing here names a user, an item or a prompt."""

from dataclasses import dataclass, field

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Info, generate_latest

_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)


@dataclass
class RequestRecord:
    """What the log says of one request, filled in on its way.

    Attributes:
        request_id: also in the ``x-request-id`` header.
        lists: lists or texts asked for.
        k: length of each.
        beams: search width.
    """

    request_id: str
    lists: int = 0
    k: int | None = None
    beams: int | None = None


@dataclass
class Telemetry:
    """The counters of one server, in a registry of their own."""

    registry: CollectorRegistry = field(default_factory=CollectorRegistry)

    def __post_init__(self) -> None:
        registry = self.registry
        self.seconds = Histogram(
            "llmrec_request_seconds", "Time to answer.", ["route", "status"], buckets=_SECONDS, registry=registry
        )
        self.queue = Gauge("llmrec_queue_lists", "Lists and texts waiting or running.", registry=registry)
        self.lists = Counter("llmrec_lists", "Lists answered.", registry=registry)
        self.texts = Counter("llmrec_texts", "Free texts written.", registry=registry)
        self.embeddings = Counter("llmrec_embeddings", "Texts embedded.", registry=registry)
        self.tokens = Counter("llmrec_tokens", "Tokens read and written.", ["kind"], registry=registry)
        self.invalid_beams = Counter(
            "llmrec_invalid_beams",
            "Items returned by the engine that are not in the catalogue or repeated: 0.",
            registry=registry,
        )
        self.changes = Counter(
            "llmrec_catalog_changes", "Reloads and rollbacks.", ["kind", "outcome"], registry=registry
        )
        self.catalog = Info("llmrec_catalog", "The catalogue served.", registry=registry)
        self.catalog_items = Gauge("llmrec_catalog_items", "Items in it.", registry=registry)

    def count_tokens(self, prompt: int, completion: int) -> None:
        """Add tokens read and written."""
        self.tokens.labels("prompt").inc(prompt)
        self.tokens.labels("completion").inc(completion)

    def show_catalog(self, fingerprint: str, num_items: int) -> None:
        """Name the catalogue that is served from now on."""
        self.catalog.info({"fingerprint": fingerprint})
        self.catalog_items.set(num_items)

    def text(self) -> bytes:
        """All of it, as ``GET /metrics`` gives it."""
        return generate_latest(self.registry)
