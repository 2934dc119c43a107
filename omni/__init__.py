"""omni: a self-hosted server for real-time omni-modal conversation.

cli, launcher           start, watch and stop the processes
web, routes, realtime   HTTP and WebSockets towards clients; recording writes what was said
broker, dispatch        queue, leases, liveness; routes between webs and workers
gpu_worker              one engine and its slots; one worker per GPU
engine                  the contract that every engine meets; null answers by a script
pocket, minicpmo        the CPU engine; the MiniCPM-o 4.5 engine
messages, codec, link   what travels between processes, as bytes, over ZeroMQ
settings, errors, log, audio
"""

__version__ = "0.1.0"
