"""Signatures of manifests: Ed25519 (RFC 8032), https://cryptography.io/en/latest/hazmat/primitives/asymmetric/ed25519/.

The signed text is the manifest, byte for byte, and the address of the store that it was written
for. The manifest names context, kind, id, base and instants of its set, and every object with size
and SHA-256, so that the signature covers the whole set.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Literal

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
    load_pem_public_key,
)
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from tasks.core.errors import BadInput, UntrustedSet

NEW_KEY = "make a pair of keys: python -m deployments.sign --new-key FOLDER"
SIGNED_FOR = "BACKUP_SIGNED_FOR"
# Part of the signed text, so that a signature made for another purpose is never valid for a
# manifest.
PURPOSE = "signature of a backup set's manifest, version 1"
PEM_BLOCK = re.compile(r"-----BEGIN ([A-Z0-9 ]+)-----.*?-----END \1-----", re.DOTALL)
SHORT = 16


class Signature(BaseModel):
    """A manifest's signature; `key` is the raw public key's SHA-256, both hexadecimal."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    algorithm: Literal["ed25519"]
    key: str = Field(pattern=r"^[0-9a-f]{64}$")
    store: str = Field(pattern=r"^[^\n]+$")
    value: str = Field(pattern=r"^[0-9a-f]{128}$")


def _message(store: str, body: bytes) -> bytes:
    """Return the signed text: unique, as a store's address has no line break."""
    return f"{PURPOSE}\n{store}\n".encode() + body


def key_id(key: Ed25519PublicKey) -> str:
    """Return the SHA-256 of a public key's 32 bytes, hexadecimal."""
    return sha256(key.public_bytes_raw()).hexdigest()


@dataclass(frozen=True)
class Signer:
    """Signs manifests of sets of one store."""

    key: Ed25519PrivateKey = field(repr=False)
    store: str

    @property
    def public_key(self) -> Ed25519PublicKey:
        """The public key with which signatures by this signer are verified."""
        return self.key.public_key()

    def sign(self, body: bytes) -> dict[str, str]:
        """Return the signature of a manifest's canonical bytes, as it is stored."""
        if "\n" in self.store:
            raise BadInput("the address of the store has a line break; correct BACKUP_STORE")
        value = self.key.sign(_message(self.store, body)).hex()
        return Signature(algorithm="ed25519", key=key_id(self.public_key), store=self.store, value=value).model_dump()


@dataclass(frozen=True)
class Trust:
    """The keys whose signatures are trusted; without keys all sets are accepted.

    `stores` are the addresses that a set may have been signed for: the store's own, and those of
    stores of which it is a copy. `unsigned` accepts sets without a signature, but never a wrong
    signature.
    """

    keys: tuple[Ed25519PublicKey, ...] = ()
    stores: tuple[str, ...] = ()
    unsigned: bool = False

    @property
    def refuses_unsigned(self) -> bool:
        """Whether a set has to be signed."""
        return bool(self.keys) and not self.unsigned

    def require_signed(self, where: str) -> None:
        """Refuse a set without signature, if one is required.

        Raises:
            UntrustedSet: the set has no signature, so that anybody may have written it.
        """
        if self.refuses_unsigned:
            raise UntrustedSet(
                f"{where} is not signed, and BACKUP_VERIFY_KEY is set; restore another set, or, if "
                "you know where it comes from, sign it (python -m deployments.sign SET) or pass "
                "trust_unsigned"
            )

    def require(self, signature: object, body: bytes, where: str) -> None:
        """Check that a manifest's signature is of one of the keys, this manifest and this store.

        Raises:
            UntrustedSet: the signature is not valid; it is not known who wrote the set.
        """
        if not self.keys:
            return
        try:
            parsed = Signature.model_validate(signature)
        except ValidationError as error:
            raise UntrustedSet(f"{where}: its signature is malformed (or made by a newer release); restore another set") from error
        key = next((key for key in self.keys if key_id(key) == parsed.key), None)
        if key is None:
            accepted = ", ".join(key_id(key)[:SHORT] for key in self.keys)
            raise UntrustedSet(
                f"{where} is signed with key {parsed.key[:SHORT]}, BACKUP_VERIFY_KEY has "
                f"{accepted}; restore another set, or, if that key is one of yours, add its public "
                "key to the file"
            )
        try:
            key.verify(bytes.fromhex(parsed.value), _message(parsed.store, body))
        except InvalidSignature as error:
            raise UntrustedSet(
                f"{where}: its signature does not match: it was changed after it was signed; restore another set"
            ) from error
        if parsed.store not in self.stores:
            raise UntrustedSet(
                f"{where} was signed for store {parsed.store}, not for this one; restore another "
                "set, or, if this store is a copy of it that you made, export "
                f"{SIGNED_FOR}={parsed.store}"
            )


def parse_signing_key(pem: bytes, where: str) -> Ed25519PrivateKey:
    """Return a private key.

    Raises:
        BadInput: the file has no private key, or the key has a passphrase or is not an Ed25519 key.
    """
    try:
        key = load_pem_private_key(pem, password=None)
    except TypeError:
        raise BadInput(
            f"{where} is encrypted, and scheduled runs cannot type a passphrase; decrypt it into a "
            "separate file, 0600: openssl pkey -in ENCRYPTED -out KEY"
        ) from None
    except (ValueError, UnsupportedAlgorithm):
        raise BadInput(f"{where} has no private key in PEM format (-----BEGIN PRIVATE KEY-----); {NEW_KEY}") from None
    if not isinstance(key, Ed25519PrivateKey):
        raise BadInput(f"{where} has a key of another kind ({_kind(key)}), Ed25519 is needed; {NEW_KEY}")
    return key


def parse_verify_keys(pem: bytes, where: str) -> tuple[Ed25519PublicKey, ...]:
    """Return the public keys of a file, one PEM block after the other.

    Raises:
        BadInput: the file has no public key, or a key that is not a public Ed25519 key.
    """
    if keys := tuple(_verify_keys(pem.decode("ascii", "replace"), where)):
        return keys
    raise BadInput(f"{where} has no public key in PEM format (-----BEGIN PUBLIC KEY-----); {NEW_KEY}")


def _verify_keys(pem: str, where: str) -> Iterator[Ed25519PublicKey]:
    for block in PEM_BLOCK.finditer(pem):
        if block[1] != "PUBLIC KEY":
            raise BadInput(
                f"{where} has a {block[1]}, only public keys are allowed; write the public one: openssl pkey -in KEY -pubout"
            )
        try:
            key = load_pem_public_key(block[0].encode())
        except (ValueError, UnsupportedAlgorithm):
            raise BadInput(f"{where} has a public key that cannot be read; {NEW_KEY}") from None
        if not isinstance(key, Ed25519PublicKey):
            raise BadInput(f"{where} has a key of another kind ({_kind(key)}), Ed25519 is needed; {NEW_KEY}")
        yield key


def _kind(key: object) -> str:
    return type(key).__name__.removesuffix("PrivateKey").removesuffix("PublicKey")


def new_key_pair() -> tuple[bytes, bytes]:
    """Return a new private key and its public key, in PEM format."""
    key = Ed25519PrivateKey.generate()
    return (
        key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()),
        key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo),
    )
