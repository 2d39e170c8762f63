"""Sans-IO protocol engines: bytes and `now` in, bytes and events out."""
