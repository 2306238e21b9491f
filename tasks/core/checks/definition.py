"""Integrity checks: the format of their file, and their findings.

A check is a query that returns the offending rows; no rows mean that the check passes. In a
context's `checks.sql` each begins with comment lines:

    -- check: invoice_has_items           its name
    -- severity: error                    or warning, which fails no run
    -- needs: customers                   optional: skipped without this relation of another context
    -- repair: UPDATE invoices SET …      optional: corrects the rows, found in the table `broken`
    -- An invoice has items.              the rule, for people
    SELECT id AS invoice FROM invoices …  the first rows are shown: select no personal data
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from enum import StrEnum

from tasks.core.errors import BadInput

CHECKS_FILE = "checks.sql"
# Possessive quantifiers keep matching fast: the file in a set is read too, and may contain any
# text.
CHECK = re.compile(r"^--[ \t]*+check:(?P<name>.*)$", re.MULTILINE)
# The end of a query's last line: its semicolon, and a comment after it.
END = re.compile(r"(?<![; \t])[ \t]*+(;[ \t]*+)++(--.*)?\Z")
HEADER = re.compile(r"--\s*+(?:(?P<key>severity|needs|repair):\s*+)?(?P<text>.*)")
NAME = re.compile(r"\w[\w .-]{0,80}")


class Severity(StrEnum):
    """Whether offending rows fail the run."""

    ERROR = "error"
    WARNING = "warning"


class Verdict(StrEnum):
    """The result of a check."""

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
    """The finding of a check: the number of offending rows, and the keys of the first few."""

    check: str
    severity: Severity
    verdict: Verdict
    offending: int = 0
    sample: list[str] = field(default_factory=list)
    note: str = ""
    seconds: float = 0.0

    @property
    def fails(self) -> bool:
        """Whether the run fails: an error was found, or a check of severity error could not run."""
        return is_failure(self.severity, self.verdict)

    @property
    def is_remarkable(self) -> bool:
        """Whether somebody has to read this finding."""
        return self.verdict is not Verdict.OK

    @property
    def about_others(self) -> "Finding":
        """The same finding for a check on rows of other contexts.

        If they cannot be read, the check counts as not run, and the run does not fail.
        """
        if self.verdict is not Verdict.BROKEN:
            return self
        return replace(self, verdict=Verdict.NOT_RUN, note=f"not checked: {self.note}")


def is_failure(severity: Severity, verdict: Verdict) -> bool:
    """Return whether a run fails because a check has this severity and verdict."""
    return severity is Severity.ERROR and verdict in (Verdict.FAILED, Verdict.BROKEN)


def judge(check: Check, offending: int, sample: list[str], seconds: float = 0.0, note: str = "") -> Finding:
    """Return the finding of a check for a number of offending rows."""
    verdict = Verdict.OK if not offending else Verdict.FAILED if check.severity is Severity.ERROR else Verdict.WARNING
    return Finding(check.name, check.severity, verdict, offending, sample, note or (check.about if offending else ""), seconds)


def parse_checks(text: str, where: str) -> list[Check]:
    """Return the checks of a file.

    Raises:
        BadInput: a check has no name, severity or query, or the name of another check; the message
            names file, check and remedy.
    """
    pieces = CHECK.split(text.replace("\r\n", "\n"))
    if before := [line for line in pieces[0].splitlines() if line.strip() and not line.lstrip().startswith("--")]:
        raise BadInput(f'{where}: "{before[0].strip()}" belongs to no check; write "-- check: name" above it')
    checks = [_check(name.strip(), body, where) for name, body in zip(pieces[1::2], pieces[2::2], strict=True)]
    names = [check.name for check in checks]
    if doubled := sorted({name for name in names if names.count(name) > 1}):
        raise BadInput(f"{where}: duplicate check {doubled[0]}; rename one of them")
    return checks


def _check(name: str, body: str, where: str) -> Check:
    if not NAME.fullmatch(name):
        raise BadInput(f'{where}: "{name}" is not a valid check name (letters, digits, spaces, dots, dashes); correct it')
    lines = body.strip("\n").split("\n")
    count = next((number for number, line in enumerate(lines) if not line.lstrip().startswith("--")), len(lines))
    header = dict[str, str]()
    for line in lines[:count]:
        if match := HEADER.fullmatch(line.strip()):
            key = match["key"] or "about"
            header[key] = f"{header[key]} {match['text']}" if key in header else match["text"]
    query = _query(lines[count:])
    if header.get("severity") not in list(Severity):
        raise BadInput(
            f'{where}: check {name} has no valid severity; write "-- severity: error" or "-- severity: warning" below its name'
        )
    if not query:
        raise BadInput(f"{where}: check {name} has no query; write a SELECT of the offending rows, or remove the check")
    needs = tuple(word.strip() for word in header.get("needs", "").split(",") if word.strip())
    repair = header.get("repair", "").rstrip("; ")
    return Check(name, Severity(header["severity"]), query, header.get("about", ""), needs, repair)


def _query(lines: list[str]) -> str:
    """Return the query without its semicolon and without comments before the next check."""
    while lines and (not lines[-1].strip() or lines[-1].lstrip().startswith("--")):
        lines = lines[:-1]
    return END.sub("", "\n".join(lines).strip()).rstrip()


def failures(findings: Iterable[Finding]) -> list[Finding]:
    """Return the findings that fail a run."""
    return [finding for finding in findings if finding.fails]


def summary(findings: Iterable[Finding]) -> str:
    """Return the number of checks by result, for example `58 ok, 2 FAILED, 1 warning`."""
    verdicts = [finding.verdict for finding in findings]
    return ", ".join(f"{verdicts.count(verdict)} {verdict}" for verdict in Verdict if verdict in verdicts) or "no checks"
