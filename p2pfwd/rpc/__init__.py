"""The control socket: JSON-RPC 2.0 over a local Unix socket. Imports core and errors only."""
