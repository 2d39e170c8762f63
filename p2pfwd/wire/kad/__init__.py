"""Kademlia DHT as sans-IO engines: keys, messages, routing table, lookup, records (libp2p spec: kad-dht)."""
