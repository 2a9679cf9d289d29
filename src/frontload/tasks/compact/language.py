"""Compact work on letters and words; letters stand alone, since runs of letters would merge."""

from __future__ import annotations

import random

from frontload.tasks.compact.form import CompactFamily, listed
from frontload.tasks.families import Problem

_LETTERS = "abcdefghij"


class LetterAfter(CompactFamily):
    """`@b,d,a`: the letter after each. Checked by going back."""

    name = "letter_after"
    domain = "language"
    tag = "@"
    min_difficulty = 3
    answer_symbols = _LETTERS

    def make(self, rng: random.Random, difficulty: int, template: int) -> Problem:
        letters = rng.choices(_LETTERS[:-1], k=difficulty)
        after = [_LETTERS[_LETTERS.index(letter) + 1] for letter in letters]
        steps = [f"{a}>{b}" for a, b in zip(letters, after, strict=True)]
        return self.problem(listed(letters), listed(after), steps, listed(letters), difficulty)


class Dictionary(CompactFamily):
    """`Y1a,2c,3b:312`: translate with the dictionary given. Checked by translating back."""

    name = "dictionary"
    domain = "language"
    tag = "Y"
    answer_symbols = _LETTERS

    def make(self, rng: random.Random, difficulty: int, template: int) -> Problem:
        words = dict(zip(rng.sample("12345", 3), rng.sample(_LETTERS, 3), strict=True))
        text = rng.choices(list(words), k=difficulty)
        entries = [key + word for key, word in words.items()]
        steps = [key + words[key] for key in text]
        body = f"{listed(entries)}:{listed(text, '')}"
        answer = listed([words[key] for key in text])
        return self.problem(body, answer, steps, listed(text, ""), difficulty)


class Vowels(CompactFamily):
    """`%a,d,e,b`: how many vowels? Checked by adding the consonants."""

    name = "vowels"
    domain = "language"
    tag = "%"
    chance = 0.35

    def make(self, rng: random.Random, difficulty: int, template: int) -> Problem:
        letters = rng.choices("aaeeiibcdfgh", k=difficulty + 1)
        count, steps = 0, []
        for letter in letters:
            count += letter in "aei"
            steps.append(f"{letter}{count}")
        check = f"{count}+{len(letters) - count}={len(letters)}"
        return self.problem(listed(letters), count, steps, check, difficulty)


class AlphabetFirst(CompactFamily):
    """`~d,b,c`: which letter comes first in the alphabet? Checked by where it stands."""

    name = "alphabet_first"
    domain = "language"
    tag = "~"
    chance = 0.4
    answer_symbols = _LETTERS

    def make(self, rng: random.Random, difficulty: int, template: int) -> Problem:
        letters = rng.choices(_LETTERS, k=difficulty + 1)
        steps = [f"{letter}:{min(letters[: end + 1])}" for end, letter in enumerate(letters)]
        first = min(letters)
        place = letters.index(first) + 1
        return self.problem(listed(letters), first, steps, str(place), difficulty)
