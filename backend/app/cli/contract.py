"""`windflow contract …`: writes the TypeScript of the event catalogue, and compares files with it.

Needs no server. Exit status of `check`: 0 no difference, 1 differences, 2 usage (a file that
cannot be read, too).
"""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from backend.app.cli.context import Cli, command
from backend.app.cli.failures import FAILED, OK

if TYPE_CHECKING:
    from backend.app.contract.check import Difference

app = typer.Typer(no_args_is_help=True)


@app.callback()
def group() -> None:
    """The event catalogue as TypeScript: build it, or check a file against it."""


@command(app, "build")
def build(
    cli: Cli,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out", metavar="FILE", help="File to write, `-` for stdout. Default: the repository's types.ts."
        ),
    ] = None,
) -> None:
    """Write types.ts from the event catalogue."""
    from backend.app.contract.hashes import contract_hash
    from backend.app.contract.typescript import generate
    from backend.app.schemas.websocket_events import core_catalogue

    catalogue = core_catalogue()
    text = generate(catalogue)
    if out == Path("-"):
        print(text, end="")
        return
    path = out or _repository_file("--out FILE")
    # As bytes: no platform turns the newlines into others.
    path.write_bytes(text.encode())
    fingerprint = contract_hash(catalogue)
    if cli.output.is_json:
        cli.output.json({"file": str(path), "events": len(catalogue), "contract": fingerprint})
    cli.output.say(f"Wrote {path}: {len(catalogue)} events, contract {fingerprint}.")


@command(app, "check")
def check(
    cli: Cli,
    file: Annotated[
        Path | None,
        typer.Argument(help="A types.ts. Default: the repository's, which must also be just as `build` writes it."),
    ] = None,
) -> int:
    """Name every difference between a types.ts and the event catalogue."""
    from backend.app.contract.check import differences
    from backend.app.contract.hashes import contract_hash
    from backend.app.contract.typescript import generate
    from backend.app.schemas.websocket_events import core_catalogue

    path = file or _repository_file("a FILE")
    content = _read(path)
    catalogue = core_catalogue()
    found = differences(content.decode("utf-8-sig"), catalogue)
    if file is None:
        found += _unlike_generated(content, generate(catalogue).encode())
    if cli.output.is_json:
        listed = [{"sentence": each.sentence, "line": each.line} for each in found]
        cli.output.json({"file": str(path), "contract": contract_hash(catalogue), "differences": listed})
    for each in found:
        cli.output.say(f"{path}:{each.line}: {each}" if each.line else f"{path}: {each}")
    if not found:
        cli.output.say(f"{path}: no difference from the catalogue ({len(catalogue)} events).")
    return FAILED if found else OK


def _read(path: Path) -> bytes:
    """Return a file's content, known to be UTF-8; a file that cannot be read is a usage error."""
    try:
        content = path.read_bytes()
        content.decode("utf-8-sig")
    except OSError as error:
        raise typer.BadParameter(f"cannot read {path}: {error.strerror}", param_hint="FILE") from error
    except UnicodeDecodeError as error:
        raise typer.BadParameter(f"{path} is not UTF-8 (byte {error.start})", param_hint="FILE") from error
    return content


def _unlike_generated(content: bytes, generated: bytes) -> "list[Difference]":
    """Name the first line that is not the generator's, if there is one."""
    from backend.app.contract.check import Difference

    if content == generated:
        return []
    pairs = zip(content.split(b"\n"), generated.split(b"\n"), strict=False)
    line = next((number for number, (given, wanted) in enumerate(pairs, 1) if given != wanted), None)
    return [Difference("the file is not as the catalogue generates it: run `windflow contract build`", line)]


def _repository_file(instead: str) -> Path:
    """Return the repository's types.ts; where the package is installed without it, end with a usage error."""
    import backend

    folder = Path(backend.__file__ or "").parent.parent / "frontend" / "src" / "services" / "websocket"
    if not folder.is_dir():
        raise typer.BadParameter(f"windflow is installed here without its repository: name {instead}")
    return folder / "types.ts"
