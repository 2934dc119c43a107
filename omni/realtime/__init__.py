"""WebSocket sessions and the dialects they speak."""
