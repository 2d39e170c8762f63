"""The product: listeners, streams and the splice between a socket and a stream."""
