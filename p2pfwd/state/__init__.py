"""Files that belong to this node: its identity and its network's key."""
