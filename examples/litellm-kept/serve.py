"""`litellm`, with the same arguments, whose workers serve whoever has just come before they end.

uvicorn at TERM stops to listen, and closes in the same moment every connection of which it has not read a request yet: a client
that came then sees a reset. Here a second lies between the two.
"""

import asyncio
import sys

import uvicorn

SECONDS = 1

close_at_once = uvicorn.Server.shutdown


async def shutdown(server, sockets=None):
    for listener in server.servers:
        listener.close()
    await asyncio.sleep(SECONDS)
    await close_at_once(server, sockets)


# At every import: workers are started by importing this file.
uvicorn.Server.shutdown = shutdown

if __name__ == "__main__":
    from litellm import run_server

    sys.exit(run_server())
