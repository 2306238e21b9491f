"""The tests; pytest explains what fails in their support as it does in them."""

import pytest

pytest.register_assert_rewrite("tests.support")
