"""Cassandra nodes: described in YAML, laid out in files, started, stopped and watched."""
