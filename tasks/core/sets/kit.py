"""Recovery kits: the mark of a kit in the store, and the notice of its age in drill reports."""

from datetime import datetime, timedelta

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, ValidationError

from tasks.core.sets.name import SET_ID

# The file's name in the kit's folder, and in the store below the context's name.
KIT_FILE = "kit.json"
# Addresses, logins and the newest set change, so a kit should be made again four times a year.
OLD_AFTER = timedelta(days=90)
MAKE = "python -m deployments.kit FOLDER"


class Kit(BaseModel):
    """When a kit was made, by which version of this project, and the newest set by then."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    context: str
    made: AwareDatetime
    version: str
    set: str = Field(pattern=f"^{SET_ID.pattern}$")


def render_kit(kit: Kit) -> bytes:
    """Return the mark of a kit."""
    return (kit.model_dump_json(indent=1) + "\n").encode()


def parse_kit(data: bytes) -> Kit | None:
    """Return the kit of a mark, or None if it cannot be read."""
    try:
        return Kit.model_validate_json(data)
    except ValidationError:
        return None


def kit_notice(kit: Kit | None, instant: datetime) -> str:
    """Return how old the kit is, and the remedy if it is too old or there is none."""
    if kit is None:
        return f"there is no recovery kit; make one: `{MAKE}`"
    age = f"made {kit.made:%Y-%m-%d}, {(instant - kit.made).days} days ago, with {kit.set}"
    return (
        f"{age}; that is more than {OLD_AFTER.days} days: make the kit again, `{MAKE}`" if instant - kit.made > OLD_AFTER else age
    )
