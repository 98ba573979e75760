"""The numbered CQL files of the Cassandra engine, as package data."""
