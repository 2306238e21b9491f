"""What an archive of pg_dump says of itself, and how its restore is told."""

from tasks.core.restore.legacy_dump import COPY, OWNER, ArchiveRestore, Loaded, archive_report, archive_verdict, parse_archive_facts

LISTING = """;
; Archive created at 2025-11-03 02:00:03 JST
;     dbname: consulting_tool
;     TOC Entries: 90
;     Compression: gzip
;     Dump Version: 1.14-0
;     Format: CUSTOM
;     Dumped from database version: 14.9 (Debian 14.9-1)
;     Dumped by pg_dump version: 15.4
;
"""
FACTS = parse_archive_facts("/x.dump.gz", 7, LISTING, "UTF8")


def test_facts() -> None:
    assert (FACTS.database, FACTS.created, FACTS.server_major, FACTS.pg_dump) == (
        "consulting_tool", "2025-11-03 02:00:03 JST", 14, "15.4",
    )  # fmt: skip
    assert parse_archive_facts("/x", 7, "nothing", "UTF8").server_major == 0


def test_statements() -> None:
    found = COPY.fullmatch(b'COPY "B\xc3\xbcro"."x ""y""" (id, "N N") FROM stdin;\n')
    assert found
    assert found["table"].decode() == '"Büro"."x ""y"""'
    assert not COPY.fullmatch(b"COPY public.t (id) TO stdout;\n")
    made = b"CREATE TABLE public.t ();\nALTER TABLE public.t OWNER TO owner;\n"
    assert OWNER.findall(made) == [b"owner"]
    assert OWNER.sub(b"", made) == b"CREATE TABLE public.t ();\n"


def test_reports() -> None:
    restore = ArchiveRestore(FACTS, "rescued", [Loaded("public.t", 3, 3)], ["`CREATE TRIGGER x`: why"], ["view v of the context"])
    assert archive_verdict(restore).startswith('RESTORED, UNPROVEN: 3 rows of 1 relations are in database "rescued", 1 objects')
    text = archive_report(restore)
    for said in ("row counts and digests", "view v of the context", "`CREATE TRIGGER x`: why", "| public.t | 3 | 3 |"):
        assert said in text
    restore.loaded.append(Loaded("public.u", 5, 0, "no such table"))
    assert archive_verdict(restore).startswith("INCOMPLETE: 3 rows of 2 relations")
