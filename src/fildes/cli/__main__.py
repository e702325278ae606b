"""`fildes VERB …`: finds the verb's file and runs it. Nothing else is imported, so that `fildes ps` is quick."""

from __future__ import annotations

import argparse
import importlib
import os
import sys
from collections.abc import Sequence
from types import ModuleType
from typing import NoReturn

from fildes import __version__


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a verb; its exit status. 2 is for a command line that makes no sense, 1 for what could not be done."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    before: list[str] = []
    if words[:1] == ["--state"]:  # before the verb as well as after it
        before, words = words[:2], words[2:]
    if not words or words[0] in ("-h", "--help", "help"):
        print(_overview())
        return 0 if words else 2
    if words[0] in ("-V", "--version"):
        print(f"fildes {__version__}")
        return 0
    module = _verb(words[0])
    parser = argparse.ArgumentParser(prog=f"fildes {words[0]}", description=module.HELP)
    parser.add_argument("--state", metavar="DIR", help="the node's state directory (or FILDES_STATE)")
    module.arguments(parser)
    return _run(module, parser.parse_args([*before, *words[1:]]))


def _run(module: ModuleType, args: argparse.Namespace) -> int:
    from fildes.cli._shared import Trouble

    try:
        status: int = module.run(args)
        sys.stdout.flush()
    except Trouble as trouble:
        print(f"fildes: {trouble}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:  # `fildes logs | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    return status


def _verb(word: str) -> ModuleType:
    verbs = _verbs()
    if word in verbs:
        return importlib.import_module(f"fildes.cli.{word.replace('-', '_')}")
    import difflib

    near = difflib.get_close_matches(word, verbs, 1)
    hint = f"did you mean {near[0]!r}?" if near else f"there are: {', '.join(verbs)}"
    _usage(f"no verb {word!r}; {hint}")


def _usage(text: str) -> NoReturn:
    print(f"fildes: {text}", file=sys.stderr)
    sys.exit(2)


def _verbs() -> list[str]:
    files = os.listdir(os.path.dirname(os.path.abspath(__file__)))
    return sorted(f[:-3].replace("_", "-") for f in files if f.endswith(".py") and not f.startswith("_"))


def _overview() -> str:
    lines = ["usage: fildes VERB …", ""]
    for verb in _verbs():
        lines.append(f"  {verb:<10} {_verb(verb).HELP}")
    return "\n".join([*lines, "", "fildes VERB --help says more."])


if __name__ == "__main__":
    sys.exit(main())
