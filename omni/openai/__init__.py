"""OpenAI's HTTP API: requests in, answers out; translations that know no sockets and no clock."""
