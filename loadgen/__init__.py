"""The load generator: measures over HTTP what a client sees."""
