"""The smallest WSGI application that answers."""

BODY = b"hello\n"
HEADERS = [("Content-Type", "text/plain"), ("Content-Length", "6")]


def app(environ, start_response):
    start_response("200 OK", HEADERS)
    return [BODY]
