"""Finding out whether two servers write into the same store, so that its sets have two histories.

The sets of one of them are then set aside. A server that was restarted, recovered elsewhere or
promoted looks like a new server, and is accepted. There are two histories for certain in two cases:
a server takes backups again after another server did, or a server is behind a set that it took
itself. Sets are ordered by their numbers: a set was started after all sets with lower numbers were
stored.
"""

import json
from collections.abc import Iterable, Sequence

from pydantic import BaseModel, ConfigDict, ValidationError

from tasks.core.errors import BadInput
from tasks.core.sets.manifest import Incarnation, Manifest, SetAside, Snapshot
from tasks.core.sets.name import RULES
from tasks.core.sets.order import lsn_position

ADOPT = "find out which server has the right data, and run there: python -m deployments.register --adopt"


class Adoption(BaseModel):
    """An operator's decision which of two servers' sets to use.

    Of the sets numbered `since` to `number`, only those taken by the server started at `started`
    are used; without `started`, none of them is. Later sets of the `rejected` servers are not used
    either, until an operator adopts such a server.
    """

    model_config = ConfigDict(extra="ignore", frozen=True)

    since: int
    number: int
    started: str | None = None
    rejected: list[str] = []


class Owner(BaseModel):
    """owner.json: the cluster that writes a context's sets, and decisions where two servers did."""

    model_config = ConfigDict(extra="ignore", frozen=True, coerce_numbers_to_str=True)

    system_identifier: str
    adopted: list[Adoption] = []


def render_owner(owner: Owner) -> bytes:
    """Return owner.json as it is stored."""
    return (json.dumps(owner.model_dump(exclude_defaults=True)) + "\n").encode()


def parse_owner(data: bytes, where: str) -> Owner:
    """Return the content of owner.json.

    Raises:
        BadInput: the text names no cluster.
    """
    try:
        return Owner.model_validate_json(data)
    except ValidationError as error:
        raise BadInput(
            f"{where} does not name the cluster that writes sets here; write that file again: "
            "python -m deployments.register --adopt"
        ) from error


def next_number(manifests: Iterable[Manifest], adopted: Iterable[Adoption]) -> int:
    """Return the number of the next set."""
    return 1 + max((0, *(each.number or 0 for each in manifests), *(each.number for each in adopted)))


def sets_aside(manifests: Sequence[Manifest], adopted: Sequence[Adoption]) -> dict[str, str]:
    """Return the ids of sets that are set aside (never `latest` nor a base), with the reasons."""
    ranges = [
        *open_disputes(manifests, adopted),
        *(manifest.aside for manifest in manifests if manifest.aside and manifest.aside.before is not None),
    ]
    reasons = dict[str, str]()
    for manifest in manifests:
        if manifest.number is None or not RULES[manifest.kind].may_be_latest:
            continue
        number = manifest.number
        reason = _ruled_out(manifest, adopted) or next((aside.why for aside in ranges if aside.holds(number)), None)
        if reason:
            reasons[manifest.id] = reason
    return reasons


def open_disputes(manifests: Iterable[Manifest], adopted: Sequence[Adoption]) -> list[SetAside]:
    """Return the disputes that no operator has decided since."""
    decided = max((decision.number for decision in adopted), default=0)
    return [
        manifest.aside
        for manifest in manifests
        if manifest.aside and manifest.aside.before is None and (manifest.number or 0) > decided
    ]


def find_dispute(manifests: Sequence[Manifest], adopted: Sequence[Adoption], snapshot: Snapshot, number: int) -> SetAside | None:
    """Return which sets belong to another history than the snapshot of a new set with this number.

    None if there are none. The sets were listed before the snapshot was taken.
    """
    if disputes := open_disputes(manifests, adopted):
        return SetAside(
            why=disputes[0].why,
            since=min(dispute.since for dispute in disputes),
            by_start=all(dispute.by_start for dispute in disputes),
        )
    start = _start(snapshot)
    if start is None:
        return None
    if _is_rejected(start, adopted):
        reason = f"another server was adopted, and not this one, started {start}; {ADOPT}"
        return SetAside(why=reason, since=number, before=number + 1)
    own_history = sorted(
        (manifest for manifest in manifests if manifest.number and not _ruled_out(manifest, adopted)),
        key=lambda manifest: manifest.number or 0,
    )
    return _behind(own_history, snapshot) or _returned(own_history, snapshot)


