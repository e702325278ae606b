"""A FastAPI program as people write them: it knows nothing of Fildes, and reads files long after its start."""

import asyncio
import hashlib
import importlib
import importlib.metadata
import importlib.resources
import json
import logging
import pkgutil
import sqlite3
import tempfile
import time
import uuid
from contextlib import asynccontextmanager
from datetime import UTC, date, datetime
from enum import StrEnum
from pathlib import Path
from typing import Annotated
from zoneinfo import ZoneInfo

from fastapi import (
    BackgroundTasks,
    Cookie,
    Depends,
    FastAPI,
    File,
    Form,
    Header,
    HTTPException,
    Request,
    Response,
    UploadFile,
    WebSocket,
    WebSocketDisconnect,
)
from fastapi.middleware.gzip import GZipMiddleware
from fastapi.responses import FileResponse, HTMLResponse, RedirectResponse, StreamingResponse
from fastapi.staticfiles import StaticFiles
from fastapi.templating import Jinja2Templates
from pydantic import BaseModel, Field, field_validator

HERE = Path(__file__).parent
log = logging.getLogger("studio")


class Colour(StrEnum):
    red = "red"
    blue = "blue"


class Size(BaseModel):
    width: float = Field(gt=0, le=500)
    height: float = Field(gt=0, le=500)


class Painting(BaseModel):
    title: str = Field(min_length=1, max_length=80)
    painted: date
    colours: list[Colour] = []
    size: Size | None = None

    @field_validator("title")
    @classmethod
    def no_shouting(cls, value: str) -> str:
        if value.isupper():
            raise ValueError("titles are not shouted")
        return value


class Stored(Painting):
    id: int


@asynccontextmanager
async def lifespan(app: FastAPI):
    app.state.paintings = {}
    app.state.notes = []
    app.state.started = "by lifespan"
    yield


app = FastAPI(title="Studio", version="1.2", lifespan=lifespan)
app.add_middleware(GZipMiddleware, minimum_size=2000)
app.mount("/static", StaticFiles(directory=HERE / "static"), name="static")
templates = Jinja2Templates(directory=HERE / "templates")


@app.middleware("http")
async def name_the_house(request: Request, call_next):
    response = await call_next(request)
    response.headers["x-house"] = request.app.state.started
    return response


# — models —


@app.post("/paintings", status_code=201)
async def hang(painting: Painting, request: Request) -> Stored:
    shelf = request.app.state.paintings
    stored = Stored(id=len(shelf) + 1, **painting.model_dump())
    shelf[stored.id] = stored
    return stored


@app.get("/paintings/{number}")
def look(number: int, request: Request) -> Stored:  # not async: it runs in a thread
    try:
        return request.app.state.paintings[number]
    except KeyError:
        raise HTTPException(404, f"nothing hangs at {number}", {"x-walls": "4"}) from None


@app.get("/search")
async def search(
    q: Annotated[str, Field(max_length=20)],
    colour: Colour | None = None,
    limit: Annotated[int, Field(ge=1, le=100)] = 10,
    accept_language: Annotated[str | None, Header()] = None,
    seen: Annotated[str | None, Cookie()] = None,
):
    return {"q": q, "colour": colour, "limit": limit, "language": accept_language, "seen": seen}


# — files of the release, read after the start —


@app.get("/", response_class=HTMLResponse)
async def home(request: Request):
    places = [{"name": "Kraków", "hint": "<dragon> & co."}, {"name": "Zürich", "hint": "lake"}]
    return templates.TemplateResponse(request, "home.html", {"places": places})


@app.get("/lazy")
def lazy():
    """What is imported here was not when the program was loaded."""
    shapes = importlib.import_module("atlas.shapes")
    import colorsys
    import statistics
    from xml.dom import minidom

    document = minidom.parseString("<a><b>1</b><b>2</b></a>")
    return {
        "area": shapes.area(2, 3),
        "hls": [round(part, 3) for part in colorsys.rgb_to_hls(0.2, 0.4, 0.4)],
        "median": statistics.median([3, 1, 2]),
        "nodes": len(document.getElementsByTagName("b")),
        "file": Path(shapes.__file__).name,
    }


