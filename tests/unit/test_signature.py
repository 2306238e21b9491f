"""A signed manifest is accepted as it was written, for the store it was written for, and in no other form."""

import json
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, rsa
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)
from hypothesis import given
from hypothesis import strategies as st

from deployments.sign import make_keys
from tasks.core.errors import BadInput, DamagedSet, UntrustedSet
from tasks.core.sets.manifest import Manifest
from tasks.core.sets.manifest_file import parse_manifest, render_manifest, sign_manifest
from tasks.core.sets.name import Kind
from tasks.core.sets.signature import SIGNED_FOR, Signer, Trust, key_id, new_key_pair, parse_signing_key, parse_verify_keys
from tasks.store.signing_keys import SIGNING_KEY, VERIFY_KEY, load_signer, load_trust
from tests.support.samples import manifest

STORE, COPY = "s3://bucket/prefix", "s3://copy/prefix"
KEY, OTHER = ed25519.Ed25519PrivateKey.generate(), ed25519.Ed25519PrivateKey.generate()
SIGNER = Signer(KEY, STORE)
TRUST = Trust((KEY.public_key(),), (STORE,))
SIGNED = render_manifest(manifest(), SIGNER)
UNSIGNED = render_manifest(manifest())


def parse(data: bytes, trust: Trust = TRUST) -> Manifest:
    return parse_manifest(data, "s3://bucket/set", trust)


def envelope(data: bytes = SIGNED) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(data)
    return found


def canonical(value: object) -> bytes:
    return (json.dumps(value, ensure_ascii=False, sort_keys=True, indent=1) + "\n").encode()


def test_a_signed_manifest_says_what_it_says_unsigned() -> None:
    assert parse(SIGNED) == parse_manifest(SIGNED, "") == parse(SIGNED, Trust()) == manifest()
    assert canonical({key: value for key, value in envelope().items() if key != "signature"}) == UNSIGNED
    assert sign_manifest(UNSIGNED, SIGNER) == SIGNED == sign_manifest(render_manifest(manifest(), Signer(OTHER, COPY)), SIGNER)


def test_what_an_older_release_wrote_is_signed_as_it_is() -> None:
    body = envelope(UNSIGNED)["manifest"]
    del body["block_rows"], body["losses"]
    old = rewritten(body)
    assert envelope(sign_manifest(old, SIGNER))["manifest"] == body
    assert parse(sign_manifest(old, SIGNER)) == manifest()


def rewritten(body: dict[str, Any], **more: Any) -> bytes:
    return canonical({"manifest": body, "sha256": sha256(canonical(body)).hexdigest(), **more})


def test_every_byte_is_covered() -> None:
    lenient = Trust(TRUST.keys, TRUST.stores, unsigned=True)
    for position in range(len(SIGNED)):
        data = bytearray(SIGNED)
        # Also what makes another case of a letter, or another digit.
        data[position] ^= (1, 0x20, 0x80, 4)[position % 4]
        with pytest.raises(DamagedSet):
            parse(bytes(data), lenient)


@given(st.binary(max_size=4), st.integers(0, len(SIGNED)), st.integers(0, 4))
def test_nothing_can_be_put_in_or_cut_out(inserted: bytes, position: int, cut: int) -> None:
    data = SIGNED[:position] + inserted + SIGNED[position + cut :]
    if data != SIGNED:
        with pytest.raises(DamagedSet):
            parse(data)