def _returned(own_history: Iterable[Manifest], snapshot: Snapshot) -> SetAside | None:
    """Return the sets since another server's first one, although this server still runs.

    A standby does not count, as it has no writes of its own.
    """
    writers = (
        []
        if snapshot.standby
        else [manifest for manifest in own_history if not manifest.snapshot.standby and manifest.snapshot.incarnation]
    )
    last_own = next((manifest for manifest in writers if _is_of_start(manifest, snapshot)), None)
    if last_own is None:
        return None
    for manifest in writers:
        if (manifest.number or 0) > (last_own.number or 0) and not _is_of_start(manifest, snapshot):
            reason = (
                f"two servers write here: {manifest.id} is from the server "
                f"{_spelled(manifest.snapshot.incarnation)}, and the server "
                f"{_spelled(snapshot.incarnation)}, which took {last_own.id} before that, takes "
                f"backups again; {ADOPT}"
            )
            return SetAside(why=reason, since=manifest.number or 0)
    return None


def _behind(own_history: Iterable[Manifest], snapshot: Snapshot) -> SetAside | None:
    """Return the sets from the first one on that this server took itself and is behind now."""
    for manifest in own_history:
        if _is_of_start(manifest, snapshot) and manifest.snapshot.timeline == snapshot.timeline and _is_after(manifest, snapshot):
            reason = (
                f"the server {_spelled(snapshot.incarnation)} is behind {manifest.id}, which it "
                f"took itself (it is at {snapshot.lsn}, the set is at {manifest.snapshot.lsn}): "
                "the server was restored to an older state, or a copy of it writes sets too; "
                f"{ADOPT}"
            )
            return SetAside(why=reason, since=manifest.number or 0, by_start=False)
    return None


def _is_after(manifest: Manifest, snapshot: Snapshot) -> bool:
    taken = manifest.snapshot
    return lsn_position(taken.lsn) > lsn_position(snapshot.lsn) or (
        not snapshot.standby and not taken.standby and taken.xmin > snapshot.xmin
    )


def _is_of_start(manifest: Manifest, snapshot: Snapshot) -> bool:
    return (manifest.snapshot.system_identifier, _start(manifest.snapshot)) == (snapshot.system_identifier, _start(snapshot))


def _start(snapshot: Snapshot) -> str | None:
    return snapshot.incarnation.started if snapshot.incarnation else None


def _spelled(incarnation: Incarnation | None) -> str:
    return f"at {incarnation.address}, started {incarnation.started}" if incarnation else "with unknown start"


def forked(differing: Sequence[str], base: Manifest, number: int) -> SetAside | None:
    """Return a full and its differentials as another history, if unchanged relations differ."""
    if not differing or base.number is None:
        return None
    reason = (
        f"no row of {', '.join(differing)} counts as written since {base.id}, but the rows differ: "
        "the history forked, as when a virtual machine is reset to a snapshot; that set and its "
        "differentials belong to the other history"
    )
    return SetAside(why=reason, since=base.number, before=number)


def adoption(manifests: Sequence[Manifest], adopted: Sequence[Adoption], snapshot: Snapshot) -> Adoption | None:
    """Return the decision that this server is the right one; None if there is no dispute."""
    number = next_number(manifests, adopted)
    dispute = find_dispute(manifests, adopted, snapshot, number)
    if dispute is None:
        return None
    # This server was rejected before: the sets since then belong to the other server.
    since = dispute.since if dispute.before is None else max(earlier.number for earlier in adopted) + 1
    started = _start(snapshot) if dispute.by_start else None
    starts = {_start(manifest.snapshot) for manifest in manifests if (manifest.number or 0) >= since}
    rejected = sorted(start for start in starts if start and start != started) if started else []
    return Adoption(since=since, number=number - 1, started=started, rejected=rejected)


def _is_rejected(start: str, adopted: Iterable[Adoption]) -> bool:
    adoptions = [start != decision.started for decision in adopted if start in (decision.started, *decision.rejected)]
    return bool(adoptions) and adoptions[-1]


def _ruled_out(manifest: Manifest, adopted: Sequence[Adoption]) -> str | None:
    """Return why a set does not count; the last decision on the set or on its server applies."""
    number, start = manifest.number or 0, _start(manifest.snapshot)
    for decision in reversed(adopted):
        within = decision.since <= number <= decision.number
        if not within and (number < decision.since or start not in (decision.started, *decision.rejected)):
            continue
        if start == decision.started:
            return None
        return (
            f"an operator adopted the server started at {decision.started}, and another server took this set"
            if decision.started
            else "register --adopt set it aside, because its history is not known"
        )
    return None
