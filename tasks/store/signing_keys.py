"""The keys that manifests are signed and verified with, from environment variables.

BACKUP_SIGNING_KEY is the path of a PEM file with a private key, or secret/NAME, a block in Prefect;
BACKUP_VERIFY_KEY is the path of a PEM file with public keys; BACKUP_SIGNED_FOR lists the stores of
which this store is a copy, separated by spaces.
"""

import os
import stat
from pathlib import Path
from typing import cast

from prefect.blocks.system import Secret
from prefect.logging import get_run_logger

from tasks.core.errors import BadInput
from tasks.core.sets.signature import NEW_KEY, SIGNED_FOR, Signer, Trust, key_id, parse_signing_key, parse_verify_keys

SIGNING_KEY = "BACKUP_SIGNING_KEY"
VERIFY_KEY = "BACKUP_VERIFY_KEY"
SECRET = "secret/"  # noqa: S105


def load_trust(store: str, *, unsigned: bool) -> Trust:
    """Return the keys with which sets of a store have to be signed.

    Without BACKUP_VERIFY_KEY all sets are accepted.

    Raises:
        BadInput: the file has no public keys, or every account may write it.
    """
    named = os.environ.get(VERIFY_KEY, "")
    if not named:
        return Trust()
    keys = parse_verify_keys(_read(VERIFY_KEY, named), f"{VERIFY_KEY} {named}")
    if Path(named).stat().st_mode & stat.S_IWOTH:
        raise BadInput(f"{VERIFY_KEY} {named} can be written by every account, which could add its own key; chmod 644 it")
    if unsigned:
        get_run_logger().warning("trust_unsigned: sets without a signature are accepted in this run, whoever wrote them")
    copied = (url.rstrip("/") for url in os.environ.get(SIGNED_FOR, "").split())
    return Trust(keys, (store, *copied), unsigned)


def load_signer(store: str, trust: Trust) -> Signer | None:
    """Return the signer of the sets of a store; None without BACKUP_SIGNING_KEY.

    Raises:
        BadInput: the key does not exist, other accounts can read it, or BACKUP_VERIFY_KEY has no
            key that verifies its signatures.
    """
    named = os.environ.get(SIGNING_KEY, "")
    if not named:
        return None
    where = f"{SIGNING_KEY} {named}" if "-----" not in named else SIGNING_KEY
    pem = _read_secret(named) if named.startswith(SECRET) else _read_private(named)
    signer = Signer(parse_signing_key(pem, where), store)
    own = key_id(signer.public_key)
    if trust.keys and own not in map(key_id, trust.keys):
        raise BadInput(
            f"{VERIFY_KEY} has no key that belongs to {SIGNING_KEY}: sets signed with these "
            "settings would be refused with them; add the public key to the file: openssl pkey -in "
            "KEY -pubout"
        )
    return signer


def _read_secret(reference: str) -> bytes:
    try:
        block = cast("Secret[str]", Secret.load(reference.removeprefix(SECRET)))
    except ValueError:
        raise BadInput(f"{SIGNING_KEY}: there is no block {reference}; create it in Prefect's UI, or name a file") from None
    return str(block.get()).encode()


def _read_private(path: str) -> bytes:
    data = _read(SIGNING_KEY, path)
    facts = Path(path).stat()
    # As in libpq for client keys: a file of root may be readable by its group.
    others = stat.S_IRWXO | (stat.S_IWGRP | stat.S_IXGRP if facts.st_uid == 0 else stat.S_IRWXG)
    if stat.S_IMODE(facts.st_mode) & others:
        raise BadInput(f"{SIGNING_KEY} {path} can be read by other accounts (mode {stat.S_IMODE(facts.st_mode):04o}); chmod 600 it")
    return data


def _read(variable: str, path: str) -> bytes:
    if "-----" in path:
        # The message must not quote the value: it may be the key.
        raise BadInput(
            f"{variable} holds a key instead of the path of a file; write the key into a file, and set {variable} to its path"
        )
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise BadInput(f"{variable} {path}: {error.strerror}; name the PEM file, or {NEW_KEY}") from None
