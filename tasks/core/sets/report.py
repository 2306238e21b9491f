"""The verdict on a set that was decoded."""

from collections.abc import Sequence

from tasks.core.report.markdown import duration
from tasks.core.sets.manifest import Manifest


def verification_verdict(manifest: Manifest, seconds: float, differences: Sequence[str]) -> str:
    """Return the one line that says whether a set is what it was when it was taken."""
    if differences:
        return f"FAIL: {manifest.id} is damaged in {len(differences)} relations"
    return f"PASS: {manifest.id} decoded in {duration(seconds)}, {manifest.rows:,} rows and every digest as in its manifest"
