"""The MiniCPM-o 4.5 engine: the published checkpoint, many sessions in one batch."""
