"""Letters of words: count them, turn them round, shift them back."""

from __future__ import annotations

import random
import string

from frontload.tasks.families import Problem
from frontload.tasks.traces.gym import Entry, GymFamily, Work, swapped


class LetterCounting(GymFamily):
    """Count word by word with a running total; the check counts from the end."""

    name = "letter_counting"
    domain = "language"
    levels = tuple(
        {"min_words": low, "max_words": high}
        for low, high in ((2, 4), (4, 6), (6, 9), (9, 12), (12, 16))
    )
    chance = 0.44
    """The letter was picked because it occurs, so 1 is a good guess in short texts."""

    def work(self, entry: Entry) -> Work:
        words, letter = entry["metadata"]["span"], entry["metadata"]["target_letter"]
        counts = [(word, word.lower().count(letter)) for word in words]
        return Work(_totals(counts), _totals(counts[::-1]))


class SpellBackward(GymFamily):
    """Letters apart, in the opposite order, together."""

    name = "spell_backward"
    domain = "language"
    levels = tuple(
        {"min_word_len": low, "max_word_len": high}
        for low, high in ((3, 4), (5, 5), (6, 6), (7, 8), (9, 10))
    )

    def work(self, entry: Entry) -> Work | None:
        word = entry["metadata"]["word"]
        if word == word[::-1]:
            return None  # nothing to turn round
        steps = [f"letters: {' '.join(word)}", f"from the end: {' '.join(word[::-1])}"]
        back = [f"{len(word)} letters, first {word[-1]}, last {word[0]}"]
        return Work([*steps, word[::-1]], back)

    def mistake(self, rng: random.Random, problem: Problem) -> str:
        return "".join(swapped(rng, list(problem.answer)))


class CaesarCipher(GymFamily):
    """Try shifts on the longest word until English comes out, then shift back every word.

    The texts are 142 to 319 sentences of one story; a sentence is held out in all its shifts.
    """

    name = "caesar_cipher"
    domain = "language"
    levels = tuple(
        {"min_words": 3, "max_words": words, "max_rotation": rotation}
        for words, rotation in ((8, 3), (8, 6), (12, 10), (20, 25))
    )

    def core(self, entry: Entry) -> str:
        return entry["metadata"]["clear_text"]

    def work(self, entry: Entry) -> Work | None:
        known = entry["metadata"]
        cipher, rotation = known["cipher_text"], known["rotation"]
        if not known["clear_text"].isascii():
            return None  # an Ë, which reasoning-gym turns into some plain letter for good
        words = cipher.split()
        longest = max(words, key=len)
        steps = [f"shift {by}: {longest} -> {shifted(longest, -by)}" for by in range(1, rotation)]
        steps += [f"shift {rotation}: {word} -> {shifted(word, -rotation)}" for word in words]
        checks = [f"{word} + {rotation} -> {shifted(word, rotation)}" for word in
                  known["clear_text"].split()]  # fmt: skip
        return Work([*steps, shifted(cipher, -rotation)], checks)

    def mistake(self, rng: random.Random, problem: Problem) -> str:
        letters = list(problem.answer)
        place = rng.choice([i for i, letter in enumerate(letters) if letter != " "])
        letters[place] = rng.choice(string.ascii_uppercase)
        return "".join(letters)


def shifted(text: str, by: int) -> str:
    """Capital letters moved `by` places round the alphabet, the rest as it is."""
    letters = string.ascii_uppercase
    by %= len(letters)
    return text.translate(str.maketrans(letters, letters[by:] + letters[:by]))


def _totals(counts: list[tuple[str, int]]) -> list[str]:
    lines, total = [], 0
    for word, count in counts:
        total += count
        lines.append(f"{word}: {count}, total {total}")
    return lines
