"""`fildes new NAME --runtime R`: a small project that can be published as it is."""

from __future__ import annotations

import argparse
import os

from fildes.cli._shared import Trouble
from fildes.cli._templates import TEMPLATES, files

HELP = "write a small project to begin with: fildes new guestbook --runtime wsgi"


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("service", metavar="NAME", help="the service's name")
    parser.add_argument(
        "--runtime",
        choices=sorted(TEMPLATES),
        default="asgi",
        help="what runs it: asgi for FastAPI and Starlette, wsgi for Flask and Django (default: asgi)",
    )
    parser.add_argument("--dir", metavar="DIR", help="where to write it (default: a folder called NAME, here)")


def run(args: argparse.Namespace) -> int:
    from fildes.manifest import words

    try:
        words.service(args.service)
    except words.Wrong as wrong:
        raise Trouble(f"{wrong.text}" + (f"; {wrong.hint}" if wrong.hint else "")) from wrong
    folder = args.dir or args.service
    made = files(args.service, args.runtime)
    try:
        os.makedirs(folder, exist_ok=True)
        there = sorted(set(made) & set(os.listdir(folder)))
        if there:
            raise Trouble(f"{folder}: {', '.join(there)} is there already, and nothing was written; name another --dir")
        for name, text in made.items():
            with open(os.path.join(folder, name), "x", encoding="utf-8") as file:
                file.write(text)
    except FileExistsError as error:
        raise Trouble(f"{error.filename or folder}: is there already; name another --dir") from error
    except OSError as error:
        raise Trouble(f"{error.filename or folder}: {error.strerror}") from error
    print(f"{folder}: {', '.join(made)}")
    print(f"fildes.toml says what each of its lines is for. To publish it: fildes publish {folder}")
    return 0
