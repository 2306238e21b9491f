"""Signing the sets that a store has already: each is decoded first, and what its manifest says stays as it is, byte for byte."""

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
    """What became of the sets of a store: those that were signed, those that were so already, and why others are not."""

    signed: list[str] = field(default_factory=list)
    already: int = 0
    refused: list[str] = field(default_factory=list)

    @property
    def verdict(self) -> str:
        """The outcome in a line."""
        said = f"{len(self.signed)} sets signed, {self.already} were signed already, {len(self.refused)} are not signed"
        return "; ".join([f"{'FAIL' if self.refused else 'SIGNED'}: {said}", *self.refused])


def signing_store(store: StoreAddress) -> StoreAddress:
    """Return the address of a store whose sets are to be signed: also those without a signature are read.

    Raises:
        BadInput: there is no key to sign with.
    """
    signer = load_signer(store.url, store.trust)
    if signer is None:
        raise BadInput(f"{SIGNING_KEY} is not set; name the private key's file, or {NEW_KEY}")
    return replace(store, signer=signer)


def named_sets(store: StoreAddress, context: str, references: Iterable[str]) -> list[SetName]:
    """Return the sets that an operator named.

    Raises:
        BadInput: one is no set of this context, or is not there.
    """
    names = list[SetName]()
    for reference in references:
        name = parse_set_reference(reference, context, store.url)
        if name is None or store.opened.head(f"{name.folder}/{MANIFEST_FILE}") is None:
            raise BadInput(f'there is no set "{reference}" in {store.url}; name it by its id, as list_backups shows it')
        names.append(name)
    return names


def sign_sets(store: StoreAddress, run: Run, named: Iterable[SetName]) -> Signing:
    """Sign the named sets of a store, or all; what cannot be decoded is not signed, and told.

    Where sets have to be signed already, one without a signature is signed only if it was named: it may be anybody's.
    """
    done, chosen = Signing(), {*named}
    there = [one.name for one in list_sets(store, run.context).sets]
    for name in [one for one in there if one in chosen] if chosen else there:
        try:
            if sign_set(store, run, name, named=bool(chosen)):
                done.signed.append(name.id)
            else:
                done.already += 1
        except OperationError as error:
            done.refused.append(str(error))
            get_run_logger().error("not signed: %s", error)
    return done


@step(name="sign {name.id}")
def sign_set(store: StoreAddress, run: Run, name: SetName, *, named: bool) -> bool:
    """Decode a set and give its manifest a signature of ours; return False if it has one.

    Raises:
        UntrustedSet: it has another's signature, or none and was not named.
        DamagedSet: it is not what its manifest says.
        ColdObject: it has to be thawed first.
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
    # It was another that was decoded, if somebody wrote it meanwhile.
    if parse_manifest(data, where, reading.trust) != manifest or store.opened.read(key) != data:
        raise OperationError(f"{where}: its manifest became another while it was decoded; find out who writes there")
    _replace(store, key, sign_manifest(data, signer))
    get_run_logger().info("%s is signed", where)
    return True


def _replace(store: StoreAddress, key: str, data: bytes) -> None:
    store.opened.replace(key, data, WARM_CLASS)
    if store.opened.read(key) != data:
        raise OperationError(f"{store.path(key)}: the manifest read back is another; run again")


def _signer_of(store: StoreAddress) -> Signer:
    assert store.signer  # noqa: S101
    return store.signer


def _is_signed(data: bytes, where: str, trust: Trust) -> bool:
    try:
        parse_manifest(data, where, trust)
    except UntrustedSet:
        return False
    return True
