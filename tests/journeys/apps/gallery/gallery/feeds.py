"""XML made, read, checked and transformed with lxml."""

from pathlib import Path

from flask import Blueprint, Response, jsonify, request
from lxml import etree, html

feeds = Blueprint("feeds", __name__)
HERE = Path(__file__).parent / "static"


@feeds.get("/atom.xml")
def atom():
    name = "http://www.w3.org/2005/Atom"
    feed = etree.Element(f"{{{name}}}feed", nsmap={None: name})
    for number in range(request.args.get("n", 3, int)):
        entry = etree.SubElement(feed, f"{{{name}}}entry")
        etree.SubElement(entry, f"{{{name}}}title").text = f"Bild {number} & mehr — ü"
    data = etree.tostring(feed, xml_declaration=True, encoding="utf-8", pretty_print=True)
    return Response(data, mimetype="application/atom+xml")


@feeds.get("/page")
def page():
    """A document beside the program through a stylesheet beside the program: opened by libxml2, in C."""
    transform = etree.XSLT(etree.parse(str(HERE / "page.xsl")))
    return Response(bytes(transform(etree.parse(str(HERE / "page.xml")))), mimetype="text/html")


@feeds.post("/check")
def check():
    schema = etree.XMLSchema(etree.parse(str(HERE / "page.xsd")))
    try:
        document = etree.fromstring(request.get_data())
    except etree.XMLSyntaxError as error:
        return jsonify(error=error.msg), 400
    return jsonify(valid=schema.validate(document), problems=[entry.message for entry in schema.error_log])


@feeds.post("/links")
def links():
    tree = html.fromstring(request.get_data(as_text=True))
    tree.make_links_absolute("https://example.org/a/")
    return jsonify(links=[link for _, _, link, _ in tree.iterlinks()], text=tree.text_content().split())
