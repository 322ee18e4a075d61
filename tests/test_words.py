"""Names are compared as their readers compare them: what one types on a Mac, on Windows or in capitals is one name."""

import sys
import unicodedata

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cbsae_hub.words import clean_name, closest_names, name_key, number, same_name, words_of

TEXT = st.text(st.characters(exclude_categories=["Cs"]))
# Letters, marks, joiners and symbols of scripts that treat them in ways of their own, close together.
MIXED = st.text(
    st.sampled_from(
        "aAéßẞİıIiſŉς'’ʼ-‐_ .:1٣²＋ｶﾞﬁ猫ねแมำकख्ািറബאبـﷺ❤👩🚀\u0301\u0307\u0345\u05b0\u200b\u200c\u200d\ufe0f\ufeff"
    )
)

SAME = [
    ("café", "cafe\u0301"),
    ("CAFÉ", "cafe\u0301"),
    ("\ufeffcat", "Cat"),
    ("ca\u00adt", "cat"),
    (" striped\u00a0\t fur\u200b ", "Striped fur"),
    ("ＣＡＴ ６", "cat 6"),
    ("ﾊﾞｽ", "バス"),
    ("oﬃce", "office"),
    ("ﻛﻠﺐ", "كلب"),
    ("كـلب", "كلب"),
    ("ΟΔΟΣ", "οδος"),
    ("STRAẞE", "straße"),
    ("İstanbul", "istanbul"),
    ("i\u0307stanbul", "istanbul"),
    ("bird’s nest", "bird's nest"),
    ("м’ята", "мʼята"),
    ("t\u2011shirt", "T-shirt"),
    ("❤\ufe0f", "❤"),
    ("Auf\u200clage", "Auflage"),
    ("한국", unicodedata.normalize("NFD", "한국")),
]
APART = [
    ("किला", "काला"),  # fort, black
    ("दिन", "दीन"),  # day, poor
    ("Maße", "Masse"),  # dimensions, mass
    ("ılık", "ilik"),  # lukewarm, marrow
    ("schon", "schön"),
    ("año", "ano"),
    ("かぎ", "かき"),  # key, oyster
    ("ねこ", "ネコ"),
    ("ספר", "סַפָּר"),
    ("سِنّ", "سُنّ"),
    ("അവന്\u200d", "അവന്"),  # he, to him
    ("র\u200d্যাম", "র্যাম"),  # RAM, and no word
    ("نامه\u200cای", "نامهای"),  # a letter, names of (UAX #31)
    ("10²", "102"),
    ("C++", "C"),
    ("C#", "C"),
    ("50%", "50"),
    ("👩\u200d🚀", "👩🚀"),
    ("🏴\U000e0067\U000e0062\U000e0065\U000e006e\U000e0067\U000e007f", "🏴"),  # England's flag
    ("海上", "上海"),
    ("แมว", "มแว"),
    ("3.5", "5.3"),
]


@pytest.mark.parametrize(("one", "other"), SAME)
def test_two_spellings_of_a_word_are_one(one, other):
    assert name_key(one) == name_key(other) and same_name(one, other)
    assert words_of(one) == words_of(other)


@pytest.mark.parametrize(("one", "other"), APART)
def test_words_that_a_speaker_tells_apart_stay_apart(one, other):
    assert name_key(one) != name_key(other) and not same_name(one, other)
    assert sorted(words_of(one)) != sorted(words_of(other))


@pytest.mark.parametrize(
    "nothing",
    ["", " \t", "\u200b", "\ufeff", "\u00ad \u2060", "\u200d", "\ufe0f", "\u202e", "\x00", "\u3164", "\U000e0041"],
)
def test_what_nobody_sees_is_no_name(nothing):
    assert clean_name(nothing) == name_key(nothing) == ""
    assert words_of(nothing) == []


def test_a_name_keeps_what_its_readers_see():
    assert clean_name("\ufeff Piñata\u200b  Grande ") == "Piñata Grande"
    for name in ("ＣＡＴ", "Straße", "❤\ufe0f", "👩\u200d🚀", "نامه\u200cای", "bird’s nest", "كـلب"):
        assert clean_name(name) == name


