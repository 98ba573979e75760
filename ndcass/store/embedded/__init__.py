"""The embedded engine: cuboids in one folder, everything else in SQLite beside them."""
