from typing import Annotated

from fastapi import Depends, Header, HTTPException, Query, Request, Response
from fastapi.security import APIKeyCookie, HTTPBearer, OAuth2PasswordBearer

oauth = OAuth2PasswordBearer("/people/token", scopes={"stamp": "to stamp"})
bearer = HTTPBearer(auto_error=False)
badge = APIKeyCookie(name="badge", auto_error=False)
PEOPLE = {"ada": "kunst", "bob": "musik"}


class OutOfForms(Exception):
    pass


def common(request: Request, response: Response, x_trace: Annotated[str | None, Header()] = None):
    """Of every request."""
    response.headers["X-Trace"] = x_trace or "none"
    return request.url.path


def session(request: Request):
    """Opened, and closed after the answer was made, whatever happened; runs in a thread."""
    request.app.state.open_sessions += 1
    try:
        yield request.app.state.tickets
    except OutOfForms:
        request.app.state.journal.append("rolled back")
        raise
    finally:
        request.app.state.open_sessions -= 1


async def person(token: Annotated[str, Depends(oauth)]):
    name, _, rest = token.partition(".")
    if name not in PEOPLE or rest != "token":
        raise HTTPException(401, "who is that?", {"WWW-Authenticate": "Bearer"})
    return name


class Pages:
    def __init__(self, skip: Annotated[int, Query(ge=0)] = 0, limit: Annotated[int, Query(ge=1, le=50)] = 10):
        self.slice = slice(skip, skip + limit)


Session = Annotated[dict, Depends(session)]
Person = Annotated[str, Depends(person)]
Page = Annotated[Pages, Depends()]
