"""Text as it stands in product pages to text for a prompt (LC-Rec's rules; docs/data.md)."""

import html
import re

#: A longer text says nothing that a prompt could use; LC-Rec drops it.
MAX_CHARACTERS = 2000


def clean_text(value: object) -> str:
    """One line without HTML, quotes or repeated blanks; "" for nothing, and for what is 2,000 characters or longer.

    Args:
        value: a string, a list of strings that are joined, or None.
    """
    text = " ".join(str(part) for part in value if part) if isinstance(value, (list, tuple)) else str(value or "")
    text = re.sub(r"<[^>]*>", " ", html.unescape(text))
    text = re.sub(r"\s+", " ", text.replace('"', "")).strip()
    return "" if len(text) >= MAX_CHARACTERS else text
