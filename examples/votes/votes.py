"""A vote, as one function without a framework. The counting is done by another service, `tally`."""

from html import escape

from fildes import sdk
from fildes.sdk import Request, Response

CHOICES = ("bread", "cake", "soup")


def handle(request: Request):
    if request.path == "/counts":
        return counts()
    if request.path != "/":
        return Response("There is nothing here.\n", 404)
    if request.method == "POST":
        choice = request.form().get("choice")
        if choice not in CHOICES:
            return Response("That is not on the menu.\n", 400)
        counts(choice)
        return Response.redirect("./")
    return Response(page(counts()), type="text/html; charset=utf-8")


def counts(choice=""):
    """The counts, after one more vote if there is a choice. Each question is a connection of its own."""
    with sdk.connect("tally") as stream, stream.makefile("rw") as lines:
        lines.write(f"{choice}\n")
        lines.flush()
        return {word: int(count) for count, _, word in (line.strip().partition(" ") for line in lines)}


def page(found):
    buttons = "".join(
        f'<p><button name="choice" value="{escape(each)}">{escape(each)}</button> {found.get(each, 0)}'
        for each in CHOICES
    )
    return f'<!doctype html><title>Votes</title><h1>What shall we have?</h1><form method="post">{buttons}</form>'
