import asyncio
import csv
import hashlib
import io
from typing import Annotated

from fastapi import APIRouter, File, Form, HTTPException, Request, UploadFile
from fastapi.responses import StreamingResponse

router = APIRouter()


@router.post("/")
async def take(
    files: list[UploadFile], note: Annotated[str, Form(max_length=20)], tag: Annotated[list[str], Form()] = ()
):
    told = [
        {"name": f.filename, "type": f.content_type, "size": f.size, "sha": hashlib.sha256(await f.read()).hexdigest()}
        for f in files
    ]
    return {"files": told, "note": note, "tags": list(tag)}


@router.post("/table")
def table(content: Annotated[bytes, File()]):
    try:
        return list(csv.DictReader(io.StringIO(content.decode())))
    except UnicodeDecodeError:
        raise HTTPException(422, "that is no text") from None


@router.put("/raw")
async def raw(request: Request):
    total, told = 0, hashlib.sha256()
    async for piece in request.stream():
        total += len(piece)
        told.update(piece)
    return {"bytes": total, "sha": told.hexdigest()}


@router.get("/rows")
async def rows(n: int = 1000):
    async def generate():
        yield "number,square\n"
        for number in range(n):
            if number % 100 == 0:
                await asyncio.sleep(0)
            yield f"{number},{number * number}\n"

    return StreamingResponse(generate(), media_type="text/csv", headers={"Content-Disposition": "attachment"})


@router.get("/breaks")
async def breaks():
    raise RuntimeError("the drawer is stuck")
