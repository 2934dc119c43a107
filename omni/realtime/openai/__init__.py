"""The OpenAI Realtime dialect: its events, a conversation of items, and one chat turn an answer."""
