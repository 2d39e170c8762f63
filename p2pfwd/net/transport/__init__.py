"""How another peer is reached: each transport dials and listens for addresses of its own kind."""
