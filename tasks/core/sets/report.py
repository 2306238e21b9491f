"""The verdict on a decoded set."""

from collections.abc import Sequence

from tasks.core.report.markdown import duration
from tasks.core.sets.manifest import Manifest


def verification_verdict(manifest: Manifest, seconds: float, differences: Sequence[str]) -> str:
    """Return in one line whether a set matches its manifest."""
    if differences:
        return f"FAIL: {manifest.id} is damaged in {len(differences)} relations"
    return f"PASS: {manifest.id} decoded in {duration(seconds)}, {manifest.rows:,} rows and every digest as in its manifest"
