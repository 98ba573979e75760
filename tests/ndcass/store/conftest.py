import pytest

# So that a failing assertion of the shared suite shows its values.
pytest.register_assert_rewrite("tests.store_contract")
