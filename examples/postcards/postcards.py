"""Postcards from templates: Starlette and Jinja2 as they are, reading files of the release long after the start."""

from pathlib import Path

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse
from starlette.routing import Route
from starlette.templating import Jinja2Templates

HERE = Path(__file__).parent
PLACES = {
    "harbour": ("Harbour", "The boats went out at four, and the gulls went with them."),
    "mountain": ("Mountain", "Three hours up, and a hut with soup at the end of it."),
    "night-train": ("Night train", "Somewhere after midnight everybody had stopped talking."),
}
templates = Jinja2Templates(HERE / "templates")


async def index(request):
    return templates.TemplateResponse(request, "index.html", {"places": PLACES})


async def postcard(request):
    name = request.path_params["name"]
    if name not in PLACES:
        raise HTTPException(404, "No postcard came from there.")
    title, text = PLACES[name]
    return templates.TemplateResponse(request, "postcard.html", {"title": title, "text": text})


async def as_json(request):
    return JSONResponse({name: text for name, (_, text) in PLACES.items()})


app = Starlette(
    routes=[
        Route("/", index),
        Route("/postcards.json", as_json),
        Route("/from/{name}", postcard, name="postcard"),
    ]
)
