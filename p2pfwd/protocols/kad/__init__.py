"""The Kademlia DHT on the swarm: `service` is one DHT, `requests` its messages, `upkeep` its timers."""
