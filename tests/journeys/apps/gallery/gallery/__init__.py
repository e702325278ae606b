"""A gallery, as people write programs with Flask: a factory, blueprints, a session, languages, pictures, feeds."""

import os
from pathlib import Path

from flask import Flask, g, render_template, request, session
from flask_babel import Babel, get_locale, gettext


def language():
    if "language" in session:
        return session["language"]
    return request.accept_languages.best_match(["en", "de", "fr"])


def create_app():
    app = Flask(__name__)
    app.secret_key = Path(os.environ.get("SESSION_KEY_FILE", "/run/secrets/session-key")).read_bytes()
    app.config["MAX_CONTENT_LENGTH"] = 3_000_000
    app.config["BABEL_DEFAULT_TIMEZONE"] = "Europe/Berlin"
    Babel(app, locale_selector=language)
    app.jinja_env.globals["get_locale"] = get_locale

    from gallery import account, feeds, pages, pictures

    app.register_blueprint(pages.pages)
    app.register_blueprint(account.account, url_prefix="/account")
    app.register_blueprint(pictures.pictures, url_prefix="/pictures")
    app.register_blueprint(feeds.feeds, url_prefix="/feeds")

    @app.before_request
    def who():
        g.visitor = session.get("visitor")

    @app.after_request
    def language_of_answer(response):
        response.headers.setdefault("Content-Language", str(get_locale()))
        return response

    @app.errorhandler(404)
    def missing(error):
        return render_template("missing.html", text=gettext("There is no such page.")), 404

    return app
