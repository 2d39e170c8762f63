"""AutoNAT on the swarm: can strangers reach this node, and can others be reached? (libp2p spec: autonat)"""
