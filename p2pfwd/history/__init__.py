"""What happened to this node: kinds of events, how they are folded, and the file that remembers them."""
