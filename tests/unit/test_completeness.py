"""What the list of a set lacks of what its manifest names."""

import pytest

from tasks.core.database.objects import InventoryItem
from tasks.core.postgres.archive_toc import Origin, entries_of, parse_list, parse_origin
from tasks.core.sets.completeness import describe_lack, unlisted_objects
from tasks.core.sets.manifest import Manifest
from tests.support.samples import manifest, relation


def item(kind: str, name: str, parent: str = "", state: str = "") -> InventoryItem:
    return InventoryItem(kind=kind, name=name, parent=parent, columns="", state=state)


def lines(*entries: str) -> str:
    """Return a list of entries; those of relations have their oids in it."""
    numbered = [one if one[0].isdigit() else f"0 {number} {one}" for number, one in enumerate(entries)]
    return "".join(f"{number}; {one}\n" for number, one in enumerate(numbered))


# Everything that PostgreSQL makes entries of, with its entry; an object without one comes with another.
CASES = [
    (item("table", "public.t"), "TABLE public t owner"),
    (item("partitioned table", '"S.x"."T ""q"""'), 'TABLE S.x T "q" owner'),
    (item("view", "public.v"), "VIEW public v owner"),
    (item("materialized view", "public.v"), "MATERIALIZED VIEW public v owner"),
    (item("sequence", "public.s", "public.t.id"), "SEQUENCE public s owner"),
    (item("index", "public.i", "public.t"), "INDEX public i owner"),
    (item("index", 'public."日本 索引"', "public.t"), "INDEX public 日本 索引 owner"),
    (item("index", 'public."a\nb"', "public.t"), "INDEX public a b owner"),
    (item("constraint", "k", "public.t", "PRIMARY KEY (id)"), "CONSTRAINT public t k owner"),
    (item("constraint", "k", 'public."t u"', "FOREIGN KEY (id) REFERENCES t(id)"), "FK CONSTRAINT public t u k owner"),
    (item("constraint", "c", "public.t", "CHECK ((id > 0))"), None),
    (item("constraint", "n", "public.t", "NOT NULL id NOT VALID"), None),
    (item("trigger", "g", "public.t", "CREATE TRIGGER g"), "TRIGGER public t g owner"),
    (item("rule", "r", "public.t"), "RULE public t r owner"),
    (item("policy", "p", "public.t"), "POLICY public t p owner"),
    (item("statistics", "other.s", "public.t"), "STATISTICS other s owner"),
    (item("function", 'public."My f"(integer,public."T, x",text[])'), 'FUNCTION public My f(integer, public."T, x", text[]) owner'),
    (item("function", "public.f(public.t)"), 'FUNCTION public f("public"."t") owner'),
    (item("function", "public.p(integer)"), "PROCEDURE public p(integer) owner"),
    (item("function", "public.a()"), "AGGREGATE public a(*) owner"),
    (item("function", "f(public.t)"), None),
    (item("type", 'public."T ype"'), "TYPE public T ype owner"),
    (item("type", "public.d"), "DOMAIN public d owner"),
    (item("type", "information_schema.sql_identifier"), None),
    (item("schema", 'a "b"'), 'SCHEMA - a "b" owner'),
    (item("schema", "public"), None),
]  # fmt: skip


def with_inventory(*items: InventoryItem, **changes: object) -> Manifest:
    return manifest(**{"relations": [], "inventory": list(items), **changes})


@pytest.mark.parametrize(("needed", "entry"), CASES)
def test_each_object_has_its_entry(needed: InventoryItem, entry: str | None) -> None:
    made = with_inventory(needed)
    assert len(unlisted_objects(made, lines("TABLE public another owner"))) == (entry is not None)
    if entry:
        assert unlisted_objects(made, lines("ENCODING - ENCODING ", entry)) == []
        # A name that goes on is another's, as far as a title can tell; an entry of two is one.
        assert unlisted_objects(with_inventory(needed, needed), lines(entry)) != []
        assert entries_of([needed], parse_list(lines(entry))) == {0}


@pytest.mark.parametrize("lost", ["INDEX public a o", "INDEX public a b o", "INDEX public a b c o"])
def test_names_that_others_begin_with(lost: str) -> None:
    made = with_inventory(*(item("index", f'public."{name}"', "public.t") for name in ("a", "a b", "a b c")))
    entries = ["INDEX public a o", "INDEX public a b o", "INDEX public a b c o"]
    assert unlisted_objects(made, lines(*entries)) == []
    name = lost.removeprefix("INDEX public ").removesuffix(" o")
    assert unlisted_objects(made, lines(*(one for one in entries if one != lost))) == [f'index public."{name}" of public.t']


def test_owners_that_look_like_names() -> None:
    made = with_inventory(item("index", "public.a", "public.t"), item("index", 'public."a b"', "public.t"))
    assert unlisted_objects(made, lines("INDEX public a b o", "INDEX public a b o")) == []
    assert unlisted_objects(made, lines("INDEX public a b o")) != []


def test_relations_are_known_by_their_oids() -> None:
    made = with_inventory(relations=[relation("teams", oid=16400)])
    assert unlisted_objects(made, lines("1259 16400 TABLE public teams owner")) == []
    assert unlisted_objects(made, lines("1259 16401 TABLE public teams owner")) == ["table public.teams"]


