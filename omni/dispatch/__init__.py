"""The broker's decisions, pure and with the clock passed in: tickets, leases, peers, estimates."""
