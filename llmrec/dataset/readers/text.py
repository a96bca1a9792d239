"""Text as shops store it, made readable: HTML, lists, line breaks."""

import ast
import html
import re
from typing import Any

# only names of letters and digits: "<a_12>" is no HTML and stays as it is
_TAG = re.compile(r"</?[a-zA-Z][a-zA-Z0-9]*(?:\s[^<>]*)?/?>|<!--.*?-->", re.DOTALL)
_SCRIPT = re.compile(r"<(script|style)\b.*?</\1\s*>", re.DOTALL | re.IGNORECASE)


def clean_text(value: Any) -> str:
    """A text, or a list of texts, as one line without HTML (LC-Rec's cleaning, arXiv 2311.09049).

    Entities are unescaped, twice because some releases escaped them twice; scripts and tags go; white space becomes
    single blanks. Quotes stay, since in titles they mean inches. A missing value is the empty string.
    """
    if not isinstance(value, str):
        return clean_text(" ".join(str(part) for part in value)) if isinstance(value, list | tuple) else ""
    if "&" in value:
        value = html.unescape(html.unescape(value))
    if "<" in value:
        value = _TAG.sub(" ", _SCRIPT.sub(" ", value))
    return " ".join(value.split())


def unpacked_text(value: Any) -> Any:
    """What a list of texts that was written out as text (``"['one', 'two']"``) stood for; other values as they are."""
    if isinstance(value, str) and value[:2] in ("['", '["', "[]") and value.endswith("]"):
        try:
            return ast.literal_eval(value)
        except (ValueError, SyntaxError):
            return value
    return value
