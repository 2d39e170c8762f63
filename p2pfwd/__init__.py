"""p2pfwd carries local TCP ports to remote peers over libp2p, tagged by protocol name."""

__version__ = "0.1.0"
