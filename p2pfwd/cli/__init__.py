"""The command line. Imports rpc, core and errors only (and `daemon.run` inside one command)."""
