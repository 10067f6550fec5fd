"""WindFlow in a FastAPI application that already exists: the three lines below `# WindFlow`.

Run it from the repository: `uvicorn examples.existing_app:app`. The application keeps its own routes and
lifespan; beside them are now the WebSocket at /api/v1/ws, the REST API below /api/v1, and the plugins.
Settings are those of the server (`WINDFLOW_…`); the database is made in ./data unless they say otherwise.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI

from backend.app.main import WindFlow


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    """What the application did before, it still does: here, count something while it runs."""
    app.state.greetings = 0
    yield


app = FastAPI(title="An application of your own", lifespan=lifespan)


@app.get("/hello")
async def hello() -> dict[str, int]:
    """A route that was there before."""
    app.state.greetings += 1
    return {"greetings": app.state.greetings}


# WindFlow
windflow = WindFlow()
app.include_router(windflow.router)
app.router.lifespan_context = windflow.wrap(lifespan)
