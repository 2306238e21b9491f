"""Whether the sets of a store tell one history, or two servers write there; which sets are set aside, and who said so.

A server that is restarted, recovered elsewhere or promoted looks new, and is believed. Proof of two histories is what cannot be
otherwise: a server is back although another has written since, or one is behind a set that it took itself. Sets are compared by
their numbers: one with a higher number was begun when the others were stored.
"""

import json
from collections.abc import Iterable, Sequence

from pydantic import BaseModel, ConfigDict, ValidationError

from tasks.core.errors import BadInput
from tasks.core.sets.manifest import Incarnation, Manifest, SetAside, Snapshot
from tasks.core.sets.name import RULES
from tasks.core.sets.order import lsn_position

ADOPT = "find out which server is right, and run there: python -m deployments.register --adopt"


class Adoption(BaseModel):
    """What an operator decided: of the sets from `since` to `number` those of the server that started then count, and no other.

    Without `started` none counts. Servers that were `rejected` write in vain, until they are adopted.
    """

    model_config = ConfigDict(extra="ignore", frozen=True)

    since: int
    number: int
    started: str | None = None
    rejected: list[str] = []


class Owner(BaseModel):
    """What owner.json says: which cluster writes a context's sets, and what was decided where two did."""

    model_config = ConfigDict(extra="ignore", frozen=True, coerce_numbers_to_str=True)

    system_identifier: str
    adopted: list[Adoption] = []


def render_owner(owner: Owner) -> bytes:
    """Return what owner.json says as the bytes that are stored."""
    return (json.dumps(owner.model_dump(exclude_defaults=True)) + "\n").encode()


def parse_owner(data: bytes, where: str) -> Owner:
    """Return what owner.json says.

    Raises:
        BadInput: it names no cluster.
    """
    try:
        return Owner.model_validate_json(data)
    except ValidationError as error:
        raise BadInput(
            f"{where} does not say which cluster writes here; write it anew: python -m deployments.register --adopt"
        ) from error


def next_number(manifests: Iterable[Manifest], adopted: Iterable[Adoption]) -> int:
    """Return the number of a set that is taken now."""
    return 1 + max((0, *(one.number or 0 for one in manifests), *(one.number for one in adopted)))


def sets_aside(manifests: Sequence[Manifest], adopted: Sequence[Adoption]) -> dict[str, str]:
    """Return the ids of the sets that must be neither `latest` nor a base, each with the reason."""
    ranges = [*open_disputes(manifests, adopted), *(one.aside for one in manifests if one.aside and one.aside.before is not None)]
    found = dict[str, str]()
    for one in manifests:
        if one.number is None or not RULES[one.kind].may_be_latest:
            continue
        number = one.number
        why = _ruled_out(one, adopted) or next((aside.why for aside in ranges if aside.holds(number)), None)
        if why:
            found[one.id] = why
    return found


def open_disputes(manifests: Iterable[Manifest], adopted: Sequence[Adoption]) -> list[SetAside]:
    """Return what backups found and no operator has decided since."""
    decided = max((one.number for one in adopted), default=0)
    return [one.aside for one in manifests if one.aside and one.aside.before is None and (one.number or 0) > decided]


def find_dispute(
    manifests: Sequence[Manifest], adopted: Sequence[Adoption], here: Snapshot, number: int
) -> SetAside | None:  # fmt: skip
    """Return which sets a set that is taken here and now, with this number, finds to be of another history; None if it finds none.

    The sets were listed before the snapshot was taken.
    """
    if there := open_disputes(manifests, adopted):
        return SetAside(why=there[0].why, since=min(one.since for one in there), by_start=all(one.by_start for one in there))
    start = _start(here)
    if start is None:
        return None
    if _is_rejected(start, adopted):
        why = f"another server was adopted, and this one, which started {start}, was not; {ADOPT}"
        return SetAside(why=why, since=number, before=number + 1)
    known = sorted((one for one in manifests if one.number and not _ruled_out(one, adopted)), key=lambda one: one.number or 0)
    return _behind(known, here) or _returned(known, here)


