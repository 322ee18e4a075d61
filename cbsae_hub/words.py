"""Names of concepts in all scripts: how they are written, which of them are the same, and what their words are."""

import difflib
import unicodedata
from collections.abc import Iterable, Sequence

import regex

LINES = ".txt"  # suffix of a file with a text a line

# Characters that nobody sees, but for those that tell words or symbols apart: joiners where UAX #31 says so (beside a
# virama, and the non-joiner where Arabic letters would join), and what pictographs consist of.
_INVISIBLE = regex.compile(
    r"""
    (?! (?<=\p{ccc=9} \p{M}*) [\u200c\u200d] | [\u200c\u200d] (?=\p{M}* \p{ccc=9}) )
    (?! (?<=[\p{jt=D}\p{jt=L}\u0640] \p{jt=T}*) \u200c (?=\p{jt=T}* [\p{jt=D}\p{jt=R}\u0640]) )
    (?! (?<=[\p{Extended_Pictographic}\U0001f3fb-\U0001f3ff\ufe0f]) \u200d (?=\p{Extended_Pictographic}) )
    (?! (?<=[^\p{Default_Ignorable_Code_Point}\p{Cc}\s]) \p{Variation_Selector} )
    (?! (?<=\p{Extended_Pictographic} [\U000e0020-\U000e007f]*) [\U000e0020-\U000e007f] )
    [[\p{Default_Ignorable_Code_Point}\p{Cc}]--\s]
    """,
    regex.VERSION1 | regex.VERBOSE,
)
# How a character is drawn, not which one it is: colours of pictographs, and Arabic letters made longer.
_DRAWN = regex.compile(r"[\p{Variation_Selector}\u0640]")
# Copies of letters for old screens: ligatures, Arabic forms, full and half width. NFKC of everything would also make
# 102 of 10², and 1 of ①.
_COPIES = {code: unicodedata.normalize("NFKC", chr(code)) for code in range(0xFB00, 0xFFF0)}
_DOTTED = regex.compile(r"i\u0307+")  # what case folding makes of İ
_KEYBOARDS = str.maketrans("’ʼ‐‑", "''--")

_UNSPACED = r"[\p{LB=SA}\p{Han}\p{Hiragana}\p{Katakana}ー]"  # scripts without spaces between words
# UAX #29, with French and Italian apostrophes (its rule WB5a), full stops and colons between words ("dog.n.01"), and
# signs that belong to what they follow ("C#", "50%").
# Its single characters of scripts without spaces are no words, so these stay together.
_BOUNDARY = regex.compile(
    rf"\b(?!(?={_UNSPACED})(?<={_UNSPACED}\p{{M}}*)|(?<=[\p{{L}}\p{{N}}])[#%])"
    r"|(?=[.:])(?<=\p{L}\p{M}*)|(?<=[.:])(?=\p{L})"
    r"|(?=[aeiouyhàáâäèéêëìíîïòóôöùúûüœæ])(?<=\p{Latin}')",
    regex.VERSION1 | regex.WORD,
)
_IS_WORD = regex.compile(r"[\p{L}\p{N}\p{So}\p{Sm}\p{Sc}]")
_IS_UNSPACED = regex.compile(_UNSPACED)


def clean_name(name: str) -> str:
    """A name as it is kept and shown: in NFC, without invisible characters, with single spaces; perhaps nothing."""
    return " ".join(unicodedata.normalize("NFC", _INVISIBLE.sub("", name)).split())


def name_key(name: str) -> str:
    """One key for all spellings of a name: case, normal form, width and invisible characters do not count.

    Unicode's canonical caseless match (The Unicode Standard, D145), with these decisions:

    - ß stays apart from ss, as "Maße" and "Masse" are two words; ẞ is its capital.
    - İ is the capital of i, and I that of i in every language: "ılık" and "ilik" stay apart, but the capitals of
      "ılık" cannot be told from those of "ilik".
    - Accents, vowel signs and vowel points count.
    - Typographic apostrophes and hyphens are those of a keyboard.
    """
    text = _DRAWN.sub("", clean_name(name).translate(_COPIES))
    parts = unicodedata.normalize("NFD", text).replace("ẞ", "ß").split("ß")
    folded = _DOTTED.sub("i", "ß".join(part.casefold() for part in parts))
    return clean_name(folded).translate(_KEYBOARDS)


def same_name(one: str, other: str) -> bool:
    """Whether two texts spell one name, see :func:`name_key`."""
    return name_key(one) == name_key(other)


def words_of(text: str) -> list[str]:
    """Words in the form of :func:`name_key`, English plurals cut: ``"Striped dogs!" -> ["striped", "dog"]``.

    Words end where Unicode says (UAX #29). Symbols and pictographs are words. Thai, Chinese, Japanese and others that
    have no spaces between words are one word as far as nothing stands between them.
    """
    pieces = name_key(text).replace("_", " ").split()
    parts = (part for piece in pieces for part in _parts(piece) if _IS_WORD.search(part))
    return [_singular(part.strip("'")) for part in parts]


def has_part(word: str, part: str) -> bool:
    """Whether a word begins with a part of at least three letters; without spaces, whether it has it anywhere."""
    if _IS_UNSPACED.match(part):
        return part in word
    return len(part) >= 3 and word.startswith(part)


def closest_names(name: str, names: Iterable[str], count: int) -> list[str]:
    """The names whose spelling is closest, best first."""
    keys = {name_key(one): one for one in names}
    return [keys[key] for key in difflib.get_close_matches(name_key(name), keys, count, cutoff=0.4)]


def _parts(piece: str) -> list[str]:
    # Most are plain words, and the general rules take ten times as long.
    return [piece] if piece.isascii() and piece.isalnum() else _BOUNDARY.split(piece)


def _singular(word: str) -> str:
    if word.endswith("'s"):
        return word[:-2]
    if len(word) > 3 and word.endswith("ies"):
        return word[:-3] + "y"
    if len(word) > 4 and word.endswith(("ches", "shes", "sses", "xes")):
        return word[:-2]
    if len(word) > 3 and word.endswith("s") and not word.endswith(("ss", "us", "is")):
        return word[:-1]
    return word


def some(names: Sequence[str], limit: int = 5) -> str:
    """The first of many names, and how many more there are."""
    return ", ".join(names[:limit]) + (f" and {len(names) - limit} more" if len(names) > limit else "")


def number(value: float | None, digits: int = 3, missing: str = "") -> str:
    """A number for people: with separators of thousands if it is whole and not small, else with decimals.

    ``missing`` is the text for None and NaN.
    """
    if value is None or value != value:
        return missing
    whole = isinstance(value, int) or (float(value).is_integer() and abs(value) >= 10)
    return f"{value:,.0f}" if whole else f"{value:.{digits}f}"
