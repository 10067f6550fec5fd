"""FastAPI that awaits `send_text` for one connection after the other: what most programs do."""

import json

from fastapi import FastAPI, WebSocket, WebSocketDisconnect

from benchmarks.servers.listening import serve
from benchmarks.servers.messages import WELCOME, event

app = FastAPI()
subscribers: set[WebSocket] = set()


@app.websocket("/api/v1/ws")
async def talk(websocket: WebSocket) -> None:
    """Take the client in with `auth`; send events to all with `bench_publish`."""
    await websocket.accept()
    try:
        while True:
            message = json.loads(await websocket.receive_text())
            if message["type"] == "auth":
                subscribers.add(websocket)
                await websocket.send_text(WELCOME)
            elif message["type"] == "bench_publish":
                for _ in range(message["data"]["n"]):
                    await _send_to_all(event())
    except WebSocketDisconnect:
        subscribers.discard(websocket)


async def _send_to_all(text: str) -> None:
    for subscriber in tuple(subscribers):
        await subscriber.send_text(text)


if __name__ == "__main__":
    serve(app)
