"""Making keys for signing backup sets, and signing sets that are already in a store.

python -m deployments.sign --new-key FOLDER
python -m deployments.sign [--context bc-004] [SET …]

The first makes a pair of keys. The second decodes each set and signs it with BACKUP_SIGNING_KEY;
needs the store, and finds it as the flows do. Once BACKUP_VERIFY_KEY is set, a set without a
signature is signed only if it is named: make sure where it comes from. After a change of keys, run
without a name, it signs again what the old key signed.
"""

import os
import sys
from argparse import ArgumentParser
from pathlib import Path

from flows.command_line import run_by_hand
from tasks.core.errors import BadInput, DamagedSet
from tasks.core.sets.signature import new_key_pair
from tasks.run import site
from tasks.run.run import begin, operation
from tasks.sets import sign, survey
from tasks.store.signing_keys import SIGNING_KEY, VERIFY_KEY

PRIVATE_FILE, PUBLIC_FILE = "backup-signing.pem", "backup-verify.pem"


@operation("sign-backups {context}")
def sign_backups(context: str = "bc-004", sets: list[str] | None = None) -> str:
    """Verify a context's sets, also in its local copy, and sign those that match their manifests.

    Args:
        context: the bounded context.
        sets: only these sets, by id or path.
    """
    with begin("sign_backups", context) as run:
        definition, store = site.find_context(context), sign.signing_store(site.find_store(context))
        named = sign.named_sets(store, context, sets or [])
        done = [sign.sign_sets(place, run, named) for _, place, _ in survey.places(definition, store)]
        verdict = "; ".join(signing.verdict for signing in done)
        if any(signing.refused for signing in done):
            raise DamagedSet(verdict)
        return verdict


def main() -> None:
    """Make keys or sign sets, as the command line requests."""
    parser = ArgumentParser(description="Sign backup sets.", allow_abbrev=False)
    parser.add_argument("--new-key", metavar="FOLDER", type=Path, help="only make a pair of keys in this folder")
    parser.add_argument("--context", default="bc-004")
    parser.add_argument("sets", metavar="SET", nargs="*", help="a set to sign, by id or path; by default all")
    arguments = parser.parse_args()
    if arguments.new_key is None:
        print(run_by_hand(sign_backups, {"context": arguments.context, "sets": arguments.sets}))  # noqa: T201
        return
    try:
        private, public = make_keys(arguments.new_key)
    except BadInput as error:
        sys.exit(f"BadInput: {error}")
    print(  # noqa: T201
        f"private key, for those who take backups: export {SIGNING_KEY}={private}\n"
        f"public key, for those who restore:       export {VERIFY_KEY}={public}\n"
        "keep a copy of the public key where it outlives this machine and the store, and of the "
        "private key in a secret place"
    )


def make_keys(folder: Path) -> tuple[Path, Path]:
    """Write a new pair of keys; return the files of the private key, 0600, and of the public one.

    Raises:
        BadInput: the folder has keys already, or cannot be written.
    """
    private, public = (folder.absolute() / name for name in (PRIVATE_FILE, PUBLIC_FILE))
    if public.exists():
        raise BadInput(f"{public} exists already; name another folder")
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        for file, pem, mode in zip((private, public), new_key_pair(), (0o600, 0o644), strict=True):
            with os.fdopen(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "wb") as target:
                target.write(pem)
    except FileExistsError as error:
        raise BadInput(f"{error.filename} exists already; name another folder") from None
    except OSError as error:
        raise BadInput(f"{folder}: {error.strerror}; name another folder") from None
    return private, public


if __name__ == "__main__":
    main()
