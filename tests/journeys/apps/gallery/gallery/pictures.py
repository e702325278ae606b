"""Pictures made, and pictures read."""

import hashlib
import io
from pathlib import Path

from flask import Blueprint, jsonify, request, send_file
from PIL import Image, ImageDraw, ImageFilter, ImageFont, ImageOps

pictures = Blueprint("pictures", __name__)
KINDS = {"png": "PNG", "jpeg": "JPEG", "webp": "WEBP", "gif": "GIF", "tiff": "TIFF", "bmp": "BMP", "pdf": "PDF"}
HERE = Path(__file__).parent


def painted(words, size=160):
    image = Image.new("RGB", (size, size), "navy")
    draw = ImageDraw.Draw(image)
    draw.ellipse((10, 10, size - 10, size - 10), fill="gold", outline="white", width=3)
    draw.text((20, size // 2), words, fill="black", font=ImageFont.load_default(24))
    return image


@pictures.get("/made.<kind>")
def made(kind):
    file = io.BytesIO()
    painted(request.args.get("words", "Blau"), request.args.get("size", 160, int)).save(file, KINDS[kind])
    file.seek(0)
    tag = hashlib.sha1(file.getvalue()).hexdigest()
    return send_file(file, f"image/{kind}", etag=tag, download_name=f"made.{kind}")


@pictures.get("/kept")
def kept():
    """The size of one that lies beside the program."""
    with Image.open(HERE / "static" / "frame.png") as image:
        return jsonify(size=image.size, mode=image.mode, corner=image.convert("RGB").getpixel((0, 0)))


@pictures.post("/thumbnail")
def thumbnail():
    upload = request.files["picture"]
    with Image.open(upload.stream) as image:
        small = ImageOps.exif_transpose(image).convert("RGB")
    small.thumbnail((64, 64))
    small = small.filter(ImageFilter.GaussianBlur(1))
    file = io.BytesIO()
    small.save(file, "PNG")
    answer = send_file(io.BytesIO(file.getvalue()), "image/png", download_name="thumbnail.png")
    answer.headers["X-Was"] = f"{upload.filename} {image.format} {image.width}x{image.height}"
    return answer


@pictures.post("/read")
def read():
    told = []
    for upload in request.files.getlist("pictures"):
        try:
            with Image.open(upload.stream) as image:
                image.load()
                told.append({"name": upload.filename, "format": image.format, "size": image.size})
        except OSError as error:
            told.append({"name": upload.filename, "error": type(error).__name__})
    return jsonify(told)