def _returned(known: Iterable[Manifest], here: Snapshot) -> SetAside | None:
    """Return the sets since another server wrote after this one, which lives still; a standby writes nothing of its own."""
    writers = [] if here.standby else [one for one in known if not one.snapshot.standby and one.snapshot.incarnation]
    own = next((one for one in writers if _is_of_start(one, here)), None)
    if own is None:
        return None
    for one in writers:
        if (one.number or 0) > (own.number or 0) and not _is_of_start(one, here):
            why = (
                f"two servers write here: {one.id} is of the one {_spelled(one.snapshot.incarnation)}, and the one "
                f"{_spelled(here.incarnation)}, which took {own.id} before, is back; {ADOPT}"
            )
            return SetAside(why=why, since=one.number or 0)
    return None


def _behind(known: Iterable[Manifest], here: Snapshot) -> SetAside | None:
    """Return the sets since one that this very server took, and that it is behind now."""
    for one in known:
        if _is_of_start(one, here) and one.snapshot.timeline == here.timeline and _is_after(one, here):
            why = (
                f"the server {_spelled(here.incarnation)} is behind {one.id}, which it took itself (it is at {here.lsn}, the set "
                f"is of {one.snapshot.lsn}): its state was put back, or a copy of it writes too; {ADOPT}"
            )
            return SetAside(why=why, since=one.number or 0, by_start=False)
    return None


def _is_after(one: Manifest, here: Snapshot) -> bool:
    then = one.snapshot
    return lsn_position(then.lsn) > lsn_position(here.lsn) or (not here.standby and not then.standby and then.xmin > here.xmin)


def _is_of_start(one: Manifest, here: Snapshot) -> bool:
    return (one.snapshot.system_identifier, _start(one.snapshot)) == (here.system_identifier, _start(here))


def _start(snapshot: Snapshot) -> str | None:
    return snapshot.incarnation.started if snapshot.incarnation else None


def _spelled(incarnation: Incarnation | None) -> str:
    return f"at {incarnation.address}, started {incarnation.started}" if incarnation else "that nobody knows"


def forked(differing: Sequence[str], base: Manifest, number: int) -> SetAside | None:
    """Return the sets that a full and its differentials are, if relations of it that count as unchanged have other rows now."""
    if not differing or base.number is None:
        return None
    why = (
        f"no row of {', '.join(differing)} counts as written since {base.id}, and yet they are others: the history forked, as "
        "where the memory of a whole machine is put back; that set and its differentials are of the other one"
    )
    return SetAside(why=why, since=base.number, before=number)


def adoption(manifests: Sequence[Manifest], adopted: Sequence[Adoption], here: Snapshot) -> Adoption | None:
    """Return what it means that an operator says this server is right; None if nothing speaks against it."""
    number = next_number(manifests, adopted)
    dispute = find_dispute(manifests, adopted, here, number)
    if dispute is None:
        return None
    # A server that was rejected before: what was written since then is of the other.
    since = dispute.since if dispute.before is None else max(one.number for one in adopted) + 1
    started = _start(here) if dispute.by_start else None
    there = {_start(one.snapshot) for one in manifests if (one.number or 0) >= since}
    rejected = sorted(one for one in there if one and one != started) if started else []
    return Adoption(since=since, number=number - 1, started=started, rejected=rejected)


def _is_rejected(start: str, adopted: Iterable[Adoption]) -> bool:
    said = [start != one.started for one in adopted if start in (one.started, *one.rejected)]
    return bool(said) and said[-1]


def _ruled_out(one: Manifest, adopted: Sequence[Adoption]) -> str | None:
    """Return why a set does not count after what was decided: the last word on it, or on its server, holds."""
    number, start = one.number or 0, _start(one.snapshot)
    for said in reversed(adopted):
        within = said.since <= number <= said.number
        if not within and (number < said.since or start not in (said.started, *said.rejected)):
            continue
        if start == said.started:
            return None
        return (
            f"the server that started {said.started} was adopted, and this is of another"
            if said.started
            else "it was set aside by register --adopt: whose history it is cannot be told"
        )
    return None
