"""Attacks on real daemons, and what honest users notice of them."""

LAN_PROTOCOL = "/ipfs/lan/kad/1.0.0"
"""The DHT that a daemon of `network = lan` serves."""
