"""One node: swarm and protocols put together, and finding a peer by its ID alone."""
