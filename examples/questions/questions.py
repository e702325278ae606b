"""Questions for a speaker, and hands that go up: Flask as anybody writes it. Kept in memory, until nobody looks."""

import threading
from itertools import count

from flask import Flask, abort, redirect, render_template, request, url_for

app = Flask(__name__)
lock = threading.Lock()  # requests run in threads
numbers = count(1)
questions = {}  # number → {"text", "hands"}


def raised():
    """Where this visitor's hand is up already: numbers, in a cookie."""
    return request.cookies.get("raised", "").split(".")


@app.get("/")
def index():
    ordered = sorted(questions.items(), key=lambda item: -item[1]["hands"])
    return render_template("index.html", questions=ordered, raised=raised())


@app.post("/")
def ask():
    text = request.form.get("text", "").strip()[:200]
    if text:
        with lock:
            if len(questions) < 100:
                questions[next(numbers)] = {"text": text, "hands": 0}
    return redirect(url_for("index"))


@app.post("/<int:number>/hand")
def raise_hand(number):
    if number not in questions:
        abort(404)
    answer = redirect(url_for("index"))
    if str(number) not in raised():
        answer.set_cookie("raised", ".".join([*raised(), str(number)]), httponly=True, samesite="Lax")
        with lock:
            questions[number]["hands"] += 1
    return answer
