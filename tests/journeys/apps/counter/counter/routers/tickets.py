from datetime import UTC, date, datetime
from decimal import Decimal
from enum import IntEnum
from typing import Annotated, Literal

from counter.deps import OutOfForms, Page, Person, Session
from fastapi import APIRouter, BackgroundTasks, Body, HTTPException, Path, Request, Response, status
from pydantic import BaseModel, ConfigDict, EmailStr, Field, computed_field, model_validator


class Rank(IntEnum):
    low = 1
    high = 2


class Dog(BaseModel):
    kind: Literal["dog"]
    chipped: bool


class Car(BaseModel):
    kind: Literal["car"]
    plate: str = Field(pattern=r"^[A-Z]{1,3}-\d+$")


class Wanted(BaseModel):
    model_config = ConfigDict(extra="forbid", str_strip_whitespace=True)
    title: str = Field(min_length=2, examples=["a permit"])
    mail: EmailStr | None = None
    rank: Rank = Rank.low
    fee: Decimal = Field(default=Decimal("1.50"), decimal_places=2)
    begin: date | None = None
    end: date | None = None
    about: Annotated[Dog | Car, Field(discriminator="kind")] | None = None

    @model_validator(mode="after")
    def in_order(self):
        if self.begin and self.end and self.begin > self.end:
            raise ValueError("it ends before it begins")
        return self


class Ticket(Wanted):
    number: int
    owner: str

    @computed_field
    @property
    def label(self) -> str:
        return f"{self.number:04d} {self.title}"


router, reading = APIRouter(), APIRouter()


def note(journal, text):
    journal.append(text)


@router.post("/", status_code=status.HTTP_201_CREATED)
async def draw(wanted: Wanted, session: Session, who: Person, tasks: BackgroundTasks, request: Request) -> Ticket:
    if wanted.title == "the last form":
        raise OutOfForms("no forms are left")
    ticket = Ticket(number=len(session) + 1, owner=who, **wanted.model_dump())
    session[ticket.number] = ticket
    tasks.add_task(note, request.app.state.journal, f"{who} drew {ticket.number}")
    return ticket


@router.get("/", response_model_exclude_none=True)
def every(session: Session, page: Page) -> list[Ticket]:
    return list(session.values())[page.slice]


@router.get("/{number}", responses={404: {"description": "no such ticket"}})
@reading.get("/tickets/{number}")
def one(number: Annotated[int, Path(ge=1)], request: Request, response: Response) -> dict:
    response.headers["Cache-Control"] = "no-store"
    return {"number": number, "root": request.scope.get("root_path"), "url": str(request.url_for("one", number=number))}


@router.patch("/{number}")
async def change(number: int, title: Annotated[str, Body(embed=True)], session: Session, who: Person) -> Ticket:
    if number not in session:
        raise HTTPException(404, f"no ticket {number}")
    if session[number].owner != who:
        raise HTTPException(403)
    session[number].title = title
    return session[number]


@router.delete("/{number}", status_code=204)
async def tear(number: int, session: Session) -> None:
    session.pop(number, None)


@router.get("/journal/all")
async def journal(request: Request) -> dict:
    return {"journal": request.app.state.journal, "open": request.app.state.open_sessions}


@router.get("/now/utc")
async def now() -> datetime:
    return datetime.now(UTC)
