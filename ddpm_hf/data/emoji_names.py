# Copyright 2026 The ddpm_hf authors. Licensed under the Apache License, Version 2.0.
"""Emoji in words, and their variants: skin tones, genders, hair, direction and colour (Unicode, UTS #51)."""

from __future__ import annotations

import re


JOINER = "\u200d"  # joins several characters into one emoji
VARIATIONS = frozenset("\ufe0e\ufe0f")  # text or picture
TONES = frozenset(map(chr, range(0x1F3FB, 0x1F400)))
# Parts of joined emoji that make a variant: gender, direction, hair, and the colour of a cat, a bird or a mushroom.
VARIANTS = frozenset("\u2640\u2642\u27a1🦰🦱🦳🦲⬛🟫🟩")
PERSON, CHILD, COUPLE, FAMILY = "🧑", "🧒", "👫", "👪"
SAME = {  # emoji and joined emoji without variants that differ in gender or age alone
    **dict.fromkeys("👨👩", PERSON),
    **dict.fromkeys("👦👧", CHILD),
    **dict.fromkeys("👴👵", "🧓"),
    **dict.fromkeys("🤴👸", "🫅"),
    **dict.fromkeys("🤰🫃", "🫄"),
    **dict.fromkeys("👬👭", COUPLE),
    "🤶": "🎅",
    "🧑\u200d🎄": "🎅",
    "🕺": "💃",
    "🧑\u200d🤝\u200d🧑": COUPLE,
    "🧑\u200d❤\u200d🧑": "💑",
    "🧑\u200d❤\u200d💋\u200d🧑": "💏",
    "🧑\u200d🐰\u200d🧑": "👯",
    "🧑\u200d🫯\u200d🧑": "🤼",
    "🫱\u200d🫲": "🤝",
}
TONE = re.compile(r" ((?:(?:medium-)?(?:light|dark)|medium) skin tone)")
REGIONS = range(0x1F1E6, 0x1F200)  # two of these letters are the flag of a country
TAGS = range(0xE0020, 0xE0080)  # these letters are the flag of a part of a country


def base_of(emoji: str) -> str:
    """The emoji that this one is a variant of: without skin tone, gender, hair, direction and colour.

    All families have one base, and all couples of a kind. Two emoji are variants of each other if their bases are the
    same.
    """
    plain = "".join(character for character in emoji if character not in TONES | VARIATIONS)
    first, *others = plain.split(JOINER)
    parts = [first, *(part for part in others if part not in VARIANTS)]
    parts = [SAME.get(part, part) for part in parts]
    if len(parts) > 1 and {PERSON, CHILD}.issuperset(parts):
        return FAMILY
    base = JOINER.join(parts)
    return SAME.get(base, base)


def caption_of(emoji: str, name: str) -> str:
    """A caption from the name of an emoji in the package `emoji`, such as `:red_heart:` for "red heart"."""
    words = name.strip(":").replace("_", " ").replace("’", "'")
    words = TONE.sub(r", \1", words).replace("skin tone ", "skin tone, ")
    return f"flag of {words}" if any(ord(letter) in (*REGIONS, *TAGS) for letter in emoji) else words
