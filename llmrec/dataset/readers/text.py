"""Text as it stands in product pages to text for a prompt (LC-Rec's rules, arXiv 2311.09049; docs/data.md)."""

import ast
import html
import re

#: A longer description says nothing that a prompt could use; LC-Rec drops it.
MAX_CHARACTERS = 2000

# names of letters and digits only: "<a_12>" and "a < b" are no HTML and stay as they are
_TAG = re.compile(r"</?[a-zA-Z][a-zA-Z0-9]*(?:\s[^<>]*)?/?>|<!--.*?-->", re.DOTALL)
_SCRIPT = re.compile(r"<(script|style)\b.*?</\1\s*>", re.DOTALL | re.IGNORECASE)


def clean_text(value: object) -> str:
    """``plain_text``, or "" where that is 2,000 characters or longer."""
    text = plain_text(value)
    return "" if len(text) >= MAX_CHARACTERS else text


def plain_text(value: object) -> str:
    """One line without HTML, double quotes or repeated blanks; "" for nothing.

    Args:
        value: a string, a list of strings that are joined, or None.
    """
    text = " ".join(str(part) for part in value if part) if isinstance(value, list | tuple) else str(value or "")
    if "&" in text:
        text = html.unescape(html.unescape(text))  # some releases were escaped twice
    if "<" in text:
        text = _TAG.sub(" ", _SCRIPT.sub(" ", text))
    return " ".join(text.replace('"', "").split())


def unpacked_text(value: object) -> object:
    """What a list that was written out as text (``"['one', 'two']"``) stood for; other values as they are."""
    if isinstance(value, str) and value[:2] in ("['", '["', "[]") and value.endswith("]"):
        try:
            return ast.literal_eval(value)
        except (ValueError, SyntaxError):
            return value
    return value
