"""Installing by uv: pip's settings are given to it."""

import pytest

from deployments.install import settings_for_uv

LISTED = """\
:env:.find-links='/opt/two wheels'
global.extra-index-url='file:///srv/one file:///srv/two'
global.index-url='https://mirror.example/simple'
global.timeout='60'
install.cert='/etc/ssl/own.pem'
:env:.index-url='https://nearer.example/simple'
"""


def test_where_packages_come_from() -> None:
    assert settings_for_uv(LISTED, {}) == {
        "UV_FIND_LINKS": "/opt/two wheels", "UV_INDEX": "file:///srv/one file:///srv/two", "SSL_CERT_FILE": "/etc/ssl/own.pem",
        "UV_DEFAULT_INDEX": "https://nearer.example/simple", "UV_INDEX_STRATEGY": "unsafe-best-match",
    }  # fmt: skip


@pytest.mark.parametrize("listed", ["", "global.timeout='60'\n", "nonsense"])
def test_without_any(listed: str) -> None:
    assert settings_for_uv(listed, {}) == {}


def test_what_is_said_to_uv_itself_holds() -> None:
    assert "UV_DEFAULT_INDEX" not in settings_for_uv(LISTED, {"UV_DEFAULT_INDEX": "https://own.example/simple"})