CHANGES: dict[str, Callable[[dict[str, Any]], object]] = {
    "id": lambda body: body.update(id="bc-004_full_20251104_020000_3f9c"),
    "context": lambda body: body.update(context="bc-005"),
    "kind": lambda body: body.update(kind=str(Kind.SAFETY)),
    "base": lambda body: body.update(base="bc-004_full_20251103_020000_3f9c"),
    "re-dated": lambda body: body["snapshot"].update(instant="2026-11-02T17:00:00Z"),
    "finished later": lambda body: body.update(finished="2026-11-02T17:00:00Z"),
    "newer log": lambda body: body["snapshot"].update(lsn="FF/1000"),
    "an object's bytes": lambda body: body["schema_list"].update(sha256="cd" * 32),
    "rows": lambda body: body["relations"][0].update(rows=4),
    "suspect no more": lambda body: body.update(losses=[""]),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_what_was_changed_with_the_right_checksum_is_refused(change: Callable[[dict[str, Any]], object]) -> None:
    body, signature = envelope()["manifest"], envelope()["signature"]
    change(body)
    with suppress(DamagedSet):
        # Without a key only what does not fit together is refused.
        assert parse_manifest(rewritten(body, signature=signature), "") != manifest()
    with pytest.raises(UntrustedSet, match=r"^s3://bucket/set: its signature does not match: it was changed after it was signed"):
        parse(rewritten(body, signature=signature))
    with pytest.raises(UntrustedSet, match=r"^s3://bucket/set is not signed, and BACKUP_VERIFY_KEY is set; .*trust_unsigned"):
        parse(rewritten(body))


def signature_with(**changes: Any) -> bytes:
    found = envelope()
    return canonical(found | {"signature": found["signature"] | changes})


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (UNSIGNED, "is not signed"),
        (render_manifest(manifest(), Signer(OTHER, STORE)), "is signed with key .*, BACKUP_VERIFY_KEY has"),
        (signature_with(key=key_id(OTHER.public_key())), "is signed with key"),
        (signature_with(store=COPY), "does not match"),
        (signature_with(value="0" * 128), "does not match"),
        (signature_with(value="0" * 126), "its signature is malformed"),
        (signature_with(value=envelope()["signature"]["value"].upper()), "its signature is malformed"),
        (signature_with(algorithm="none"), "its signature is malformed"),
        (signature_with(more=1), "its signature is malformed"),
        (canonical(envelope() | {"signature": None}), "its signature is malformed"),
        (canonical(envelope() | {"signature": [envelope()["signature"]]}), "its signature is malformed"),
        (canonical(envelope() | {"signatures": []}), "the manifest was altered"),
        (canonical({**envelope(UNSIGNED), "Signature": envelope()["signature"]}), "the manifest was altered"),
        (render_manifest(manifest(), Signer(KEY, COPY)), f"was signed for store {COPY}, .*export {SIGNED_FOR}={COPY}"),
    ],
)  # fmt: skip
def test_what_else_is_no_signature_of_ours(data: bytes, said: str) -> None:
    with pytest.raises(DamagedSet, match=said):
        parse(data)


def test_who_trusts_unsigned_sets_trusts_no_wrong_signature() -> None:
    lenient = Trust(TRUST.keys, TRUST.stores, unsigned=True)
    assert parse(UNSIGNED, lenient) == parse(SIGNED, lenient) == manifest()
    for data in (render_manifest(manifest(), Signer(OTHER, STORE)), signature_with(value="0" * 128), signature_with(store=COPY)):
        with pytest.raises(UntrustedSet):
            parse(data, lenient)


def test_keys_are_changed_one_after_the_other() -> None:
    both = Trust((OTHER.public_key(), KEY.public_key()), (STORE,))
    assert parse(SIGNED, both) == parse(render_manifest(manifest(), Signer(OTHER, STORE)), both) == manifest()


def test_a_copy_of_a_store_is_accepted_where_it_is_said_to_be_one() -> None:
    assert parse(SIGNED, Trust(TRUST.keys, (COPY, STORE))) == manifest()
    with pytest.raises(UntrustedSet, match="was signed for store s3://bucket/prefix, not for this one"):
        parse(SIGNED, Trust(TRUST.keys, (COPY,)))
    with pytest.raises(UntrustedSet):
        parse(SIGNED, Trust(TRUST.keys, (f"{STORE}/", STORE[:-1])))


# Key files


PKCS8 = partial(dict, encoding=Encoding.PEM, format=PrivateFormat.PKCS8, encryption_algorithm=NoEncryption())
RSA = rsa.generate_private_key(65537, 2048)
WRONG = {
    "RSA": (RSA.private_bytes(**PKCS8()), r"has a key of another kind \(RSA\), Ed25519 is needed"),
    "Ed448": (ed448.Ed448PrivateKey.generate().private_bytes(**PKCS8()), r"has a key of another kind \(Ed448\)"),
    "curve": (ec.generate_private_key(ec.SECP256R1()).private_bytes(**PKCS8()), "has a key of another kind"),
    "encrypted": (
        KEY.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"x")), "is encrypted, .*decrypt it"),
    "public": (KEY.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo), "has no private key in PEM format"),
    "text": (b"hello", "has no private key in PEM format"),
    "empty": (b"", "has no private key in PEM format"),
    "cut": (KEY.private_bytes(**PKCS8())[:70], "has no private key in PEM format"),
}  # fmt: skip


def written(folder: Path, pem: bytes, mode: int = 0o600) -> Path:
    file = folder / "key.pem"
    file.write_bytes(pem)
    file.chmod(mode)
    return file


