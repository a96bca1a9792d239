"""How the deterministic writer asks: the frames of each kind of query, years in words, and the choice among them."""

from collections.abc import Collection, Sequence
from random import Random

from llmrec.prompts.keywords import words_of

#: {wanted}, {unwanted}: noun phrases; {time}: "" or what follows a comma; {like}: a name; {things}: a plural.
FRAMES: dict[str, tuple[str, ...]] = {
    "question": (
        "Which {things} offer {wanted}{time}?",
        "What should I pick if I crave {wanted}{time}?",
        "Can anybody suggest {things} that have {wanted}{time}?",
        "Where might I find {wanted}{time}?",
        "Do you know {things} full of {wanted}{time}?",
        "Any {things} worth trying for {wanted}{time}?",
    ),
    "negation": (
        "{wanted}{time}, but without {unwanted}",
        "{wanted}{time}, yet no {unwanted}",
        "{things} that deliver {wanted}{time}, minus {unwanted}",
        "{wanted}{time}, please avoid {unwanted}",
        "anything featuring {wanted}{time}, just spare me {unwanted}",
    ),
    "knowledge": (
        "{things} that {wanted} fans would choose{time}",
        "whatever {wanted} might enjoy{time}",
        "suits admirers of {wanted}{time}",
        "{wanted} territory{time}",
        "{things} close to what {wanted} stood for{time}",
    ),
    "alternative": (
        "something similar to {like}, only less famous",
        "alternatives to {like} that hardly anybody talks about",
        "lesser-known {things} resembling {like}",
        "overlooked relatives of {like}",
        "if you enjoyed {like}, which obscure {things} come close?",
    ),
    "other_brand": (
        "something similar to {like}{features}, only cheaper",
        "affordable substitute for {like}{features}",
        "{things} like {like}{features}, lower price",
        "{like} costs too much, any cheaper equivalent{features}?",
    ),
    "described": (
        "what would somebody need for {wanted}?",
        "{things} used wherever {wanted} matter",
        "which {things} does an expert link to {wanted}?",
        "{things} known for {wanted}",
    ),
}
TIMES = (", made when {event}", ", made while {event}", ", dating back to when {event}", ", shot when {event}")
DATES = (", made during {date}", ", dated {date}", ", released {date}", ", {date} vintage")
JOINTS = (" plus ", " and ", ", ")

_UNITS = (
    *("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"),
    *("ten", "eleven", "twelve", "thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen"),
)
_TENS = ("twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety")
_PLURAL_TENS = ("hundreds", "tens", *(f"{ten[:-1]}ies" for ten in _TENS))


def allowed(options: Sequence[str], avoided: Collection[str]) -> list[str]:
    """The options none of whose words is to be avoided; slots such as ``{time}`` are no words."""
    return [option for option in options if not set(words_of(_without_slots(option))).intersection(avoided)]


def shuffled(options: Sequence[str], random: Random) -> list[str]:
    """The options in an order drawn from ``random``."""
    return random.sample(options, len(options))


def spelled_year(year: int) -> str:
    """1995 -> "nineteen ninety-five", 2005 -> "two thousand five"."""
    if 2000 <= year < 2010:
        return "two thousand" + (f" {_UNITS[year - 2000]}" if year > 2000 else "")
    century, rest = divmod(year, 100)
    if rest == 0:
        return f"{_spelled(century)} hundred"
    return f"{_spelled(century)} {'oh ' if rest < 10 else ''}{_spelled(rest)}"


def spelled_decade(year: int) -> str:
    """Any year of the decade, 1995 -> "nineteen nineties"."""
    if 2000 <= year < 2010:
        return "two thousands"
    return f"{_spelled(year // 100)} {_PLURAL_TENS[year % 100 // 10]}"


def _spelled(number: int) -> str:
    if number < 20:
        return _UNITS[number]
    tens = _TENS[number // 10 - 2]
    return tens if number % 10 == 0 else f"{tens}-{_UNITS[number % 10]}"


def _without_slots(text: str) -> str:
    for slot in ("things", "wanted", "unwanted", "time", "like", "features", "event", "date"):
        text = text.replace(f"{{{slot}}}", " ")
    return text
