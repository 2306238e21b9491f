"""Integrity checks: what a file of them says, and what was found.

A check is a query that returns the offending rows; none means that all is well. In a context's `checks.sql` each begins with
comment lines:

    -- check: invoice_has_items           its name
    -- severity: error                    or warning, which fails no run
    -- needs: customers                   optional: relations of other contexts without which it is not run
    -- repair: UPDATE invoices SET …      optional: one statement that mends the rows, which it finds in the table `broken`
    -- An invoice has items.              what it says, for people
    SELECT id AS invoice FROM invoices …  columns of the first rows are shown as sample: keys, not personal data
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from enum import StrEnum

from tasks.core.errors import BadInput

CHECKS_FILE = "checks.sql"
# Quantifiers that give nothing back: a file of a set is read too, whatever stands in it.
CHECK = re.compile(r"^--[ \t]*+check:(?P<name>.*)$", re.MULTILINE)
# The end of a query's last line: its semicolon, and a comment behind it.
END = re.compile(r"(?<![; \t])[ \t]*+(;[ \t]*+)++(--.*)?\Z")
HEADER = re.compile(r"--\s*+(?:(?P<key>severity|needs|repair):\s*+)?(?P<text>.*)")
NAME = re.compile(r"\w[\w .-]{0,80}")


class Severity(StrEnum):
    """Whether offending rows fail the run."""

    ERROR = "error"
    WARNING = "warning"


class Verdict(StrEnum):
    """What became of a check."""

    OK = "ok"
    FAILED = "FAILED"
    WARNING = "warning"
    NOT_RUN = "not run"
    BROKEN = "CANNOT BE RUN"


@dataclass(frozen=True)
class Check:
    """A query that returns the offending rows."""

    name: str
    severity: Severity
    query: str
    about: str = ""
    needs: tuple[str, ...] = ()
    repair: str = ""


@dataclass(frozen=True)
class Finding:
    """What one check found: how many rows offend, and the keys of the first few."""

    check: str
    severity: Severity
    verdict: Verdict
    offending: int = 0
    sample: list[str] = field(default_factory=list)
    note: str = ""
    seconds: float = 0.0

    @property
    def fails(self) -> bool:
        """Whether the run fails for it: also when an important check could not be run."""
        return is_failure(self.severity, self.verdict)

    @property
    def is_remarkable(self) -> bool:
        """Whether a person has to read it."""
        return self.verdict is not Verdict.OK

    @property
    def about_others(self) -> "Finding":
        """The finding, where the rows are others': that they cannot be looked at fails no run, and is never said to be well."""
        if self.verdict is not Verdict.BROKEN:
            return self
        return replace(self, verdict=Verdict.NOT_RUN, note=f"not looked at: {self.note}")


def is_failure(severity: Severity, verdict: Verdict) -> bool:
    """Say whether a run fails for a check that came out so."""
    return severity is Severity.ERROR and verdict in (Verdict.FAILED, Verdict.BROKEN)


def judge(check: Check, offending: int, sample: list[str], seconds: float = 0.0, note: str = "") -> Finding:
    """Return what a number of offending rows means for a check."""
    verdict = Verdict.OK if not offending else Verdict.FAILED if check.severity is Severity.ERROR else Verdict.WARNING
    return Finding(check.name, check.severity, verdict, offending, sample, note or (check.about if offending else ""), seconds)


def parse_checks(text: str, where: str) -> list[Check]:
    """Return the checks of a file.

    Raises:
        BadInput: one has no name, no severity, no query, or the name of another; the message names file, check and remedy.
    """
    pieces = CHECK.split(text.replace("\r\n", "\n"))
    if before := [line for line in pieces[0].splitlines() if line.strip() and not line.lstrip().startswith("--")]:
        raise BadInput(f'{where}: "{before[0].strip()}" belongs to no check; write "-- check: name" above it')
    checks = [_check(name.strip(), body, where) for name, body in zip(pieces[1::2], pieces[2::2], strict=True)]
    names = [check.name for check in checks]
    if doubled := sorted({name for name in names if names.count(name) > 1}):
        raise BadInput(f"{where}: check {doubled[0]} stands there twice; give one another name")
    return checks


def _check(name: str, body: str, where: str) -> Check:
    if not NAME.fullmatch(name):
        raise BadInput(f'{where}: "{name}" is no name of a check (letters, digits, spaces, dots, dashes); correct it')
    lines = body.strip("\n").split("\n")
    count = next((number for number, line in enumerate(lines) if not line.lstrip().startswith("--")), len(lines))
    said = dict[str, str]()
    for line in lines[:count]:
        if found := HEADER.fullmatch(line.strip()):
            key = found["key"] or "about"
            said[key] = f"{said[key]} {found['text']}" if key in said else found["text"]
    query = _query(lines[count:])
    if said.get("severity") not in list(Severity):
        raise BadInput(
            f'{where}: check {name} says no severity; write "-- severity: error" or "-- severity: warning" below its name'
        )
    if not query:
        raise BadInput(f"{where}: check {name} has no query; write a SELECT of the offending rows, or remove the check")
    needs = tuple(word.strip() for word in said.get("needs", "").split(",") if word.strip())
    return Check(name, Severity(said["severity"]), query, said.get("about", ""), needs, said.get("repair", "").rstrip("; "))


def _query(lines: list[str]) -> str:
    """Return the query without its semicolon, and without comments that stand between it and the next check."""
    while lines and (not lines[-1].strip() or lines[-1].lstrip().startswith("--")):
        lines = lines[:-1]
    return END.sub("", "\n".join(lines).strip()).rstrip()


def failures(findings: Iterable[Finding]) -> list[Finding]:
    """Return the findings that fail a run."""
    return [finding for finding in findings if finding.fails]


def summary(findings: Iterable[Finding]) -> str:
    """Return how many checks came out how, for example `58 ok, 2 FAILED, 1 warning`."""
    verdicts = [finding.verdict for finding in findings]
    return ", ".join(f"{verdicts.count(verdict)} {verdict}" for verdict in Verdict if verdict in verdicts) or "no checks"
