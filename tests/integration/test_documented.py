"""Every command of the documents: run here as it stands there, with what it has to say, or run by what is named here."""

import logging
import os
import re
import runpy
import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml

from flows import command_line
from flows.backup import list_backups
from flows.retention import clean_up_old_data
from tasks.core.run.clock import now
from tests.support import PROJECT
from tests.support.archives import RESOLVED
from tests.support.blocks import NAMES, delete_blocks
from tests.support.database import ask, execute, unlike
from tests.support.example import DATABASE, OUTBOUND_KEYS
from tests.support.legacy import old_script
from tests.support.partitions import with_default
from tests.support.restores import DAMAGE
from tests.support.servers import databases
from tests.support.world import World

README, PRODUCTION, FLOWS, TOOLS, RUNBOOK, JAPANESE, ARCHITECTURE, MIGRATION, CONTRIBUTING = DOCUMENTS = (
    "README.md", "docs/production.md", "docs/flows.md", "docs/stock-tools.md", "docs/runbook.md", "docs/runbook.ja.md",
    "docs/architecture.md", "docs/migration.md", "CONTRIBUTING.md",
)  # fmt: skip
BLOCK = re.compile(r"^ *```(?:sh|bash)\n(.*?)^ *```", re.MULTILINE | re.DOTALL)
FENCED = re.compile(r"^( *)```.*?^\1```", re.MULTILINE | re.DOTALL)
HEADING = re.compile(r"^(#+) (.*)$", re.MULTILINE)
BY_HAND = re.compile(r"`(python -m flows\.[^`]+)`")
# What a person has to fill in where a command stands in a sentence or a table.
FILLED_IN = {"NAME": "consulting_tool_by_name", "SET": "latest"}

# What is run by something else: in which file, and by which words that is seen.
ELSEWHERE = {
    "make demo": (".ci/run", "make demo"),
    "make test": (".ci/run", "make test\n"),
    "pip install --constraint deployments/constraints.txt .": ("deployments/install.py", '"--constraint", str(CONSTRAINTS)'),
    # They ask at a terminal, or are the operating system's own.
    r"psql -d postgres -c '\password backup_reader' -c '\password backup_restorer' -c '\password backup_loader'": (
        "tests/support/servers.py", "allow_backup_logins("),
    **dict.fromkeys((
        "sudo useradd --system --create-home --shell /bin/bash consulting-backup",
        "sudo install -d -o consulting-backup -g consulting-backup /opt/consulting-tool-backup",
        "sudo install -d -m 700 -o consulting-backup -g consulting-backup /etc/consulting-tool-backup",
    ), (PRODUCTION, "User=consulting-backup\n")),
    **dict.fromkeys((
        'git clone "${REPOSITORY:?the address of this repository}" /opt/consulting-tool-backup', "cd /opt/consulting-tool-backup",
    ), (PRODUCTION, "WorkingDirectory=/opt/consulting-tool-backup\n")),
    "python3 -m venv .venv": ("Makefile", "-m venv .venv\n"),
    "sudo systemctl enable --now prefect-server": (PRODUCTION, "/etc/systemd/system/prefect-server.service"),
    "sudo systemctl enable --now backup-worker": (PRODUCTION, "/etc/systemd/system/backup-worker.service"),
    "python -m deployments.register --notify slack-webhook/operators": ("tests/integration/test_server.py", '"--notify"'),
    "python -m deployments.register --check": ("tests/integration/test_server.py", '"--check"'),
    'SET=${SET:?the downloaded folder of the set} NEW=${NEW:?the name of the database to make}': (
        "tests/integration/test_main_job.py", "stock-tools.md"),
    'bash "$SET/restore.sh" "$NEW"': ("tests/integration/test_main_job.py", "stock-tools.md"),
    'aws s3 mv "${SET:?the s3:// path of the set}/expired.json" "${SET:?the s3:// path of the set}/manifest.json"': (
        "tests/integration/test_retention.py", "manifest.json"),
    "echo '{}' | aws s3 cp - \"${SET:?the s3:// path of the set}/pinned.json\"": ("tests/integration/test_retention.py", "pinned"),
}  # fmt: skip
# Artifacts, whose keys look like names of deployments.
REPORTS = {
    "backup", "recovery", "restore", "restore-plan", "drill", "integrity", "recovery-point", "views", "clean-up", "partitions",
    "pruning", "clean-up-plan", "report", "progress",
}  # fmt: skip


def read(document: str) -> str:
    return (PROJECT / document).read_text(encoding="utf-8")


