"""Imports plugin code from modules, files and entry points, and finds the plugins in it.

Called by discovery. Invariants: a failed import leaves neither a module in `sys.modules` nor
a plugin that it had added; line numbers point into the plugin's own file.
"""

import ast
import contextlib
import importlib
import importlib.util
import inspect
import itertools
import re
import sys
import traceback
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from types import ModuleType

from backend.app.websocket.plugin_base import WebSocketPlugin, name_of
from backend.app.websocket.plugin_checks import PluginError

_PRIVATE = "windflow_plugin_"
_generation = itertools.count(1)


def import_module(name: str) -> ModuleType:
    """Import a module by its name; if that fails, forget it and its submodules, and raise what it raised."""
    known = set(sys.modules)
    try:
        return importlib.import_module(name)
    except BaseException:
        forget(name, known)
        raise


def import_file(path: Path) -> ModuleType:
    """Import a file, or a folder with `__init__.py`, under a private name of its own, so that it hides nothing."""
    file = path / "__init__.py" if path.is_dir() else path
    name = f"{_PRIVATE}{next(_generation)}_{re.sub(r'[^0-9A-Za-z_]', '_', path.stem)}"
    folders = [str(path)] if path.is_dir() else None
    _forget_bytecode(path)
    spec = importlib.util.spec_from_file_location(name, file, submodule_search_locations=folders)
    if spec is None or spec.loader is None:
        raise ImportError(f"{file} is not a Python file")
    module = importlib.util.module_from_spec(spec)
    known = set(sys.modules)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        forget(name, known)
        raise
    return module


def import_anew(name: str) -> Callable[[], None]:
    """Import a module and its submodules anew; return what puts back those that were there before.

    If that fails, they are put back, and what was raised is raised.
    """
    before = {each: module for each, module in sys.modules.items() if each == name or each.startswith(f"{name}.")}
    parent, _, last = name.rpartition(".")
    attribute = getattr(sys.modules.get(parent), last, None)

    def put_back() -> None:
        forget(name)
        sys.modules.update(before)
        if attribute is not None:
            setattr(sys.modules[parent], last, attribute)

    for module in before.values():
        if (file := getattr(module, "__file__", None)) is not None:
            _forget_bytecode(Path(file))
    forget(name)
    importlib.invalidate_caches()
    try:
        importlib.import_module(name)
    except BaseException:
        put_back()
        raise
    return put_back


def forget_file(plugin: WebSocketPlugin) -> None:
    """Take the modules that `import_file` made for a plugin out of `sys.modules`; its classes live on."""
    if is_from_file(plugin):
        forget(type(plugin).__module__.partition(".")[0])


def _forget_bytecode(path: Path) -> None:
    """Remove what Python compiled from a file or a folder: two versions of a second with one size look the same."""
    for file in path.rglob("*.py") if path.is_dir() else (path,):
        # In a folder that cannot be written to, Python has not written any.
        with contextlib.suppress(OSError):
            Path(importlib.util.cache_from_source(str(file))).unlink(missing_ok=True)


def forget(name: str, known: Collection[str] = ()) -> None:
    """Take a module and its submodules out of `sys.modules`, but for those that are `known`; their classes live on."""
    for loaded in [each for each in sys.modules if each == name or each.startswith(f"{name}.")]:
        if loaded not in known:
            del sys.modules[loaded]


def plugin_names_in(file: Path) -> set[str]:
    """Return the plugin names that a file's classes would have, without running it; empty if it cannot be read."""
    try:
        tree = ast.parse(file.read_bytes())
    except (OSError, SyntaxError, ValueError, RecursionError, MemoryError):
        return set()
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ClassDef):
            names.add(name_of(node.name))
            names.update(_explicit_names(node))
    return names


def _explicit_names(node: ast.ClassDef) -> Iterator[str]:
    """Yield what a class body assigns to `name`."""
    for statement in node.body:
        match statement:
            case (
                ast.Assign(targets=[ast.Name(id="name")], value=ast.Constant(value=str(text)))
                | ast.AnnAssign(target=ast.Name(id="name"), value=ast.Constant(value=str(text)))
            ):
                yield text


def name_shown(plugin: object) -> str:
    """Return the name to show for what should be a plugin, also for what is none or has a name that fails."""
    try:
        return str(plugin.name)  # type: ignore[attr-defined]
    except BaseException:  # noqa: BLE001 - a name may be computed by plugin code
        return name_of(type(plugin).__name__)


def is_defined_in(cls: type, module: ModuleType) -> bool:
    """Tell whether a class was written in this module, or in a submodule of this package."""
    return cls.__module__ == module.__name__ or cls.__module__.startswith(f"{module.__name__}.")


def is_from_file(plugin: WebSocketPlugin) -> bool:
    """Tell whether a plugin's class was read by `import_file`."""
    return type(plugin).__module__.startswith(_PRIVATE)


def plugin_classes(module: ModuleType) -> list[Callable[[], WebSocketPlugin]]:
    """Return the concrete plugin classes that a module defines and whose constructor needs no argument.

    A class whose name begins with an underscore is taken for a base of others.
    """
    found: dict[int, type[WebSocketPlugin]] = {}
    for value in list(vars(module).values()):
        if inspect.isclass(value) and issubclass(value, WebSocketPlugin) and is_defined_in(value, module):
            found[id(value)] = value
    return [cls for cls in found.values() if not cls.__name__.startswith("_") and is_constructible(cls)]


def is_constructible(cls: type) -> bool:
    """Tell whether a class is concrete and can be called without arguments."""
    if inspect.isabstract(cls):
        return False
    try:
        inspect.signature(cls).bind()
    except (TypeError, ValueError):
        return False
    return True


def line_of(error: BaseException, file: Path | None, plugin: object = None) -> int | None:
    """Return the line of the plugin's file that an error comes from, or that is wrong; None if it is not known."""
    if isinstance(error, PluginError):
        return _line_of_definition(plugin, error.argument)
    if file is None:
        return None
    place = str(file)
    if isinstance(error, SyntaxError) and error.filename is not None and error.filename.startswith(place):
        return error.lineno
    frames = traceback.extract_tb(error.__traceback__)
    return next((frame.lineno for frame in reversed(frames) if frame.filename.startswith(place)), None)


def _line_of_definition(plugin: object, attribute: str) -> int | None:
    """Return where a hook, or else the class, of a refused plugin is defined."""
    hook = getattr(type(plugin), attribute, None)
    for thing in (hook, type(plugin)):
        try:
            return inspect.getsourcelines(inspect.unwrap(thing))[1]  # type: ignore[arg-type]
        except (OSError, TypeError, ValueError):
            continue
    return None
