from flask import Blueprint, flash, g, redirect, render_template, request, session, url_for
from flask_babel import gettext, refresh
from werkzeug.security import check_password_hash, generate_password_hash

account = Blueprint("account", __name__)
# Of "kunst", by scrypt.
KNOWN = generate_password_hash("kunst", method="scrypt:1024:8:1")


@account.route("/enter", methods=["GET", "POST"])
def enter():
    if request.method == "POST":
        if not check_password_hash(KNOWN, request.form["word"]):
            flash(gettext("That is not the word."))
            return render_template("enter.html"), 403
        session["visitor"] = request.form["name"]
        session.setdefault("seen", []).append(request.form["name"])
        flash(gettext("Welcome to the gallery"))
        return redirect(url_for("account.home"), 303)
    return render_template("enter.html")


@account.get("/")
def home():
    if not g.visitor:
        return redirect(url_for("account.enter", next=request.path))
    return render_template("home.html", seen=session["seen"])


@account.get("/language/<code>")
def language(code):
    session["language"] = code
    session.permanent = True
    refresh()
    return redirect(url_for("pages.index"))


@account.post("/leave")
def leave():
    session.clear()
    return "", 204