def lines_of(block: str) -> list[str]:
    """Return the commands of a block, one a line, without comments."""
    bare = (re.sub(r"(^|\s{2,})#.*", "", line).strip() for line in block.splitlines())
    return [line for line in bare if line]


def sections(document: str) -> dict[str, list[str]]:
    """Return the commands in the blocks of a document, by the heading above them."""
    text = read(document)
    heads = [one for one in HEADING.finditer(text) if not any(f.start() < one.start() < f.end() for f in FENCED.finditer(text))]
    ends = [one.start() for one in heads[1:]] + [len(text)]
    bodies = [(one[2], text[one.end() : end]) for one, end in zip(heads, ends, strict=True)]
    found = {title: [line for block in BLOCK.findall(body) for line in lines_of(block)] for title, body in bodies}
    return {title: commands for title, commands in found.items() if commands}


def run_here(document: str, section: str) -> list[str]:
    return [one for one in sections(document)[section] if one not in ELSEWHERE]


# What each section does


class Fails(str):
    """What a command has to say that fails."""

    __slots__ = ()


@dataclass(frozen=True)
class Case:
    """A section that is followed, after something happened: what each of its commands has to say."""

    document: str
    section: str
    says: Sequence[str]
    words: Mapping[str, str] = field(default_factory=dict)
    happened: Callable[[World], Mapping[str, str] | None] = lambda world: None
    elsewhere: bool = False
    environment: Mapping[str, str] = field(default_factory=dict)
    in_shell: bool = False


def statements(*said: str) -> Callable[[World], None]:
    return lambda world: execute(world, *said)


def forget_tables_beside(world: World) -> None:
    for (name,) in ask(world, r"SELECT relname::text FROM pg_class WHERE relname LIKE '%\_restored\_%' AND relkind = 'r'"):
        execute(world, f"DROP TABLE {name}")


def choose_members(world: World) -> dict[str, str]:
    forget_tables_beside(world)
    return {
        "INSTANT": now().isoformat(),
        "KEYS": str(ask(world, "SELECT json_agg(id)::text FROM (SELECT id FROM team_members LIMIT 2) m")[0][0]),
    }


def newest(world: World, kind: str, table: str = "") -> str:
    rows = world.run(list_backups, "backup_reader")
    return next(str(one["id"]) for one in rows if one["kind"] == kind and table in str(one))


def hang_a_run(world: World) -> dict[str, str]:
    """Leave a session as a run that hangs has it; it is ended with the world's database at the latest."""
    session = world.source.connect(DATABASE)
    session.execute("SET application_name = 'bc-004 daily_backup 2026-11-26 17:00Z 3f9c'")
    hanging.append(session)
    return {"PID": str(session.info.backend_pid)}


hanging: list[Any] = []


def lose_database(world: World) -> None:
    with world.source.connect() as connection:
        connection.execute(f"DROP DATABASE {DATABASE} WITH (FORCE)".encode())


def lose_old_rows(world: World) -> dict[str, str]:
    world.run(clean_up_old_data, "backup_restorer", dry_run=False, confirm_database=DATABASE)
    # The last rule's set: the parents come back first.
    return {"SET": newest(world, "clean-up")}


def leave_old_file(world: World) -> dict[str, str]:
    return {"FILE": str(old_script(world))}


def copy_store(world: World) -> dict[str, str]:
    return {"COPY": str(shutil.copytree(world.store_folder, world.folder / "copy"))}


