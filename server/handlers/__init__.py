"""Request handlers: each parses, calls one function of the library and formats."""
