"""Options of CREATE DATABASE for a database that a restore creates."""

from tasks.core.database.objects import DatabaseProperties

LOCALE_PROVIDERS = {"i": "icu", "c": "libc", "b": "builtin"}


def database_options(source: DatabaseProperties, major: int) -> list[tuple[str, str]]:
    """Return the options of CREATE DATABASE with which text sorts and compares as in the source."""
    options = [("ENCODING", source.encoding), ("LC_COLLATE", source.collate), ("LC_CTYPE", source.ctype)]
    provider = LOCALE_PROVIDERS.get(source.locale_provider or "c", "libc")
    if major >= 15:
        options.append(("LOCALE_PROVIDER", provider))
    if source.locale and provider != "libc":
        options.append(("ICU_LOCALE" if provider == "icu" else "BUILTIN_LOCALE", source.locale))
    if source.icu_rules and major >= 16:
        options.append(("ICU_RULES", source.icu_rules))
    return options