STORED, PASS, PLANNED, RESTORED = "STORED: ", "PASS: ", "PLANNED, nothing touched: ", "RESTORED: "
LISTED, DONE = "Backups of bc-004, newest first", ""
STORIES: dict[str, list[Case]] = {
    "rows": [
        Case(RUNBOOK, "Before the first command", [DONE, DONE, LISTED, PASS]),
        Case(RUNBOOK, "3. Rows were deleted by mistake", [f"{PLANNED}50 rows to insert", f"{RESTORED}.*: 50 inserted"],
             {"TABLE": "policy_violations"},
             statements("DELETE FROM policy_violations_2025 WHERE id IN (SELECT id FROM policy_violations_2025 LIMIT 50)")),
        Case(RUNBOOK, "4. A wrong UPDATE", ["nothing else was touched", PLANNED, f"{RESTORED}.* 0 inserted"], {"TABLE": "teams"},
             statements("UPDATE teams SET purpose = 'wrong'")),
        Case(RUNBOOK, "5. A table was dropped, or much is damaged",
             [f"{PLANNED}.* objects to create", f"{RESTORED}.* objects created", PASS], {"COPY_NAME": "consulting_tool_copy"},
             statements(*DAMAGE["a table dropped that others refer to"])),
        Case(RUNBOOK, "6. One partition is gone", [PLANNED, f"{RESTORED}.*policy_violations_2024"],
             {"PARTITION": "policy_violations_2024"}, statements("DROP TABLE policy_violations_2024")),
        Case(ARCHITECTURE, "One table", ["nothing else was touched", f"{PLANNED}nothing differs"], {}, choose_members),
        Case(RUNBOOK, "12. An integrity check failed", [PASS], {}, forget_tables_beside),
    ],
    "backups": [
        Case(PRODUCTION, "1. Account, project and programs", [DONE]),
        Case(PRODUCTION, "2. Roles", [DONE]),
        Case(PRODUCTION, "5. Environment", [DONE]),
        Case(PRODUCTION, "9. First backup and first drill", [STORED, LISTED, PASS]),
        Case(PRODUCTION, "10. Alarms, contacts, recovery kit", ["kit of bc-004"], {"KIT": "{folder}/kit"}),
        Case(RUNBOOK, "8. A backup failed", [STORED, STORED]),
        Case(RUNBOOK, "9. The watch failed", [PASS, STORED]),
        Case(RUNBOOK, "10. A run does not end", [r"daily_backup 2026-11-26 17:00Z 3f9c", r"\bt\b"], {}, hang_a_run),
        Case(RUNBOOK, "11. A drill failed", [PASS, r"PASS: .* decoded"], {"SET": "latest"}),
        Case(RUNBOOK, "14. Passwords or keys were changed",
             [DONE, "block bounded-context/bc-004", "STORED: bc-004_differential", "PASS: .* decoded"]),
        Case(RUNBOOK, "15. The staging disk is full", ["Use%", STORED], {"LARGER": "{folder}/larger"}),
        Case(RUNBOOK, "16. The store cannot be reached", [Fails("does not exist; mount or create it"), LISTED], {}, copy_store,
             environment={"BACKUP_STORE": "{folder}/absent"}),
        Case(RUNBOOK, "17. Prefect's server is down", [r"no Prefect server at (?s:.*)STORED"], in_shell=True,
             environment={"PREFECT_API_URL": "http://127.0.0.1:9/api"}),
        Case(RUNBOOK, "7. A backup is suspect", [STORED], {}, statements("TRUNCATE policy_scopes")),
    ],
    "everything": [
        Case(RUNBOOK, "1. The database is gone", [PASS, Fails("public.users does not exist")], {}, lose_database),
        Case(RUNBOOK, "2. The server is gone", [DONE, DONE, PASS, "names cluster", STORED],
             {"SUPERUSER": "postgres", "NEW_HOST": "127.0.0.1"}, elsewhere=True),
        # The backups of the recovered databases do not know any more what this one has to make.
        Case(ARCHITECTURE, "After a recovery: keys to other contexts", [Fails("public.users does not exist")]),
    ],
    "years": [
        Case(RUNBOOK, "18. Partitions", [f"{PLANNED}.* would be archived and dropped", "archived and dropped",
             Fails("pass move_default_rows"), "PASS: created policy_violations_2027"], {},
             lambda world: (execute(world, RESOLVED), with_default(world))[1]),
        Case(RUNBOOK, "13. The rows are in cold storage", [f"{RESTORED}1,000 rows", "ATTACHED: .*_2022 with 1,000 rows"],
             {"YEAR": "2022"}),
        Case(RUNBOOK, "19. Cleaned-up rows are needed again", [f"{PLANNED}.*rows to insert", RESTORED], {}, lose_old_rows),
        Case(RUNBOOK, "20. An expired set, or an old file, is needed", ["RESTORED, UNPROVEN: "],
             {"COPY_NAME": "old_file"}, leave_old_file),
        Case(ARCHITECTURE, "Files of the old scripts", ["RESTORED, UNPROVEN: "], {}, leave_old_file),
    ],
    "migration": [
        Case(MIGRATION, "The week with both", [STORED, PASS, PASS, PLANNED, PLANNED]),
        Case(MIGRATION, "What to compare, each day", [LISTED, PASS, "RESTORED, UNPROVEN: "],
             {"COPY_NAME": "new_way", "OLD_NAME": "old_way"}, leave_old_file),
    ],
}  # fmt: skip
# What the flows of the table by hand say on a database that is there and backed up, where that is not a good verdict.
FAILING = {
    "reattach_partition": "no archive", "disaster_recovery": "refusing", "restore_cleaned_up": "pass the id of the clean-up set",
}  # fmt: skip


# What can be seen without running anything


