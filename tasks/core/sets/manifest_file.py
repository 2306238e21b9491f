"""A manifest's bytes: canonical JSON with a checksum, signed if there is a key, parsed strictly."""

import hashlib
import json
from typing import Any

from pydantic import ValidationError

from tasks.core.errors import DamagedSet
from tasks.core.sets.manifest import Manifest
from tasks.core.sets.signature import Signer, Trust
from tasks.core.values import complaint_about

MANIFEST_FILE = "manifest.json"
VERSION = 1
SEAL = frozenset({"sha256", "signature"})
# Before the body, and between the body and its seal.
BEGIN, END = b'{\n "manifest": ', b',\n "sha256": '


def render_manifest(manifest: Manifest, signer: Signer | None = None) -> bytes:
    """Return the stored manifest: canonical JSON with its own SHA-256, and its signature if any."""
    return _render(manifest.model_dump(mode="json", by_alias=True), signer)


def sign_manifest(data: bytes, signer: Signer) -> bytes:
    """Return an intact manifest's bytes with a new signature; the content stays the same."""
    return _signed(_opened(data)[0], signer)


def _render(body: object, signer: Signer | None) -> bytes:
    return _signed(_canonical(body), signer)


def _signed(plain: bytes, signer: Signer | None) -> bytes:
    signature = {"signature": signer.sign(plain)} if signer else {}
    return _sealed(plain, {"sha256": hashlib.sha256(plain).hexdigest(), **signature})


def _canonical(value: object) -> bytes:
    return (json.dumps(value, ensure_ascii=False, sort_keys=True, indent=1) + "\n").encode()


def _sealed(plain: bytes, seal: dict[str, Any]) -> bytes:
    """Return the canonical JSON of a body with its seal (checksum, and signature if any).

    The body is canonical JSON already, and is only indented.
    """
    body = plain.removesuffix(b"\n").replace(b"\n", b"\n ")
    return _canonical({"manifest": None, **seal}).replace(b": null", b": " + body, 1)


def _opened(data: bytes) -> tuple[bytes, dict[str, Any]]:
    """Split a text into body and seal, the reverse of `_sealed`.

    Rendering a manifest again to compare it would take ten times as long as reading it, and a
    listing reads all manifests.
    """
    body, mark, seal = data.removeprefix(BEGIN).partition(END)
    if not (data.startswith(BEGIN) and mark):
        # Not a manifest of this project, even if it is JSON.
        json.loads(data)
        return _canonical(None), {}
    return body.replace(b"\n ", b"\n") + b"\n", json.loads(b"{" + mark[1:] + seal)


def parse_manifest(data: bytes, where: str, trust: Trust | None = None) -> Manifest:
    """Return the manifest in these bytes.

    Raises:
        UntrustedSet: its signature is not trusted, or it has none and needs one.
        DamagedSet: the bytes are truncated, altered, or of a newer version.
    """
    try:
        plain, seal = _opened(data)
        body = json.loads(plain)
        intact = _sealed(plain, seal) == data and seal["sha256"] == hashlib.sha256(plain).hexdigest()
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise DamagedSet(f"{where}: the manifest cannot be read ({type(error).__name__}); restore another set") from error
    if not intact or not seal.keys() <= SEAL:
        raise DamagedSet(f"{where}: the manifest was altered (its checksum differs); restore another set")
    if trust and "signature" in seal:
        trust.require(seal["signature"], plain, where)
    elif trust:
        trust.require_signed(where)
    if not isinstance(body, dict) or body.get("version") != VERSION:
        body = body if isinstance(body, dict) else {}
        raise DamagedSet(
            f"{where}: the manifest has version {body.get('version')!r:.40}, this release reads only {VERSION}; use a newer one"
        )
    try:
        return Manifest.model_validate(body)
    except ValidationError as error:
        raise DamagedSet(f"{where}: the manifest is not valid: {complaint_about(error)}; restore another set") from error
