"""The settings of plugins: what an operator set for a plugin, as the pydantic model that the plugin declares.

Asked by the registry for each plugin, and by `main` for names that no plugin takes. Invariant: what
is wrong with a value is a PluginError that names the field, the variable and the rule, never the value.
"""

import difflib
from collections.abc import Collection, Iterable, Mapping
from typing import Any

import orjson
from pydantic import BaseModel, ValidationError

from backend.app.websocket.plugin_base import WebSocketPlugin
from backend.app.websocket.plugin_checks import PluginError, error_text

PREFIX = "WINDFLOW_PLUGIN__"


class PluginValues:
    """What was set for plugins, by plugin and field. Names are compared without regard to case."""

    def __init__(self, values: Mapping[str, Mapping[str, Any]]) -> None:
        self._values = {name.lower(): dict(fields) for name, fields in values.items()}

    def read(self, plugin: WebSocketPlugin) -> BaseModel | None:
        """Return the settings of a plugin, None for one that declares none; raise PluginError for a wrong value."""
        model = plugin.settings_model
        if model is None:
            return None
        names = {name.lower(): name for name in model.model_fields}
        given = {names.get(key.lower(), key): value for key, value in self._values.get(plugin.name.lower(), {}).items()}
        try:
            return _validate(model, given)
        except ValidationError as error:
            raise PluginError(plugin.name, "settings", _rules(plugin.name, error)) from None
        except BaseException as error:
            # A model's validators are plugin code: whatever they raise is this plugin's failure alone.
            raise PluginError(plugin.name, "settings", error_text(error)) from error

    def unclaimed(self, plugins: Iterable[WebSocketPlugin], other_names: Collection[str]) -> list[str]:
        """Return one sentence for each name that no plugin takes, with the nearest one.

        `other_names` are those of plugins that are not loaded: nothing is said about their fields.
        """
        by_name = {plugin.name.lower(): plugin for plugin in plugins}
        known = sorted({*by_name, *(name.lower() for name in other_names)})
        sentences = []
        for name, fields in self._values.items():
            variable = f"{PREFIX}{name.upper()}__…"
            if name not in known:
                sentences.append(f"{variable}: there is no plugin {name}{_nearest(name, known)}")
            elif (plugin := by_name.get(name)) is not None:
                sentences += _unknown_fields(plugin, fields)
        return sentences


def _validate(model: type[BaseModel], given: Mapping[str, Any]) -> BaseModel:
    """Validate values; texts of the environment that are JSON lists or objects are read as such where needed."""
    try:
        return model.model_validate(given, by_name=True, by_alias=True)
    except ValidationError as error:
        refused = {str(item["loc"][0]) for item in error.errors() if item["loc"]}
        decoded = {name: value for name in refused if (value := _decoded(given.get(name))) is not None}
        if not decoded:
            raise
    return model.model_validate({**given, **decoded}, by_name=True, by_alias=True)


def _decoded(value: object) -> Any:
    if not isinstance(value, str) or not value.lstrip().startswith(("[", "{")):
        return None
    try:
        return orjson.loads(value)
    except orjson.JSONDecodeError:
        return None


def _rules(plugin: str, error: ValidationError) -> str:
    rules = []
    for item in error.errors(include_url=False, include_input=False, include_context=False):
        field = ".".join(str(part) for part in item["loc"])
        name = f"{field} ({PREFIX}{plugin.upper()}__{field.upper().replace('.', '__')}): " if field else ""
        rules.append(f"{name}{item['msg']}")
    return "; ".join(rules)


def _unknown_fields(plugin: WebSocketPlugin, fields: Iterable[str]) -> list[str]:
    prefix = f"{PREFIX}{plugin.name.upper()}__"
    model = plugin.settings_model
    if model is None:
        return [f"{prefix}{field.upper()}: plugin {plugin.name} has no settings" for field in fields]
    if model.model_config.get("extra", "ignore") != "ignore":
        return []  # It takes every name, or refused the plugin already.
    known = sorted({name.lower() for name in model.model_fields} | {name.lower() for name in _aliases(model)})
    return [
        f"{prefix}{field.upper()}: plugin {plugin.name} has no setting {field.lower()}{_nearest(field.lower(), known)}"
        for field in fields
        if field.lower() not in known
    ]


def _aliases(model: type[BaseModel]) -> Iterable[str]:
    for field in model.model_fields.values():
        if isinstance(field.validation_alias, str):
            yield field.validation_alias
        elif field.alias is not None:
            yield field.alias


def _nearest(word: str, known: Iterable[str]) -> str:
    near = difflib.get_close_matches(word, known, 1)
    return f"; did you mean {near[0]}?" if near else ""
