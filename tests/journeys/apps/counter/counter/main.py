"""An office with a counter: a factory, settings, routers, a lifespan, handlers of errors, middleware."""

from contextlib import asynccontextmanager

from fastapi import Depends, FastAPI, Request
from fastapi.middleware.cors import CORSMiddleware
from fastapi.responses import JSONResponse, PlainTextResponse
from pydantic_settings import BaseSettings

from counter.deps import OutOfForms, common
from counter.routers import files, live, people, tickets


class Settings(BaseSettings, env_prefix="COUNTER_"):
    title: str
    shelves: int = 3


@asynccontextmanager
async def lifespan(app):
    app.state.tickets, app.state.journal, app.state.open_sessions = {}, [], 0
    yield {"opened": True}


def create_app():
    settings = Settings()
    app = FastAPI(title=settings.title, version="2.1", lifespan=lifespan)
    app.add_middleware(CORSMiddleware, allow_origins=["https://a.example"], allow_methods=["*"], max_age=60)
    app.include_router(tickets.router, prefix="/tickets", tags=["tickets"], dependencies=[Depends(common)])
    app.include_router(people.router, prefix="/people", tags=["people"], dependencies=[Depends(common)])
    app.include_router(files.router, prefix="/files", tags=["files"], dependencies=[Depends(common)])
    app.include_router(live.router, tags=["live"])
    inner = FastAPI(title="Inner")
    inner.include_router(tickets.reading, prefix="/v1")
    app.mount("/inner", inner)

    @app.get("/health", include_in_schema=False)
    def health():
        return PlainTextResponse("well")

    @app.exception_handler(OutOfForms)
    async def out_of_forms(request: Request, error: OutOfForms):
        return JSONResponse({"sorry": str(error), "path": request.url.path}, 507)

    return app