@pytest.mark.parametrize(("pem", "said"), WRONG.values(), ids=WRONG)
def test_a_signing_key_that_is_none(pem: bytes, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(SIGNING_KEY, str(written(tmp_path, pem)))
    with pytest.raises(BadInput, match=f"^{SIGNING_KEY} {tmp_path}/key.pem {said}"):
        load_signer(STORE, Trust())


def public(key: Any) -> bytes:
    found: bytes = key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    return found


WRONG_PUBLIC = {
    "RSA": (public(RSA), r"another kind \(RSA\)"),
    "RSA after a good one": (public(KEY) + public(RSA), r"another kind \(RSA\)"),
    "private": (KEY.private_bytes(**PKCS8()), "has a PRIVATE KEY, only public keys are allowed"),
    "broken": (b"-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n", "cannot be read"),
    "empty": (b"", "has no public key in PEM format"),
    "bytes": (b"\xff\x00", "has no public key in PEM format"),
}


@pytest.mark.parametrize(("pem", "said"), WRONG_PUBLIC.values(), ids=WRONG_PUBLIC)
def test_a_verify_key_that_is_none(pem: bytes, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VERIFY_KEY, str(written(tmp_path, pem)))
    with pytest.raises(BadInput, match=f"^{VERIFY_KEY} {tmp_path}/key.pem .*{said}"):
        load_trust(STORE, unsigned=False)


@pytest.mark.parametrize("mode", [0o644, 0o604, 0o660, 0o602])
def test_a_private_key_that_others_can_read(mode: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = written(tmp_path, KEY.private_bytes(**PKCS8()), mode)
    monkeypatch.setenv(SIGNING_KEY, str(file))
    with pytest.raises(BadInput, match=rf"key.pem can be read by other accounts \(mode 0{mode:o}\); chmod 600 it"):
        load_signer(STORE, Trust())
    file.chmod(0o400)
    assert load_signer(STORE, Trust())


def test_verify_keys_that_everybody_may_write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VERIFY_KEY, str(written(tmp_path, public(KEY), 0o646)))
    with pytest.raises(BadInput, match=r"can be written by every account, .*; chmod 644 it"):
        load_trust(STORE, unsigned=False)


@pytest.mark.parametrize(("variable", "load"), [
    (SIGNING_KEY, lambda: load_signer(STORE, Trust())), (VERIFY_KEY, lambda: load_trust(STORE, unsigned=False)),
])  # fmt: skip
def test_files_that_are_missing_and_keys_instead_of_files(
    variable: str, load: Callable[[], object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for named in (tmp_path / "none.pem", tmp_path):
        monkeypatch.setenv(variable, str(named))
        with pytest.raises(BadInput, match=f"^{variable} {named}: .*; name the PEM file, or make a pair of keys"):
            load()
    monkeypatch.setenv(variable, KEY.private_bytes(**PKCS8()).decode())
    with pytest.raises(BadInput, match=f"^{variable} holds a key instead of the path of a file") as refused:
        load()
    assert KEY.private_bytes(**PKCS8()).decode().splitlines()[1] not in str(refused.value)


def test_new_keys_fit_each_other_and_nothing_is_overwritten(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    private, verifying = make_keys(tmp_path / "keys")
    assert [file.stat().st_mode & 0o777 for file in (private.parent, private)] == [0o700, 0o600]
    monkeypatch.setenv(SIGNING_KEY, str(private))
    monkeypatch.setenv(VERIFY_KEY, str(verifying))
    monkeypatch.setenv(SIGNED_FOR, f"{COPY}/ /srv/backup")
    trust = load_trust(STORE, unsigned=False)
    signer = load_signer(STORE, trust)
    assert signer and parse(render_manifest(manifest(), signer), trust) == manifest()
    assert trust.stores == (STORE, COPY, "/srv/backup")
    assert "PRIVATE" not in verifying.read_text("ascii")
    for lost in (private, verifying):
        kept = private.read_bytes(), verifying.read_bytes()
        lost.unlink()
        with pytest.raises(BadInput, match="exists already; name another folder"):
            make_keys(tmp_path / "keys")
        assert not lost.exists()
        for file, pem in zip((private, verifying), kept, strict=True):
            assert file == lost or file.read_bytes() == pem
            file.write_bytes(pem)
            file.chmod(0o600)
    (tmp_path / "file").touch()
    with pytest.raises(BadInput, match="name another folder"):
        make_keys(tmp_path / "file")


def test_a_key_whose_signatures_would_be_refused_signs_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(SIGNING_KEY, str(written(tmp_path, OTHER.private_bytes(**PKCS8()))))
    with pytest.raises(BadInput, match=f"{VERIFY_KEY} has no key that belongs to {SIGNING_KEY}"):
        load_signer(STORE, TRUST)


def test_without_keys_everything_is_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (SIGNING_KEY, VERIFY_KEY, SIGNED_FOR):
        monkeypatch.delenv(name, raising=False)
    trust = load_trust(STORE, unsigned=False)
    assert trust == Trust() and load_signer(STORE, trust) is None
    foreign = render_manifest(manifest(), Signer(OTHER, COPY))
    assert parse(UNSIGNED, trust) == parse(foreign, trust) == manifest()


def test_keys_do_not_show(tmp_path: Path) -> None:
    private, public_pem = new_key_pair()
    signer = Signer(parse_signing_key(private, "x"), STORE)
    assert parse_verify_keys(public_pem * 2, "x")[1] == signer.public_key
    assert "key" not in repr(signer).lower()
