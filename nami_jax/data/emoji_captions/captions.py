"""Readable captions from CLDR's short names of emoji.

The `emoji` package gives a name such as "keycap_1" or "man_red_hair" and aliases such as "point_up_2". `readable` and
`articled` turn the name into English, `plain_alias` does so for an alias or drops it.
"""

import collections
import re
import unicodedata

_NUMBERS = {1: "a", 2: "two", 3: "three", 4: "four"}
_PLURALS = {"man": "men", "woman": "women", "child": "children", "adult": "adults", "boy": "boys", "girl": "girls"}
_MEMBERS = r"(?: (?:man|woman|boy|girl|adult|child))+"

# Rewrites of whole names, the first that fits. CLDR writes "man: red hair", "keycap: 1"; the package drops the colon.
_REWRITES = (
    (r"keycap #", "keycap with a hash sign"),
    (r"keycap \*", "keycap with an asterisk"),
    (r"keycap (\d+)", r"keycap with the number \1"),
    (r"(\w+) button \(blood type\)", r"blood type \1 button"),
    (r"(man|woman|person) (red|white|blond|curly) hair", r"\1 with \2 hair"),
    (r"(man|woman|person) beard", r"\1 with a beard"),
    (r"(man|woman|person) bald", r"bald \1"),
    (r"(\w+ o'clock|\w+-thirty)", r"clock showing \1"),
    (r"1st place medal", "first place medal"),
    (r"2nd place medal", "second place medal"),
    (r"3rd place medal", "third place medal"),
)

# "the Bahamas", "the Isle of Man": countries that English names with an article.
_WITH_THE = re.compile(
    r"(United|British|Isle|European|Central African|Dominican|U\.S\.)\b|.*(Islands|Territory|Territories|Emirates)$"
    r"|(Bahamas|Comoros|Gambia|Maldives|Netherlands|Philippines|Seychelles)$"
)

# Alias spellings that are codes ("u7121", "cat2", "-1", "fu") or that nobody would say of the picture.
_CODE = re.compile(r".*\d|.{0,2}$|[-+].*|ng \w+$|harambe$|koko$|shit$|hankey$|hocho$|lower left .*|black .* triangle.*")

# Heads that take no article: mass nouns, activities, states, and phrases that are no noun at all.
_NO_ARTICLE = frozenset(
    "abcd away bacon badminton baggage baseball basketball bowling bread breast-feeding broccoli butter camping claim "
    "clothes construction control cooking copyright coral decreasing divide dizzy dna done exhaling fencing fire fog "
    "foggy food fuji garlic herb hockey horizontally ice increasing infinity information lacrosse landslide liquid "
    "locked lowercase luggage mate meat minus multiply off oden om plus polish pong popcorn prohibited racing "
    "radioactive rail registered rice root sake salad salt soap softball spaghetti star-struck sushi tennis unlocked "
    "up uppercase vertically volleyball voltage vomiting warning water wireless wood wrestling yang yarn zzz".split()
)
_NO_ARTICLE_FIRST = frozenset("children input no women".split())
_SPOKEN_WITH_VOWEL = frozenset("hourglass x-ray sos ng om".split())
_SPOKEN_WITH_CONSONANT = frozenset("unicorn ewe euro one-piece".split())
# What follows the head noun of a name.
_AFTER_HEAD = re.compile(
    r" (with|without|of|in|on|over|at|for|and|but|between|behind|showing|facing|fluttering|pointing|pointed) "
)


def readable(name: str, is_country: bool = False) -> str:
    """Writes a CLDR short name as a person would.

    Args:
        name: as `emoji.EMOJI_DATA[...]["en"]` has it, e.g. ":keycap_1:".
        is_country: the name is a country's or region's, and the emoji is its flag.

    Returns:
        e.g. "keycap with the number 1"; "flag of France" for a country.
    """
    text = name.strip(":").replace("_", " ").replace("’", "'").replace("!", "").replace("&", "and")
    if is_country:
        return f"flag of the {text}" if _WITH_THE.match(text) else f"flag of {text}"
    members = re.fullmatch(rf"(family|couple with heart|kiss)({_MEMBERS})", text)
    if members:
        joint = {"family": " of ", "couple with heart": ", ", "kiss": " between "}[members[1]]
        return members[1] + joint + _list_people(members[2].split())
    for pattern, replacement in _REWRITES:
        if re.fullmatch(pattern, text):
            return re.sub(pattern, replacement, text)
    return text


def _list_people(people: list[str]) -> str:
    """Turns ["man", "woman", "boy", "boy"] into "a man, a woman and two boys"."""
    counts = collections.Counter(people)
    words = [
        f"{'an' if person == 'adult' and n == 1 else _NUMBERS[n]} {person if n == 1 else _PLURALS[person]}"
        for person, n in counts.items()
    ]
    return " and ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else words)


def plain_alias(alias: str) -> str | None:
    """Writes an alias as words, or returns None where it is a code rather than English."""
    text = alias.strip(":").replace("_", " ").replace("’", "'").replace("&", "and")
    return None if _CODE.match(text) else text


def country_captions(name: str, aliases: list[str]) -> list[str]:
    """Returns the captions of a country's flag: "flag of France", "France flag", and the same for its other names."""
    others = [a.strip(":").removeprefix("flag_for_") for a in aliases if a.startswith(":flag_for_")]
    regions = [name.strip(":"), *others]
    return [caption for region in regions for caption in (readable(region, True), f"{readable(region)} flag")]


def articled(text: str) -> str | None:
    """Returns the name with its right article ("an avocado"), or None where English would put none.

    Args:
        text: a readable name; only its head noun decides, "leaf" in "leaf fluttering in wind".
    """
    head = _AFTER_HEAD.split(text)[0].split()
    first, last = head[0].lower(), head[-1].lower()
    plural = last.endswith(("s", "men", "people")) and not last.endswith(("ss", "us", "ros", "woman"))
    if plural or head[-1][0].isupper() or last in _NO_ARTICLE or first in _NO_ARTICLE_FIRST:
        return None
    vowel = first[0] in "aeiou" and first not in _SPOKEN_WITH_CONSONANT
    return f"{'an' if vowel or first in _SPOKEN_WITH_VOWEL else 'a'} {text}"


def unique(captions: list[str]) -> list[str]:
    """Drops later captions that differ from an earlier one only in case, hyphens or spaces."""
    seen: dict[str, str] = {}
    for caption in captions:
        seen.setdefault(spelling_key(caption), caption)
    return list(seen.values())


def spelling_key(caption: str) -> str:
    """Returns a caption without case, accents, hyphens, dots and spaces: "T-Rex" and "t rex" are one."""
    return re.sub(r"[^\w#*]|_", "", unicodedata.normalize("NFKD", caption.lower()))
