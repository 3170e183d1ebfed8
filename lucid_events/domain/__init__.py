"""The rules of a session: pure data and functions, no I/O, clock or randomness."""
