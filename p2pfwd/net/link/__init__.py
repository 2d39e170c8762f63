"""A connection to a peer, its streams, and the proof that it lives."""
