import asyncio
from typing import Annotated

from counter.deps import PEOPLE
from fastapi import APIRouter, Depends, Query, WebSocket, WebSocketDisconnect, WebSocketException
from fastapi.responses import StreamingResponse

router = APIRouter()
rooms: dict[str, set[WebSocket]] = {}


def known(name: Annotated[str, Query()]):
    if name not in PEOPLE:
        raise WebSocketException(1008, "who is that?")
    return name


@router.websocket("/rooms/{room}")
async def talk(socket: WebSocket, room: str, name: Annotated[str, Depends(known)]):
    await socket.accept(headers=[(b"x-room", room.encode())])
    there = rooms.setdefault(room, set())
    there.add(socket)
    try:
        async for text in socket.iter_text():
            if text == "bye":
                await socket.close(4000, "as you wish")
                break
            for other in there:
                await other.send_json({"from": name, "text": text, "people": len(there)})
    except WebSocketDisconnect:
        pass
    finally:
        there.discard(socket)


@router.get("/events")
async def events(count: int = 3):
    async def generate():
        for number in range(count):
            yield f"id: {number}\ndata: tick {number}\n\n"
            await asyncio.sleep(0.01)

    return StreamingResponse(generate(), media_type="text/event-stream")