def test_every_command_is_known() -> None:
    followed = {(one.document, one.section): len(one.says) for story in STORIES.values() for one in story}
    there = {
        (document, title): len(run_here(document, title))
        for document in DOCUMENTS
        if document != JAPANESE
        for title in sections(document)
    }
    assert followed == {place: count for place, count in there.items() if count}


@pytest.mark.parametrize("command", ELSEWHERE)
def test_what_is_run_elsewhere_is_in_the_documents_and_there(command: str) -> None:
    assert command in IN_BLOCKS
    file, words = ELSEWHERE[command]
    assert words in read(file)


def headings(document: str) -> list[tuple[str, str]]:
    """Return level and text of the headings of a document."""
    return HEADING.findall(FENCED.sub("", read(document)))


def numbered(document: str) -> list[tuple[str, str]]:
    """Return level and number of each heading, which are the same in any language."""
    return [(level, title.partition(".")[0] if title[0].isdigit() else "") for level, title in headings(document)]


def test_both_languages_have_the_same_commands_in_the_same_order() -> None:
    assert BLOCK.findall(read(JAPANESE)) == BLOCK.findall(read(RUNBOOK))
    assert numbered(JAPANESE) == numbered(RUNBOOK)
    outputs = [re.findall(r"^```text\n.*?^```", read(one), re.MULTILINE | re.DOTALL) for one in (RUNBOOK, JAPANESE)]
    assert outputs[0] == outputs[1]


def anchors(document: str) -> set[str]:
    """Return the anchors of a document's headings, as GitHub makes them."""
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for _, title in headings(document)}


LINKED = sorted(path.relative_to(PROJECT).as_posix() for folder in ("", "docs") for path in (PROJECT / folder).glob("*.md"))


@pytest.mark.parametrize("document", LINKED)
def test_links_lead_somewhere(document: str) -> None:
    for target in re.findall(r"\]\(([^)]+)\)", FENCED.sub("", read(document))):
        path, _, anchor = target.partition("#")
        file = (PROJECT / document).parent / path if path else PROJECT / document
        assert file.exists(), target
        assert not anchor or anchor in anchors(str(file.resolve().relative_to(PROJECT))), target


NAMED = sorted({one for document in DOCUMENTS for one in re.findall(r"`bc-004-([a-z-]+)`", read(document))} - REPORTS)
DEPLOYED = {one["name"] for one in yaml.safe_load(read("prefect.yaml"))["deployments"]}


@pytest.mark.parametrize("name", NAMED)
def test_deployments_that_are_named_are_there(name: str) -> None:
    assert f"bc-004-{name}" in DEPLOYED


def test_every_deployment_is_in_the_migration() -> None:
    text = read(MIGRATION)
    assert [name for name in DEPLOYED if f"`{name}`" not in text] == []


INLINE = [one for document in DOCUMENTS for one in BY_HAND.findall(read(document))]
IN_BLOCKS = [one for document in DOCUMENTS for commands in sections(document).values() for one in commands]


def run_module(module: str) -> None:
    """Run a module of the project as `python -m` does, but in this process."""
    runpy.run_path(str(PROJECT / f"{module.replace('.', '/')}.py"), run_name="__main__")


@cache
def flows_of(module: str) -> tuple[command_line.AnyFlow, ...]:
    """Return the flows that a module runs by hand."""
    found = list[command_line.AnyFlow]()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(command_line, "run_from_command_line", lambda *flows: found.extend(flows))
        run_module(module)
    return tuple(found)