DIVIDED = [
    item("partitioned table", "public.t"), item("table", "public.p", "public.t"),
    item("index", "public.ti", "public.t"), item("index", "public.pi", "public.p", "CREATE INDEX pi | attached to public.ti"),
    item("trigger", "g", "public.t", "CREATE TRIGGER g AFTER INSERT ON public.t FOR EACH ROW EXECUTE FUNCTION f()"),
    item("trigger", "g", "public.p", "CREATE TRIGGER g AFTER INSERT ON public.p FOR EACH ROW EXECUTE FUNCTION f()"),
    item("trigger", "s", "public.t", "CREATE TRIGGER s AFTER INSERT ON public.t FOR EACH STATEMENT EXECUTE FUNCTION f()"),
    item("trigger", "s", "public.p", "CREATE TRIGGER s AFTER INSERT ON public.p FOR EACH STATEMENT EXECUTE FUNCTION f()"),
]  # fmt: skip
DIVIDED_ENTRIES = {
    "TABLE public t o": "partitioned table public.t", "TABLE public p o": "table public.p of public.t",
    "TABLE ATTACH public p o": "partition public.p of public.t",
    "INDEX public ti o": "index public.ti of public.t", "INDEX public pi o": "index public.pi of public.p",
    "INDEX ATTACH public pi o": "index public.pi in that of public.t",
    "TRIGGER public t g o": "trigger g of public.t",
    "TRIGGER public t s o": "trigger s of public.t", "TRIGGER public p s o": "trigger s of public.p",
}  # fmt: skip


@pytest.mark.parametrize("lost", DIVIDED_ENTRIES)
def test_partitions_are_attached_and_get_their_tables_triggers(lost: str) -> None:
    made = with_inventory(*DIVIDED)
    assert unlisted_objects(made, lines(*DIVIDED_ENTRIES)) == []
    assert unlisted_objects(made, lines(*(one for one in DIVIDED_ENTRIES if one != lost))) == [DIVIDED_ENTRIES[lost]]


def test_what_comes_with_another() -> None:
    key = item("constraint", "k", "public.t", "PRIMARY KEY (id)")
    index, another = item("index", "public.k", "public.t"), item("index", "public.k", "public.u")
    assert unlisted_objects(with_inventory(key, index), lines("CONSTRAINT public t k o")) == []
    assert unlisted_objects(with_inventory(key, another), lines("CONSTRAINT public t k o")) == ["index public.k of public.u"]
    check = item("constraint", "k", "public.t", "CHECK (true)")
    assert unlisted_objects(with_inventory(check, index), "") == ["index public.k of public.t"]


def test_what_an_extension_brings() -> None:
    brought = item("table", "public.t", state="owner o | extension e | persistence p")
    own = item("table", "public.u", state="owner o | persistence p | comment  | extension e")
    needed = [brought, item("index", "public.i", "public.t"), item("trigger", "g", "public.t"), own]
    assert unlisted_objects(with_inventory(*needed, extensions=["e", "plpgsql"]), "") == ["table public.u", "extension e"]
    assert unlisted_objects(with_inventory(extensions=["e"]), lines("EXTENSION - e ")) == []


def test_what_is_left_out_is_not_missed() -> None:
    needed = [
        item("policy", "p", "public.t"), item("rule", "r", "public.t"), item("function", "public.f(public.u)"), *DIVIDED[2:4],
        DIVIDED[0], DIVIDED[1],
    ]  # fmt: skip
    left_out = ["policy p on table public.t", "rule r on table public.t", "function public.f(public.u)", "index public.ti"]
    listing = lines("TABLE public t o", "TABLE public p o", "TABLE ATTACH public p o")
    assert unlisted_objects(with_inventory(*needed, left_out=left_out), listing) == []
    assert (
        len(unlisted_objects(with_inventory(*needed, left_out=[one.replace("public.", "app.") for one in left_out]), listing)) == 6
    )


def test_a_list_in_another_encoding_is_counted() -> None:
    indexes = [item("index", f'public."{name}"', "public.t") for name in ("日本", "索引")]
    listing = lines("INDEX public 日本 o", "INDEX public 索引 o", "TABLE public t o")
    garbled = listing.encode("euc_jp").decode(errors="replace")
    assert unlisted_objects(with_inventory(*indexes), garbled) == []
    assert len(unlisted_objects(with_inventory(*indexes), garbled.partition("\n")[2])) == 1


@pytest.mark.parametrize("separator", ["\u2028", "\x85", "\x0b", "\x1c"])
def test_names_that_hold_the_end_of_a_line(separator: str) -> None:
    made = with_inventory(item("index", f'public."a{separator}b"', "public.t"))
    assert unlisted_objects(made, lines(f"INDEX public a{separator}b o")) == []
    # As older sets have it.
    assert unlisted_objects(made, lines("INDEX public a")) == []
    assert unlisted_objects(made, lines("INDEX public b o")) != []


def test_the_sentence() -> None:
    made = with_inventory(*(item("table", f"public.t{number:02}") for number in range(12)))
    assert describe_lack(made, lines(*(f"TABLE public t{number:02} o" for number in range(12)))) is None
    said = describe_lack(made, "")
    assert said is not None
    assert said.startswith("schema.list does not restore table public.t")
    assert said.endswith(", and 2 more")


def test_where_an_archive_is_from() -> None:
    text = "\n".join(
        [";", "; Archive created at …", ";     dbname: a b\u2028c", ";     TOC Entries: 9",
         ";     Dumped from database version: 15.14 (Debian 15.14-0+deb12u1)", ";     Dumped by pg_dump version: 18.1", ";"]
    )  # fmt: skip
    assert parse_origin(text) == Origin("a b\u2028c", "15.14 (Debian 15.14-0+deb12u1)")
    assert Origin("a\nb", "18").listed == Origin("a b", "18")
    assert parse_origin("") is None
