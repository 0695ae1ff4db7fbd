"""One module per command: parse, call the library, write, print."""
