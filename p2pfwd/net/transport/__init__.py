"""How bytes reach another machine: TCP, and TCP inside a private network."""
