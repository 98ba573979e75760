"""The REST gateway over the stores of the library."""
