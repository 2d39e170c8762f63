"""What speaks to the operating system, and nothing to libp2p."""