@app.get("/data")
async def data():
    """Package data, by all of its usual roads."""
    files = importlib.resources.files("atlas")
    rivers = json.loads(files.joinpath("data/rivers.json").read_text("utf-8"))
    with importlib.resources.as_file(files / "data" / "rivers.json") as path:
        same = json.loads(path.read_bytes()) == rivers
    return {
        "rivers": rivers,
        "same": same,
        "pkgutil": hashlib.sha256(pkgutil.get_data("atlas", "data/rivers.json")).hexdigest(),
        "names": sorted(entry.name for entry in files.joinpath("data").iterdir()),
        "glob": sorted(path.relative_to(HERE).as_posix() for path in HERE.rglob("*.html")),
        "multipart": importlib.metadata.metadata("python-multipart")["Name"],
    }


@app.get("/open")
async def open_path(path: str):
    try:
        open(path).close()
    except OSError as error:
        return {"error": type(error).__name__, "text": str(error)}
    return {"error": ""}


@app.get("/zone")
async def zone():
    moment = datetime(2026, 7, 1, 12, tzinfo=UTC)
    return {name: moment.astimezone(ZoneInfo(name)).isoformat() for name in ("Europe/Berlin", "Asia/Kathmandu")}


@app.get("/download")
async def download():
    return FileResponse(HERE / "atlas" / "data" / "map.bin", filename="Karte für alle.bin")


# — forms and uploads —


@app.post("/upload")
async def upload(files: Annotated[list[UploadFile], File()], note: Annotated[str, Form()] = ""):
    told = []
    for file in files:
        content = await file.read()
        await file.seek(0)
        again = await file.read(10)
        told.append(
            {
                "name": file.filename,
                "type": file.content_type,
                "size": file.size,
                "sha256": hashlib.sha256(content).hexdigest(),
                "again": again == content[:10],
            }
        )
    return {"note": note, "files": told}


@app.post("/scratch")
def scratch(text: Annotated[str, Form()]):
    """Temporary files, and a data base in memory and one in /tmp."""
    with tempfile.TemporaryDirectory() as folder:
        one = Path(folder) / "one.txt"
        one.write_text(text)
        with sqlite3.connect(Path(folder) / "two.db") as db:
            db.execute("create table words (word)")
            db.executemany("insert into words values (?)", [(word,) for word in one.read_text().split()])
            (count,) = db.execute("select count(distinct word) from words").fetchone()
        db.close()
        names = sorted(path.name for path in Path(folder).iterdir())
    return {"distinct": count, "names": names, "gone": not one.exists()}


# — streaming, background, errors —


@app.get("/stream")
async def stream(lines: int = 5, pause: float = 0):
    async def parts():
        try:
            for number in range(lines):
                yield f"line {number}\n"
                await asyncio.sleep(pause)
        except asyncio.CancelledError:
            log.warning("the stream was left")
            raise

    return StreamingResponse(parts(), media_type="text/plain")


@app.get("/stream-sync")
async def stream_sync():
    def parts():
        for number in range(3):
            time.sleep(0.001)
            yield b"%d," % number

    return StreamingResponse(parts(), media_type="text/plain")


@app.get("/large")
async def large():
    return Response(b"0123456789" * 300_000, media_type="application/octet-stream")


@app.post("/notes/{text}", status_code=202)
async def note(text: str, tasks: BackgroundTasks, request: Request):
    def write_down():
        request.app.state.notes.append(text)

    tasks.add_task(write_down)
    return {"accepted": text}


@app.get("/notes")
async def notes(request: Request):
    return request.app.state.notes


def pencil():
    log.warning("a pencil is taken")
    try:
        yield "pencil"
    finally:
        log.warning("the pencil is back")


@app.get("/draw")
async def draw(tool: Annotated[str, Depends(pencil)]):
    return {"with": tool}


@app.get("/old", status_code=301)
async def old():
    return RedirectResponse("/search?q=new", 301)


@app.get("/cookie")
async def cookie(response: Response):
    response.set_cookie("seen", "yes", httponly=True, samesite="strict")
    response.headers.append("x-two", "1")
    response.headers.append("x-two", "2")
    return {}


@app.get("/broken")
async def broken():
    raise RuntimeError("the canvas tore")


@app.get("/now")
async def now():
    return {"now": time.time(), "id": str(uuid.uuid4())}


@app.websocket("/talk")
async def talk(socket: WebSocket, name: str):
    await socket.accept(subprotocol="studio")
    try:
        while True:
            message = await socket.receive_json()
            await socket.send_json({"to": name, "said": message})
    except WebSocketDisconnect as gone:
        app.state.notes.append(f"gone {gone.code}")
