"""Values: keys, peer IDs, multiaddrs, records. No I/O, no clock, no asyncio."""
