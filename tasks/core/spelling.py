"""The spelling of names, types and foreign keys in PostgreSQL's catalog.

Texts of a set may become part of a statement only if they have this spelling: ruleutils.c prints
these in one form only, so that a text in another form was not written by PostgreSQL
(https://www.postgresql.org/docs/current/functions-info.html#FUNCTIONS-INFO-CATALOG).
"""

import re

# A quoted name may contain anything; possessive quantifiers keep matching fast for long texts.
_NAME = r'(?:[^\W\d][\w$]*+|"(?:[^"\x00]|"")++")'
IDENTIFIER = re.compile(_NAME)
QUALIFIED = re.compile(rf"{_NAME}(?:\.{_NAME})?+")
PARENTS = re.compile(rf"{QUALIFIED.pattern}(?:,{QUALIFIED.pattern})*+")
COLUMN = re.compile(rf"(?:{_NAME}\.){{1,2}}+{_NAME}")
# numeric(5,2), timestamp(3) without time zone[], public."an odd one"; in brackets only numbers.
TYPE = re.compile(r'(?:[\w$ .]|"(?:[^"\x00]|"")++"|\((?:-?\d++)(?:,-?\d++)*+\)|\[\])++')

_COLUMNS = rf"\((?:PERIOD )?+{_NAME}(?:, (?:PERIOD )?+{_NAME})*+\)"
_PLAIN_COLUMNS = rf"\({_NAME}(?:, {_NAME})*+\)"
_ACTION = rf"(?:NO ACTION|RESTRICT|CASCADE|SET (?:NULL|DEFAULT)(?: {_PLAIN_COLUMNS})?+)"
FOREIGN_KEY = re.compile(
    rf"FOREIGN KEY {_COLUMNS} REFERENCES (?:ONLY )?+{QUALIFIED.pattern}{_COLUMNS}(?: MATCH (?:FULL|PARTIAL|SIMPLE))?+"
    rf"(?: ON UPDATE {_ACTION})?+(?: ON DELETE {_ACTION})?+(?: (?:NOT )?DEFERRABLE)?+(?: INITIALLY (?:DEFERRED|IMMEDIATE))?+"
    r"(?: NOT ENFORCED)?+(?: NOT VALID)?+"
)
ANY_NAME = re.compile(r'"(?:[^"]|"")++"|[^", ()]++')
PRIMARY_KEY = re.compile(rf"PRIMARY KEY \((?P<columns>(?:{ANY_NAME.pattern}|, )++)\)")
# Separates the facts of an object's state.
NEXT_FACT = " | "


def is_qualified(text: str) -> bool:
    """Return whether a text is a relation's name as SQL writes it, with or without its schema."""
    return QUALIFIED.fullmatch(text) is not None


def foreign_key_of(state: str) -> str | None:
    """Return the foreign key that a constraint's state begins with, or None for another kind.

    Raises:
        ValueError: the text begins like a foreign key, but is not spelled as PostgreSQL spells one.
    """
    if not state.startswith("FOREIGN KEY"):
        return None
    match = FOREIGN_KEY.match(state)
    if not match or not f"{state[match.end() :]}{NEXT_FACT}".startswith(NEXT_FACT):
        raise ValueError("not a foreign key as PostgreSQL spells it")
    return match[0]
