"""The methods of the control socket, by topic."""
