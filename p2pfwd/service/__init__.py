"""The daemon as a service of this machine: what is written for systemd or launchd, and asked of them."""
