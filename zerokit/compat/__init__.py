"""Programming interfaces of other libraries, on top of zerokit."""
