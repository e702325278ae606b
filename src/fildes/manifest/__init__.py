"""fildes.toml: what a service is, and what it is granted. Pure: bytes in, Manifest or every problem out."""

from fildes.manifest.infer import infer
from fildes.manifest.problems import ManifestError, Problem
from fildes.manifest.reader import read
from fildes.manifest.verify import verify
from fildes.wire.catalogue import Grant, Limits, Manifest

__all__ = ["Grant", "Limits", "Manifest", "ManifestError", "Problem", "infer", "read", "verify"]
