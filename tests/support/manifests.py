"""Manifests, as they are written."""

import json


def canonical(value: object) -> bytes:
    """Return JSON as a manifest is written."""
    return (json.dumps(value, ensure_ascii=False, sort_keys=True, indent=1) + "\n").encode()
