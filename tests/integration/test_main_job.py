"""The main job: back up, lose everything, get it back equal."""

from tests.integration.conftest import World


def test_state_before_equals_state_after(s3_world: World) -> None:
    before = s3_world.state()
    assert s3_world.backup().startswith("STORED")
    assert s3_world.recover().startswith("PASS")
    s3_world.assert_recovered(before)
