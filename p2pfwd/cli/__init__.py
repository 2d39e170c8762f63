"""The command line: parses, asks the daemon over the control socket, prints. Nothing heavy at start."""
