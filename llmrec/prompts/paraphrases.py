"""Other words for what a catalogue's categories are called: a book for MovieLens, and the reader of your own."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from llmrec.schema import DataError

Phrases = Mapping[str, tuple[str, ...]]


class ParaphraseBook(NamedTuple):
    """What the deterministic writer knows about a kind of catalogue.

    Attributes:
        things: what its items are called, in the plural.
        phrases: category -> noun phrases that mean it.
        hints: what takes knowledge: category -> names that stand for it; year ("1995") or decade ("1990s") -> events
            of it, as in "when ... ".
    """

    things: tuple[str, ...]
    phrases: Phrases
    hints: Phrases


#: For catalogues without a book: difficult queries are then made from descriptions alone.
GENERAL_BOOK = ParaphraseBook(("products", "articles", "models", "goods"), {}, {})

_GENRES = {
    "Action": ("chases plus explosions", "fist fights", "stunts that never let up", "relentless shootouts"),
    "Adventure": ("perilous journeys", "treasure hunts", "daring expeditions", "far-off quests"),
    "Animation": ("cartoon characters", "hand-drawn figures", "painted frames instead of actors", "cartoons"),
    "Children's": ("fun suited to kids", "stories that eight-year-olds enjoy", "entertainment safe for youngsters"),
    "Comedy": ("belly laughs", "silly gags", "jokes throughout", "slapstick humour", "witty banter"),
    "Crime": ("gangsters", "bank robbers", "mobsters", "heists", "detectives chasing thieves"),
    "Documentary": ("real people instead of actors", "non-fiction footage", "factual reporting", "true interviews"),
    "Drama": ("heavy emotions", "serious human conflict", "weighty family troubles", "hard moral choices"),
    "Fantasy": ("magic spells", "wizards", "mythical creatures", "enchanted kingdoms"),
    "Film-Noir": ("cynical private eyes", "femmes fatales", "shadowy black-and-white streets", "trench coats"),
    "Horror": ("scares that keep me awake", "monsters", "haunted houses", "blood-curdling screams"),
    "Musical": ("songs that carry everything", "singing plus dancing", "big choreography", "show tunes"),
    "Mystery": ("whodunit puzzles", "unexplained disappearances", "clues to piece together", "enigmas"),
    "Romance": ("people falling for each other", "tender courtship", "sweethearts", "passionate kisses"),
    "Sci-Fi": ("spaceships", "aliens", "robots", "futuristic technology", "imagined tomorrows"),
    "Thriller": ("nail-biting suspense", "unbearable tension", "cat-and-mouse danger", "edge-of-your-seat plots"),
    "War": ("soldiers under fire", "battlefields", "trenches full of troops", "clashing armies"),
    "Western": ("cowboys", "saloons", "gunslingers on horseback", "frontier towns", "sheriffs"),
}
_NAMES = {
    "Action": ("Bruce Lee", "Jackie Chan", "Chuck Norris"),
    "Adventure": ("Ernest Shackleton", "Marco Polo", "Ferdinand Magellan"),
    "Animation": ("Walt Disney", "Chuck Jones", "Hayao Miyazaki"),
    "Children's": ("Roald Dahl", "Astrid Lindgren", "Beatrix Potter"),
    "Comedy": ("Charlie Chaplin", "Buster Keaton", "Monty Python"),
    "Crime": ("Al Capone", "Lucky Luciano", "Bugsy Siegel"),
    "Documentary": ("David Attenborough", "Jacques Cousteau", "Robert Flaherty"),
    "Drama": ("Henrik Ibsen", "Anton Chekhov", "Tennessee Williams"),
    "Fantasy": ("Gandalf", "Merlin", "Tolkien"),
    "Film-Noir": ("Philip Marlowe", "Raymond Chandler", "Dashiell Hammett"),
    "Horror": ("Stephen King", "Bram Stoker", "Bela Lugosi"),
    "Musical": ("Fred Astaire", "Oscar Hammerstein", "Stephen Sondheim"),
    "Mystery": ("Agatha Christie", "Hercule Poirot", "Sherlock Holmes"),
    "Romance": ("Jane Austen", "Casanova", "Barbara Cartland"),
    "Sci-Fi": ("Isaac Asimov", "Jules Verne", "Ray Bradbury"),
    "Thriller": ("Alfred Hitchcock", "Patricia Highsmith", "Robert Ludlum"),
    "War": ("Erwin Rommel", "Douglas MacArthur", "Georgy Zhukov"),
    "Western": ("Wyatt Earp", "Jesse James", "Buffalo Bill"),
}
_EVENTS = {
    "1920s": ("jazz bands played speakeasies", "silent pictures gave way to talkies"),
    "1930s": ("breadlines marked Great Depression cities", "Franklin Roosevelt launched his New Deal"),
    "1940s": ("Churchill led Britain against Hitler", "atomic bombs fell upon Hiroshima"),
    "1950s": ("Sputnik first orbited Earth", "Eisenhower governed America", "Elvis Presley rose to fame"),
    "1960s": ("Beatlemania swept Europe", "Apollo astronauts first walked upon lunar soil", "hippies met at Woodstock"),
    "1970s": ("disco ruled dance floors", "Watergate toppled Richard Nixon", "Saigon fell"),
    "1980s": ("Margaret Thatcher governed Britain", "Walkmans were everywhere", "Ronald Reagan held office"),
    "1990s": ("grunge bands topped charts", "dial-up modems beeped", "Bill Clinton became president"),
    "1980": ("Moscow hosted Olympic athletes", "John Lennon was shot", "Mount St Helens erupted"),
    "1981": ("Prince Charles married Diana", "Columbia became NASA's first shuttle to fly", "IBM sold its first PC"),
    "1982": ("Argentina invaded Falkland islands", "Italy beat Germany at football's World Cup"),
    "1983": ("Sally Ride flew to orbit", "Motorola's first handheld phone was approved"),
    "1984": ("Apple introduced its Macintosh", "Indira Gandhi was assassinated", "Sarajevo hosted winter athletes"),
    "1985": ("Live Aid filled Wembley stadium", "Gorbachev took over from Chernenko"),
    "1986": ("Chernobyl's reactor exploded", "Challenger broke apart after launch"),
    "1987": ("Black Monday shook stock markets", "Mathias Rust landed near Red Square"),
    "1988": ("Seoul hosted Olympic athletes", "Pan Am's jet exploded over Lockerbie"),
    "1989": ("Berlin's wall came down", "tanks rolled onto Tiananmen Square"),
    "1990": ("Nelson Mandela walked free", "Germany was reunited", "Iraq invaded Kuwait"),
    "1991": ("Gorbachev resigned", "Soviet rule ended", "Freddie Mercury died"),
    "1992": ("Barcelona hosted Olympic athletes", "Clinton defeated Bush"),
    "1993": ("Czechoslovakia split", "Maastricht's treaty created Europe's union"),
    "1994": ("Kurt Cobain died", "Lillehammer hosted winter athletes", "Channel tunnel trains began running"),
    "1995": ("eBay was founded", "O.J. Simpson was acquitted", "Yitzhak Rabin was assassinated"),
    "1996": ("Dolly became first cloned sheep", "Atlanta hosted Olympic athletes"),
    "1997": ("Hong Kong was handed back to China", "Princess Diana died", "Deep Blue defeated Kasparov"),
    "1998": ("France won its first football World Cup", "Google was founded", "Nagano hosted winter athletes"),
}
#: MovieLens' genres; the events also serve other films.
MOVIELENS_BOOK = ParaphraseBook(("films", "movies", "pictures", "titles"), _GENRES, {**_NAMES, **_EVENTS})


def read_paraphrases(path: str | Path) -> ParaphraseBook:
    """A book of your own: ``{"phrases": {category: [noun phrases]}, "hints": {category or year: [names]}, "things":
    [plurals]}`` as JSON; the last two may be left out.

    Raises:
        DataError: if the file is missing, no JSON, or of another form.
    """
    path = Path(path)
    try:
        content = json.loads(path.read_text())
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise DataError(f"{path} can't be read as JSON ({error}): correct it, or leave --paraphrases out.") from None
    if not isinstance(content, dict) or not content.keys() <= {"phrases", "hints", "things"}:
        raise DataError(f'{path} must hold one object with "phrases" and perhaps "hints" and "things".')
    things = _texts(path, "things", content.get("things", list(GENERAL_BOOK.things)))
    return ParaphraseBook(things, _book(path, content, "phrases"), _book(path, content, "hints"))


def _book(path: Path, content: dict[str, Any], key: str) -> Phrases:
    book = content.get(key, {})
    if not isinstance(book, dict):
        raise DataError(f"{path}: {key!r} holds {book!r:.80}; it must hold an object of category -> list of phrases.")
    return {category: _texts(path, f"{key}: {category}", texts) for category, texts in book.items()}


def _texts(path: Path, place: str, texts: Any) -> tuple[str, ...]:
    if not isinstance(texts, list) or not texts or not all(isinstance(text, str) and text.strip() for text in texts):
        raise DataError(f"{path}: {place!r} holds {texts!r:.80}; it must hold a list of one text or more.")
    return tuple(text.strip() for text in texts)
