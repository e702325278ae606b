from typing import Annotated

from counter.deps import PEOPLE, Person, badge, bearer
from fastapi import APIRouter, Depends, HTTPException, Response
from fastapi.security import HTTPAuthorizationCredentials, OAuth2PasswordRequestForm

router = APIRouter(responses={401: {"description": "not known"}})


@router.post("/token")
async def token(form: Annotated[OAuth2PasswordRequestForm, Depends()], response: Response):
    if PEOPLE.get(form.username) != form.password:
        raise HTTPException(400, "that is not the word")
    response.set_cookie("badge", form.username, max_age=60, httponly=True, samesite="strict")
    return {"access_token": f"{form.username}.token", "token_type": "bearer", "scopes": form.scopes}


@router.get("/me")
async def me(who: Person, worn: Annotated[str | None, Depends(badge)] = None):
    return {"who": who, "badge": worn}


@router.get("/raw")
async def raw(given: Annotated[HTTPAuthorizationCredentials | None, Depends(bearer)]):
    return given
