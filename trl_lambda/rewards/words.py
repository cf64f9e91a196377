"""The words that may stand after a number as its unit, and those that change what it says.

`5 dollars` and `42 marbles` are 5 and 42; `5 or 6 dollars`, `5 thousand`, `5 squared` and
`5 dollars less than 7` are not. A word is plain unless a list here says otherwise or it looks like
a product of variables: `ab`, `xyz`.
"""

import re
from collections.abc import Iterable

WORD = re.compile(r"[a-zA-Z]+(?:['’-][a-zA-Z]+)*")


def _listed(words: str) -> frozenset[str]:
    return frozenset(words.split())


# Each line: one unit in its spellings. Those of one or two letters are units only where a product
# of variables is out of the question, see `is_plain`.
_SPELLINGS = """
    s sec secs second seconds
    min mins minute minutes
    h hr hrs hour hours
    day days
    week weeks wk wks
    month months
    year years yr yrs
    mm millimeter millimeters millimetre millimetres
    cm centimeter centimeters centimetre centimetres
    dm decimeter decimeters decimetre decimetres
    m meter meters metre metres
    km kilometer kilometers kilometre kilometres
    in inch inches
    ft foot feet
    yd yds yard yards
    mi mile miles
    mg milligram milligrams
    g gram grams gm gms
    kg kgs kilogram kilograms kilo kilos
    oz ounce ounces fl
    lb lbs pound pounds
    ml milliliter milliliters millilitre millilitres
    cl centiliter centiliters centilitre centilitres
    l liter liters litre litres
    gal gallon gallons
    qt quart quarts
    pt pint pints
    dollar dollars us usd buck bucks
    cent cents
    euro euros eur
    rupee rupees rs
    degree degrees deg
    radian radians rad rads
    square sq
    cubic cu
    mph
    kph kmh kmph
    rpm
    hz khz mhz
    kw kwh
    kj kcal cal
    kpa atm psi
    mol mols mole moles
    ha hectare hectares
    kb mb gb tb
    unit units
    pts
"""
_NAMES = {
    spelling: line.split()[0]
    for line in _SPELLINGS.strip().splitlines()
    for spelling in line.split()
}

# Nouns of three letters; others of that length are taken for products of variables.
_SHORT_NOUNS = _listed(
    "ant bag bar bat bed bee boy bus can cap car cat cow cup day dog egg ewe fan fig fly fox guy "
    "hat hen ice jar jet job key kid lap leg log lot map mat men mug net nut oar ox pan pea pen "
    "per pet pie pig pin pot ram rat row rug sec set ski son sow tax tea tie tin toe ton top toy "
    "tub van way win yak zoo the age all oil old tip bit bug box new gas led red hot big fee gym "
    "art pop ham yen sea own eye rep pod oak gun vet mpg bpm kwh ghz"
)

# Words that offer another number, take from this one or multiply it, or make a sentence of it.
_CHANGING = _listed(
    """
    or and not nor either neither any except maybe perhaps possibly probably about around approx
    approximate approximately roughly nearly almost circa estimated than least most under over
    between within below above beyond up to through until negative minus plus divided
    multiplied squared cubed factorial modulo mod remainder choose root power base
    half halves third thirds fourth fourths fifth fifths sixth sixths seventh sevenths eighth
    eighths ninth ninths tenth tenths hundredth hundredths thousandth thousandths
    dozen dozens hundred hundreds thousand thousands million millions billion billions
    trillion trillions lakh lakhs crore crores grand
    zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen
    sixteen seventeen eighteen nineteen twenty thirty forty fifty sixty seventy eighty ninety
    quarter once twice double triple
    is are was were be been if unless when where while but though although because since however
    instead then so would could should might may cannot no none wrong incorrect unknown
    undefined infinite infinity imaginary otherwise else
    """
)
# Functions and constants that are written without their backslash.
_MATHEMATICS = _listed(
    "pi sin cos tan cot sec csc log ln exp sqrt max min gcd lcm inf infty frac cdot arcsin arccos "
    "arctan sinh cosh tanh theta alpha beta gamma delta omega sigma lambda"
)

# Between the words of a unit: 5 times a day, 5 of the marbles.
FILLERS = _listed("a an of at by on for from with")

_ORDINALS = _listed("st nd rd th")
_SINGLE_LETTERS = _listed("m s g h l L")
# Products of variables in other texts: 2mg, 2in.
_AMBIGUOUS = _listed("mg in mi pt rs qt kw cl ha cal us fl")


def changes_number(text: str) -> bool:
    """Whether a text beside a number offers another one, or makes the number less certain."""
    words = {word.lower() for word in WORD.findall(text)}
    return bool(words & _CHANGING) or re.search(r"(?<![\w^{-])\d", text) is not None


def is_plain(word: str, *, tight: bool, alone: bool, follows: bool = False) -> bool:
    """Whether a word after a number is a unit or a noun, and no product of variables.

    Args:
        word: Letters, with hyphens or apostrophes.
        tight: Whether the word follows the number without a blank, as in `5cm`.
        alone: Whether a single letter may be a unit: in an answer to a gold without variables.
        follows: Whether it follows another word, and so is no product itself: 5 packs of gum.
    """
    lower = word.lower()
    if len(word) == 1:
        return alone and word in _SINGLE_LETTERS
    if lower in _NAMES:
        return alone or lower not in _AMBIGUOUS or not tight
    if word in _ORDINALS:
        return alone and tight
    if tight or lower in _CHANGING or lower in _MATHEMATICS:
        return False
    if re.fullmatch("[A-Z]{2,4}s", word):  # TVs, CDs.
        return True
    shortest = 3 if follows else 4
    has_vowel = re.search("[aeiou]", lower) is not None
    return lower in _SHORT_NOUNS or (len(word) >= shortest and has_vowel)


def has_known_unit(words: Iterable[str]) -> bool:
    """Whether a unit that is no product of variables is among the words."""
    return any(
        len(word) > 1 and word.lower() in _NAMES and word.lower() not in _AMBIGUOUS
        for word in words
    )


def unit_name(text: str) -> str:
    """One name for all spellings of a unit: `hrs` and `hours` are `h`."""
    words = (word.lower() for word in WORD.findall(text))
    return " ".join(_NAMES.get(word, word.removesuffix("s")) for word in words)
