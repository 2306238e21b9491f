"""The report of integrity checks."""

from collections.abc import Sequence

from tasks.core.checks.definition import Finding, Verdict, failures, summary
from tasks.core.report.markdown import headline, section, table


def checks_verdict(database: str, findings: Sequence[Finding]) -> str:
    """Return the verdict on a database's integrity in one line."""
    failed = failures(findings)
    return f'{"FAIL" if failed else "PASS"}: database "{database}", {len(findings)} integrity checks: {summary(findings)}'


def finding_line(finding: Finding) -> str:
    """Return a finding as a sentence."""
    if finding.verdict in (Verdict.BROKEN, Verdict.NOT_RUN):
        return f"{finding.check} ({finding.verdict}): {finding.note}"
    samples = "".join(f"\n    - `{sample}`" for sample in finding.sample)
    more = "\n    - …" if finding.offending > len(finding.sample) else ""
    return f"**{finding.check}** ({finding.verdict}): {finding.offending:,} offending. {finding.note}{samples}{more}"


def checks_report(verdict: str, findings: Sequence[Finding]) -> str:
    """Return the report of an integrity check as markdown."""
    failed = failures(findings)
    remarkable = [finding for finding in findings if finding.is_remarkable and not finding.fails]
    rows = [(finding.check, finding.severity, f"{finding.offending:,}", finding.verdict) for finding in findings]
    parts = (
        headline(verdict),
        section("Failed", map(finding_line, failed)),
        section("Worth knowing", map(finding_line, remarkable)),
        "## All checks\n",
        table(["check", "severity", "offending", "verdict"], rows, right=(2,)) + "\n",
    )
    return "\n".join(part for part in parts if part)
