"""Signing sets that are already in a store.

Each set is verified first; the content of its manifest stays the same.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field, replace

from prefect import get_run_logger

from tasks.core.errors import BadInput, OperationError, UntrustedSet
from tasks.core.sets.manifest_file import MANIFEST_FILE, parse_manifest, sign_manifest
from tasks.core.sets.name import SetName, parse_set_reference
from tasks.core.sets.signature import NEW_KEY, Signer, Trust
from tasks.run.run import Run, step
from tasks.sets.listing import list_sets
from tasks.sets.marks import WARM_CLASS
from tasks.sets.verify import decode_set
from tasks.store.address import StoreAddress
from tasks.store.signing_keys import SIGNING_KEY, load_signer


@dataclass
class Signing:
    """The signing of a store's sets: those signed now, how many before, and why others are not."""

    signed: list[str] = field(default_factory=list)
    already: int = 0
    refused: list[str] = field(default_factory=list)

    @property
    def verdict(self) -> str:
        """The outcome in one line."""
        counts = f"{len(self.signed)} sets signed, {self.already} were signed already, {len(self.refused)} are not signed"
        return "; ".join([f"{'FAIL' if self.refused else 'SIGNED'}: {counts}", *self.refused])


def signing_store(store: StoreAddress) -> StoreAddress:
    """Return the address of a store whose sets will be signed.

    Through it, sets without a signature can be read too.

    Raises:
        BadInput: BACKUP_SIGNING_KEY is not set.
    """
    signer = load_signer(store.url, store.trust)
    if signer is None:
        raise BadInput(f"{SIGNING_KEY} is not set; name the private key's file, or {NEW_KEY}")
    return replace(store, signer=signer)


def named_sets(store: StoreAddress, context: str, references: Iterable[str]) -> list[SetName]:
    """Return the sets that an operator named.

    Raises:
        BadInput: a set does not exist, or belongs to another context.
    """
    names = list[SetName]()
    for reference in references:
        name = parse_set_reference(reference, context, store.url)
        if name is None or store.opened.head(f"{name.folder}/{MANIFEST_FILE}") is None:
            raise BadInput(f'there is no set "{reference}" in {store.url}; name it by its id, as list_backups shows it')
        names.append(name)
    return names


def sign_sets(store: StoreAddress, run: Run, named: Iterable[SetName]) -> Signing:
    """Sign the named sets of a store, or all sets.

    Sets that cannot be verified are reported and not signed. If signatures are required, a set
    without a signature is signed only if it was named, because anybody may have written it.
    """
    signing, chosen = Signing(), {*named}
    names = [name.name for name in list_sets(store, run.context).sets]
    for name in [name for name in names if name in chosen] if chosen else names:
        try:
            if sign_set(store, run, name, named=bool(chosen)):
                signing.signed.append(name.id)
            else:
                signing.already += 1
        except OperationError as error:
            signing.refused.append(str(error))
            get_run_logger().error("not signed: %s", error)
    return signing


@step(name="sign {name.id}")
def sign_set(store: StoreAddress, run: Run, name: SetName, *, named: bool) -> bool:
    """Verify a set and sign its manifest with the signing key.

    Return False if it already has a signature by that key.

    Raises:
        UntrustedSet: the set has another signature, or has none and was not named.
        DamagedSet: the set differs from its manifest.
        ColdObject: the set has to be thawed first.
    """
    signer = _signer_of(store)
    key, where = f"{name.folder}/{MANIFEST_FILE}", store.path(name.folder)
    data = store.opened.read(key)
    if _is_signed(data, where, Trust((signer.public_key,), (signer.store,))):
        return False
    own = replace(store.trust, keys=store.trust.keys or (signer.public_key,), stores=store.trust.stores or (signer.store,))
    if not named and store.trust.keys:
        parse_manifest(data, where, own)
    reading = replace(store, trust=replace(own, unsigned=True))
    manifest = decode_set(reading, run, name.id).manifest
    # If somebody replaced the manifest meanwhile, another set was verified than would be signed.
    if parse_manifest(data, where, reading.trust) != manifest or store.opened.read(key) != data:
        raise OperationError(f"{where}: the manifest changed while the set was verified; find out who writes there")
    _replace(store, key, sign_manifest(data, signer))
    get_run_logger().info("%s is signed", where)
    return True


def _replace(store: StoreAddress, key: str, data: bytes) -> None:
    store.opened.replace(key, data, WARM_CLASS)
    if store.opened.read(key) != data:
        raise OperationError(f"{store.path(key)}: manifest read-back mismatch; run again")


def _signer_of(store: StoreAddress) -> Signer:
    assert store.signer  # noqa: S101
    return store.signer


def _is_signed(data: bytes, where: str, trust: Trust) -> bool:
    try:
        parse_manifest(data, where, trust)
    except UntrustedSet:
        return False
    return True
