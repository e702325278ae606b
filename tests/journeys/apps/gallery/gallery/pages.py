from datetime import UTC, date, datetime

from flask import Blueprint, abort, jsonify, render_template, request, send_from_directory, stream_with_context
from flask_babel import format_currency, format_date, format_datetime, format_decimal, gettext, ngettext

pages = Blueprint("pages", __name__)
PAINTED = datetime(1961, 3, 4, 12, 30, tzinfo=UTC)


@pages.get("/")
def index():
    return render_template("index.html", count=int(request.args.get("count", 1)), paintings=["Blue", "Röd", "<b>"])


@pages.get("/formats")
def formats():
    return jsonify(
        date=format_date(date(2024, 2, 29), "full"),
        time=format_datetime(PAINTED, "long"),
        number=format_decimal(1234567.891),
        money=format_currency(1299.5, "EUR"),
        text=gettext("Welcome to the gallery"),
        texts=[ngettext("%(num)d painting", "%(num)d paintings", count) for count in (0, 1, 2)],
    )


@pages.get("/robots.txt")
def robots():
    return send_from_directory(pages.root_path + "/static", "robots.txt", max_age=60)


@pages.post("/echo")
def echo():
    return request.get_data(), {"Content-Type": request.content_type or "text/plain"}


@pages.get("/lines")
def lines():
    count = request.args.get("n", 10, int)

    def generate():
        for number in range(count):
            yield f"{number} {request.path}\n"

    return stream_with_context(generate()), {"Content-Type": "text/plain"}


@pages.route("/refuse/<int:status>", methods=["GET", "PUT"])
def refuse(status):
    abort(status, gettext("There is no such page."))


@pages.get("/divide/<int:by>")
def divide(by):
    return str(1 / by)
