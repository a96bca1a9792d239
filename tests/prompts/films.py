"""A catalogue of films and one of products for tests of queries: random, but the same every time."""

from random import Random

import pyarrow as pa

from llmrec.prompts.paraphrases import MOVIELENS_BOOK
from llmrec.schema import ITEMS

_WORDS = ("Storm", "River", "Night", "Return", "Silent", "Road", "Queen", "Made", "What", "Two", "Robots", "When", "of")
_PARTS = (
    *("sturdy", "cotton", "leather", "foldable", "waterproof", "magnetic", "padded", "bamboo", "wireless", "silver"),
    *("woven", "lacquered", "stackable", "dimmable", "quilted", "walnut", "rubber", "slender", "portable", "hinged"),
    *("brushed", "oiled", "ribbed", "tufted", "glazed", "tinted", "braided", "curved", "hollow", "matte"),
)


def film_items(count: int = 160, seed: int = 0) -> pa.Table:
    """Films with one to three genres and a year; titles hold words that frames and paraphrases use, too."""
    random = Random(seed)
    genres = sorted(MOVIELENS_BOOK.phrases)
    rows = []
    for number in range(count):
        name = " ".join(random.sample(_WORDS, random.randint(1, 3)))
        title = f"{name}, The ({random.randint(1978, 1998)})" if number % 5 else f"{name} {number}"
        categories = random.sample(genres, random.randint(1, 3))
        rows.append({"item_id": f"f{number}", "title": title, "description": "", "brand": "", "categories": categories})
    return pa.Table.from_pylist(rows, ITEMS)


def product_items(count: int = 120, seed: int = 0) -> pa.Table:
    """Products whose descriptions hold words that their titles do not."""
    random = Random(seed)
    rows = []
    for number in range(count):
        title = f"{random.choice(('bag', 'lamp', 'chair'))} {number}"
        description = " ".join(random.sample(_PARTS, 4)) + f" thing number {number}"
        brand = random.choice(("Acme", "Bolt", "Cog"))
        rows.append(
            {"item_id": f"p{number}", "title": title, "description": description, "brand": brand, "categories": []}
        )
    return pa.Table.from_pylist(rows, ITEMS)
