"""FastAPI that accepts and waits, nothing else: what a connection costs before anybody asks who it is."""

from fastapi import FastAPI, WebSocket, WebSocketDisconnect

from benchmarks.servers.listening import serve

app = FastAPI()


@app.websocket("/api/v1/ws")
async def accept(websocket: WebSocket) -> None:
    """Accept, and read until the client goes."""
    await websocket.accept()
    try:
        while True:
            await websocket.receive_text()
    except WebSocketDisconnect:
        return


if __name__ == "__main__":
    serve(app)
