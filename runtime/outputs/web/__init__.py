"""A page and a WebSocket for a stream (aiohttp).

`server` is what one imports; it loads aiohttp, and the modules here that name it, when a server is
made.
"""
