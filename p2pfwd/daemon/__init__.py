"""The background process: config, home, logs, RPC handlers, life and death."""
