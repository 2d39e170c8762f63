"""asyncio: sockets, connections, streams, the swarm."""