@pytest.mark.parametrize("command", sorted({*INLINE, *(one for one in IN_BLOCKS if one.startswith("python -m flows."))}))
def test_a_command_is_one_that_its_flow_takes(command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    taken = list[tuple[Any, dict[str, Any]]]()
    monkeypatch.setattr(command_line, "run_by_hand", lambda *run: taken.append(run))
    bare = re.sub(r'"?\$\{(\w+)[^}]*\}"?', lambda one: "[]" if one[1] == "KEYS" else "2023", command)
    _, _, module, *words = shlex.split(bare)
    monkeypatch.setattr(sys, "argv", [module, *words])
    command_line.run_from_command_line(*flows_of(module))
    ((chosen, given),) = taken
    chosen.validate_parameters(given)


# Run as they stand


class Heard(logging.Handler):
    """Keeps what flows and tasks say."""

    def __init__(self) -> None:
        super().__init__()
        self.lines = list[str]()

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(record.getMessage())


@contextmanager
def listening() -> Iterator[list[str]]:
    heard, loggers = Heard(), [logging.getLogger(name) for name in ("prefect.flow_runs", "prefect.task_runs")]
    for one in loggers:
        one.addHandler(heard)
    try:
        yield heard.lines
    finally:
        for one in loggers:
            one.removeHandler(heard)


def type_in_shell(command: str) -> tuple[int, str]:
    """Run a command in a shell, as an operator does; return its exit code and what it said."""
    words = ["bash", "-euo", "pipefail", "-c", command]
    done = subprocess.run(words, cwd=PROJECT, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL)
    return done.returncode, done.stdout + done.stderr


def type_here(command: str) -> tuple[int, str]:
    """Run a flow's command line in this process, which is faster; a shell expands its words."""
    expanded = subprocess.run(
        ["bash", "-euc", f"set -- {command}; printf '%s\\0' \"$@\""], capture_output=True, text=True, check=False
    )  # fmt: skip
    assert expanded.returncode == 0, expanded.stderr
    _, _, module, *words = expanded.stdout.split("\0")[:-1]
    ended = signal.getsignal(signal.SIGTERM)
    try:
        with listening() as lines, pytest.MonkeyPatch.context() as patch:
            patch.setattr(sys, "argv", [module, *words])
            try:
                run_module(module)
            except SystemExit as error:
                return 1, "\n".join([*lines, str(error)])
        return 0, "\n".join(lines)
    finally:
        signal.signal(signal.SIGTERM, ended)


def type_in(command: str, in_shell: bool = False) -> tuple[int, str]:
    return type_in_shell(command) if in_shell or not command.startswith("python -m flows.") else type_here(command)


def environment_of(world: World, case: Case, words: Mapping[str, str]) -> dict[str, str]:
    """Return what the operator's shell has, besides server and store."""
    said = {
        "DATABASE": DATABASE,
        "PGDATABASE": DATABASE,
        "SETTINGS": str(world.folder / "settings"),
        "PG_BIN": str(world.source.bin),
    }
    path = f"{Path(sys.executable).parent}:{world.source.bin}:{os.environ['PATH']}"
    filled = {
        key: value.replace("{folder}", str(world.folder)) for key, value in {**case.words, **words, **case.environment}.items()
    }
    return {**said, "PATH": path, **filled}


def follow(world: World, case: Case, capsys: pytest.CaptureFixture[str]) -> None:
    """Do what happened, then what the section says; each command has to say what is expected of it."""
    words = case.happened(world) or {}
    world.extra = environment_of(world, case, words)
    server = world.target if case.elsewhere else world.source
    (world.folder / "settings").write_text(f"PGDATABASE={DATABASE}\n")
    for command, expected in zip(run_here(case.document, case.section), case.says, strict=True):
        user = "postgres" if command.startswith(("psql", "python -m deployments")) else "backup_restorer"
        code, said = world.run(type_in, user, server, command=command, in_shell=case.in_shell)
        said += capsys.readouterr().out
        assert re.search(expected, said), f"{case.section}: {command}\n{said[-3000:]}"
        assert code == isinstance(expected, Fails), f"{case.section}: {command}\n{said[-3000:]}"


@pytest.mark.every_variant
@pytest.mark.long
@pytest.mark.parametrize("story", STORIES)
def test_sections_do_what_they_say(world: World, story: str, capsys: pytest.CaptureFixture[str]) -> None:
    world.backup()
    before = world.state()
    try:
        for case in STORIES[story]:
            with capsys.disabled():
                print(f"\n{case.document}: {case.section}")
            follow(world, case, capsys)
    finally:
        delete_blocks(*NAMES)
        for session in hanging:
            session.close()
        hanging.clear()
    world.extra = {}
    if story == "rows":
        assert unlike(before, world.state()) == []
        assert databases(world.source) == {DATABASE, "consulting_tool_copy"}
    if story == "everything":
        for server in (world.source, world.target):
            assert before.differences(world.state(server), ignore_foreign_keys=OUTBOUND_KEYS, views="recomputed") == []


@pytest.mark.long
def test_the_flows_by_hand(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    world.backup()
    world.extra = environment_of(world, Case(FLOWS, "By hand", []), {})
    for command in BY_HAND.findall(read(FLOWS).partition("## By hand")[2].partition("\n## ")[0]):
        filled = re.sub(r"\b(NAME|SET)\b", lambda one: FILLED_IN[one[1]], command)
        code, said = world.run(type_in, "backup_restorer", command=filled)
        failing = next((words for name, words in FAILING.items() if f" {name}" in command), None)
        assert bool(code) == bool(failing), f"{command}\n{said[-2000:]}"
        assert (failing or "") in said, f"{command}\n{said[-2000:]}"
