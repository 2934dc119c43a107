"""Who may do what, and how much of it: keys, sign-ins, origins, limits. No sockets, no clock."""
