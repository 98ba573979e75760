"""The engine on Apache Cassandra."""
