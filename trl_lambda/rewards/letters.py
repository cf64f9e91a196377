r"""Upper and lower case: one symbol, unless a text has a letter in both.

A model that writes `v` for the gold `V` means the same; in `\frac{R}{r}` and `M - m` the case is
the only difference between two symbols.
"""

import re

from trl_lambda.rewards.spelling import TEXT

_GREEK = ("Gamma", "Delta", "Theta", "Lambda", "Xi", "Sigma", "Upsilon", "Phi", "Psi", "Omega")
_COMMAND = re.compile(r"\\([a-zA-Z]+)")
# Commands whose argument is a name, not a product of letters.
_NAMED = rf"{TEXT}|\\(?:begin|end|mathbb|mathcal|mathfrak|mathscr)\s*\{{[^{{}}]*\}}"
_TOKEN = re.compile(rf"{_NAMED}|\\(?P<command>[a-zA-Z]+)|(?P<letters>[a-zA-Z]+)")

_WORDS = re.compile(
    r"(?:\\text(?:bf|rm|it)?\s*\{)?\s*(?P<words>[a-zA-Z]{4,}(?:[ -][a-zA-Z]+)*)\s*\}?"
)

# A run of letters of this length is a word.
_WORD_LENGTH = 4


def same_words(gold: str, answer: str) -> bool:
    r"""Whether both are the same words, as `\text{East}` and `east` are."""
    words = _WORDS.fullmatch(gold), _WORDS.fullmatch(answer)
    return all(words) and words[0]["words"].lower() == words[1]["words"].lower()


def letters_in_both_cases(text: str) -> frozenset[str]:
    """The letters, and names of Greek letters, that a text has in upper and in lower case."""
    found: set[str] = set()
    for token in _TOKEN.finditer(text):
        if token["command"]:
            found.add(token["command"])
        elif token["letters"] and len(token["letters"]) < _WORD_LENGTH:
            found.update(token["letters"])
    uppers = {name for name in found if name in _GREEK or (len(name) == 1 and name.isupper())}
    return frozenset(name.lower() for name in uppers if name.lower() in found)


def with_case(text: str, cased: frozenset[str]) -> str:
    r"""The text with the letters in lower case that do not have two cases; `E` stays, beside e."""

    def spelled(token: re.Match[str]) -> str:
        command, letters = token["command"], token["letters"]
        if letters:
            return "".join(_spelled_letter(letter, cased) for letter in letters)
        if command == "Gamma" and "gamma" in cased:
            return r"\mathit{GAMMA}"  # The parser has one constant for both gammas.
        if command in _GREEK and command.lower() not in cased:
            return token[0].lower()
        return token[0]

    return _TOKEN.sub(spelled, text)


def _spelled_letter(letter: str, cased: frozenset[str]) -> str:
    return letter if letter == "E" or letter.lower() in cased else letter.lower()
