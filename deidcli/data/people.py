"""Guess whether a name is a person's. For warnings only: a false alarm costs one line."""

from __future__ import annotations

import os
import re

_GIVEN_TEXT = """
aaron adam ahmed aisha alan albert alex alexander alexandra ali alice amanda amy ana andrea
andreas andrew angela ann anna anne anthony antonio arthur barbara ben benjamin bob brian bruno
camille carl carla carlos carmen caroline catherine charles charlotte chen chloe chris christian
christina christine claire clara claudia daniel david deborah dennis diana diego donald dorothy
edward elena elizabeth emily emma eric erik eva fatima felix fernando francesca francesco frank
frederic gabriel george giovanni giulia hannah hans harry hassan heather helen henry hiroshi hugo
ian ibrahim ingrid isabel isabella ivan jack jacob james jan jane janet jason jean jennifer
jessica jim joan joe johan johann johannes john jonathan jorge jose joseph juan julia julie karen
karl katherine kenneth kevin klaus larry lars laura laurent linda lisa louis louise lucas lucia
luis luisa marco margaret maria marie mario martha martin mary matthew michael michelle miguel
mohamed mohammed muhammad nancy natalie nicolas nina oliver olivia omar pablo pamela patricia
patrick paul paula pedro peter philip pierre rachel raj ralph ravi rebecca richard robert roger
ronald ruth ryan samantha samuel sandra sara sarah scott sergio simon sofia sophia sophie stefan
stephanie stephen steven susan svetlana tanaka teresa thomas timothy tom tomas ursula valentina
victor victoria vincent vladimir walter wei werner william wolfgang yuki yusuf zoe
"""
_NO_NAMES_TEXT = """
a actor adult album aligned all and annotated april at august autumn avenue back backup bad batch
beach big birthday boy camera capture child children christmas city class clean club college
company conference copy crop cropped crops data dataset day december demo desktop dev documents
download downloads east easter edited el evaluation event examples export face faces family
february female file files final first folder forest fort frame frames friday friends from front
full gallery game garden girl good great group high holiday holidays home hong house image images
img in island january july june kong la lake las last left les los low main male man march may
meeting men middle monday mount mountain museum my new night no north not november october of
office old on one original originals other out output outputs park part party patient people
person photo photos pic picture pictures place port portrait portraits raw real resized right rio
river road room russian saint sample samples san santa saturday scan scans scene scenes school
screen screenshot screenshots sea second september set sets shoot shot shots show side sky small
south speaker split spring st street studio subject summer sunday sunset team test tests the three
thursday town train training trip tuesday tunnel two unknown untitled up user valid validation
video videos view village visit walk web wedding wednesday week weekend west winter with woman
women work world year yes york zoo
"""
_GIVEN = frozenset(_GIVEN_TEXT.split())
"""Common given names from many places."""
_NO_NAMES = frozenset(_NO_NAMES_TEXT.split())
"""Common words in folder and file names."""


def names_person(name: str) -> bool:
    """Return whether a path component looks like a name: `Jane Doe`, `jane_doe`, `Doe, Jane 3`.

    It does if it has two to four words without digits (except numbers at the end), and either all
    are capitalized and none is common in folder names, or the first (or last) is a well-known given
    name.
    """
    stem, extension = os.path.splitext(name)
    if not re.fullmatch(r"\.[A-Za-z0-9]{2,7}", extension):
        stem = name
    apart = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", stem)  # JaneDoe
    words = [word for word in re.split(r"[\s_.,+()-]+", apart) if word]
    while words and re.fullmatch(r"\d+", words[-1]):
        words.pop()
    if not 2 <= len(words) <= 4 or not all(re.fullmatch(r"[^\W\d_]+'?[^\W\d_]*", w) for w in words):
        return False
    plain = [word.lower() for word in words]
    if plain[0] in _GIVEN or (plain[-1] in _GIVEN and not _NO_NAMES & set(plain)):
        return not _NO_NAMES & set(plain[1:])
    capitalized = all(word[0].isupper() and not word.isupper() for word in words if len(word) > 1)
    return capitalized and not _NO_NAMES & set(plain) and any(len(word) > 2 for word in words)


def has_given_name(name: str) -> bool:
    """Return whether one of the name's words is a well-known given name."""
    return not _GIVEN.isdisjoint(re.split(r"[\W\d_]+", name.lower()))


def names_people(key: str) -> bool:
    """Return whether any component of a path looks like a person's name."""
    return any(names_person(part) for part in key.split("/"))
