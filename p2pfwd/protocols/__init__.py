"""Services that run on the swarm; siblings never import each other."""