@settings(deadline=None)  # other tests share the processor
@given(TEXT | MIXED)
def test_keys_know_one_normal_form(text):
    key, clean = name_key(text), clean_name(text)
    assert name_key(key) == name_key(clean) == key and clean_name(clean) == clean
    assert unicodedata.is_normalized("NFC", key) and unicodedata.is_normalized("NFC", clean)
    assert name_key(unicodedata.normalize("NFD", text)) == name_key(unicodedata.normalize("NFC", text)) == key
    assert words_of(key) == words_of(text)


@settings(deadline=None)  # other tests share the processor
@given(TEXT | MIXED, TEXT | MIXED)
def test_the_words_of_two_texts_are_those_of_each(one, other):
    assert words_of(f"{one} {other}") == words_of(one) + words_of(other)


@settings(deadline=None)  # other tests share the processor
@given(st.text(st.characters(min_codepoint=32, max_codepoint=126)))
def test_keys_of_ascii_names_are_small_letters_and_single_spaces(text):
    assert name_key(text) == " ".join(text.lower().split())
    assert clean_name(text) == " ".join(text.split())


@pytest.mark.slow
def test_the_case_of_no_letter_counts():
    """But for letters that one cannot tell from their capitals: ẞ and SS, ı and I, ŉ and ʼN."""
    for letter in map(chr, range(sys.maxunicode + 1)):
        if unicodedata.category(letter) in ("Cn", "Co", "Cs"):  # no letter, and most of all code points
            continue
        key = name_key(letter)
        assert name_key(key) == key
        if len(letter.upper()) == 1 and letter != "ı":
            assert name_key(letter.upper()) == key, hex(ord(letter))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("Striped Dogs!", ["striped", "dog"]),
        ("glass bus", ["glass", "bus"]),
        ("Boxes, cherries", ["box", "cherry"]),
        ("the bird’s nests", ["the", "bird", "nest"]),
        ("the birds' nest", ["the", "bird", "nest"]),
        ("can't", ["can't"]),
        ("t-shirt night_sky", ["t", "shirt", "night", "sky"]),
        ("L’eau d'or de l'hôtel", ["l", "eau", "d", "or", "de", "l", "hôtel"]),
        ("м'ята", ["м'ята"]),
        ("צה״ל", ["צה״ל"]),
        ("col·legi", ["col·legi"]),
        ("dog.n.01 mr.bean a:b", ["dog", "n", "01", "mr", "bean", "a", "b"]),
        ("3.5 1,000", ["3.5", "1,000"]),
        ("किला, काला।", ["किला", "काला"]),
        ("வீடு", ["வீடு"]),
        ("မြန်မာ", ["မြန်မာ"]),
        ("cafe\u0301s", ["café"]),
        ("כֶּלֶב", ["כֶּלֶב"]),
        ("แมวดำ", ["แมวดำ"]),
        ("黒い猫、犬", ["黒い猫", "犬"]),
        ("Tシャツ", ["t", "シャツ"]),
        ("한국어 단어", ["한국어", "단어"]),
        ("❤️ 👩‍🚀", ["❤", "👩‍🚀"]),
        ("C++", ["c", "+", "+"]),
        ("C#, F#: 50%! #cat 100 % dogs' #1", ["c#", "f#", "50%", "cat", "100", "dog", "1"]),
    ],
)
def test_words(text, words):
    assert words_of(text) == [unicodedata.normalize("NFC", word) for word in words]


def test_the_closest_names_are_given_as_they_are_written():
    names = ["Café", "Straße", "Pizza"]
    assert closest_names("CAFE\u0301", names, 1) == ["Café"]
    assert closest_names("STRASSE", names, 3)[0] == "Straße"
    assert closest_names("piza", names, 3)[0] == "Pizza"


def test_numbers_are_short():
    shown = [number(value) for value in (None, 2048, 2048.0, 1.0, 0.12345, -3.5)]
    assert shown == ["", "2,048", "2,048", "1.000", "0.123", "-3.500"]
    assert [number(value, missing="-") for value in (None, float("nan"), float("inf"), -12.0, np.float32(0.5))] == [
        "-", "-", "inf", "-12", "0.500",
    ]  # fmt: skip
