import pytest

# Otherwise a failed assertion of an inherited test would not show its values.
pytest.register_assert_rewrite("tests.envs.conformance")
