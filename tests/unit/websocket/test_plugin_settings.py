"""Settings of plugins: read from variables and file, validated, found in every context."""

from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel, ConfigDict, Field, SecretStr, field_validator

from backend.app.config import Settings, unknown_names
from backend.app.websocket.discovery import Outcome, discover, names_without_plugin
from backend.app.websocket.plugin import PluginContext, PluginError, WebSocketPlugin
from backend.app.websocket.plugin_settings import PluginValues
from tests.plugin_world import make_context, make_manager, make_plugin, until, within


class Retry(BaseModel):
    """A part of settings."""

    most: int = 3


class HookSettings(BaseModel):
    """Settings with a field of each kind."""

    url: str
    token: SecretStr = SecretStr("")
    port: int = Field(80, ge=1)
    tags: list[str] = []
    retry: Retry = Retry()


class HookPlugin(WebSocketPlugin):
    """Keeps the settings that each hook finds."""

    settings_model = HookSettings
    message_types = ("hook",)

    def __init__(self) -> None:
        self.seen: dict[str, Any] = {}

    async def startup(self, context: PluginContext) -> None:
        self.seen["startup"] = context.settings

    async def shutdown(self, context: PluginContext) -> None:
        self.seen["shutdown"] = context.settings

    async def initialize(self, context: PluginContext) -> None:
        self.seen["initialize"] = context.settings

    async def cleanup(self, context: PluginContext) -> None:
        self.seen["cleanup"] = context.settings

    async def handle_event(self, event_type: str, event_data: dict[str, Any], context: PluginContext) -> None:
        self.seen["handle_event"] = context.settings

    async def handle_message(self, message: dict[str, Any], context: PluginContext) -> None:
        self.seen["handle_message"] = context.settings


def refusal(values: dict[str, Any], plugin: WebSocketPlugin | None = None) -> str:
    """What is said about wrong values."""
    with pytest.raises(PluginError) as refused:
        PluginValues({"hook": values}).read(plugin or HookPlugin())
    return str(refused.value)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working folder."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_variables_go_before_the_file_field_by_field(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """WINDFLOW_PLUGIN__NAME__FIELD and `[plugin.NAME]` of windflow.toml; the variable goes first."""
    (folder / "windflow.toml").write_text(
        '[plugin.hook]\nurl = "from the file"\nport = 99\ntags = ["file"]\n', encoding="utf-8"
    )
    for name, value in {
        "URL": "12345",
        "TOKEN": "0123",
        "TAGS": '["a", "b"]',
        "RETRY__MOST": "7",
    }.items():
        monkeypatch.setenv(f"WINDFLOW_PLUGIN__HOOK__{name}", value)
    found = PluginValues(Settings().plugin).read(HookPlugin())
    assert isinstance(found, HookSettings)
    assert (found.url, found.port, found.tags, found.retry.most) == ("12345", 99, ["a", "b"], 7)
    assert found.token.get_secret_value() == "0123"


def test_one_name_can_be_a_text_and_have_parts(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Odd variables neither keep the server from starting nor hide others."""
    for name, value in {"PLUGIN__A": "1", "PLUGIN__A__B": "2", "PLUGIN__A__B__C": "3", "PLUGIN__": "4"}.items():
        monkeypatch.setenv(f"WINDFLOW_{name}", value)
    assert Settings().plugin["a"] == {"b": {"c": "3"}}
    assert unknown_names({"WINDFLOW_PLUGIN__A": "1", "WINDFLOW_PLUGIN__A__B": "2"}) == [
        "unknown setting WINDFLOW_PLUGIN__A: a plugin's are called WINDFLOW_PLUGIN__NAME__FIELD"
    ]


def test_a_wrong_value_names_field_variable_and_rule_and_not_the_value() -> None:
    """A bad value lists the plugin as failed with field and rule."""
    text = refusal({"port": "no secret of mine", "retry": {"most": "x"}})
    assert text.startswith("plugin hook: settings: url (WINDFLOW_PLUGIN__HOOK__URL): Field required; port ")
    assert "port (WINDFLOW_PLUGIN__HOOK__PORT): Input should be a valid integer" in text
    assert "retry.most (WINDFLOW_PLUGIN__HOOK__RETRY__MOST): Input should be a valid integer" in text
    assert "secret of mine" not in text
    assert "tags.1 (" in refusal({"url": "u", "tags": '["a", 1]'})
    assert "tags (" in refusal({"url": "u", "tags": "a,b"})


def test_a_models_own_failure_is_the_plugins() -> None:
    """Whatever plugin code raises is contained."""

    class Broken(BaseModel):
        url: str = "u"

        @field_validator("url")
        @classmethod
        def _exits(cls, value: str) -> str:
            raise SystemExit(1)

    assert "SystemExit: 1" in refusal({"url": "x"}, make_plugin("HookPlugin", settings_model=Broken))


def test_something_else_than_a_model_is_refused() -> None:
    """Registering validates and says which argument is wrong."""
    for wrong in ({"url": "u"}, HookSettings(url="u"), dict, "HookSettings"):
        with pytest.raises(PluginError, match="settings_model: must be a class derived from"):
            make_manager(make_plugin(settings_model=wrong))


async def test_every_hook_finds_the_settings_in_its_context() -> None:
    """`context.settings` of a plugin, in each of its hooks and in no other plugin's."""
    plugin, other = HookPlugin(), HookPlugin()
    other.name, other.message_types = "other", ()  # type: ignore[assignment]
    manager = make_manager()
    manager.configure(Settings(plugin={"hook": {"url": "u1"}, "OTHER": {"URL": "u2"}}))
    manager.register(plugin)
    manager.register(other)
    context = make_context()
    await within(manager.startup_all(make_context()))
    await within(manager.initialize_all(context))
    await within(manager.dispatch("AUTH_LOGOUT", {}, context))
    await within(manager.handle_message("hook", {}, context))
    await within(manager.cleanup_all(context))
    await within(manager.shutdown_all())
    assert {hook: found.url for hook, found in plugin.seen.items()} == dict.fromkeys(
        ("startup", "initialize", "handle_event", "handle_message", "cleanup", "shutdown"), "u1"
    )
    assert {found.url for found in other.seen.values()} == {"u2"}
    assert context.settings is None


async def test_a_plugin_that_leaves_a_running_server_keeps_its_settings_to_the_end() -> None:
    """`cleanup` and `shutdown` of an unregistered plugin find the settings, too."""
    plugin, context, manager = HookPlugin(), make_context(), make_manager()
    manager.configure(Settings(plugin={"hook": {"url": "u"}}))
    await within(manager.startup_all(make_context()))
    await within(manager.initialize_all(context))
    manager.register(plugin)
    await until(lambda: "initialize" in plugin.seen)
    manager.unregister("hook")
    await until(lambda: "shutdown" in plugin.seen)
    assert {found.url for found in plugin.seen.values()} == {"u"}
    await within(manager.shutdown_all())


async def test_a_plugin_registered_before_its_values_are_known_is_checked_at_the_start() -> None:
    """A bad value lists the plugin as failed; the others start."""
    manager = make_manager(HookPlugin(), other := make_plugin("OtherPlugin"))
    manager.configure(Settings(plugin={"hook": {"url": "u", "port": "0"}}))
    await within(manager.startup_all(make_context()))
    assert "port (WINDFLOW_PLUGIN__HOOK__PORT): Input should be greater" in manager.failures["hook"]
    result = await manager.call_event(manager.get("hook") or other, "AUTH_LOGOUT", {}, make_context())
    assert "settings" in (result.reason or "")
    assert "other" not in manager.failures
    await within(manager.shutdown_all())


async def test_a_test_gives_its_own_settings_or_gets_the_defaults() -> None:
    """Called directly, without server and configuration, a plugin works with what the context holds."""

    class Easy(BaseModel):
        text: str = "default"

    seen: list[str] = []

    async def handle_event(self: Any, event_type: str, event_data: dict[str, Any], context: PluginContext) -> None:
        seen.append(context.settings.text)

    manager = make_manager(make_plugin(settings_model=Easy, handle_event=handle_event))
    await manager.dispatch("AUTH_LOGOUT", {}, make_context())
    await manager.dispatch("AUTH_LOGOUT", {}, make_context(settings=Easy(text="mine")))
    assert seen == ["default", "mine"]


PLUGIN_FILE = """
from pydantic import BaseModel
from backend.app.websocket.plugin import WebSocketPlugin
class BellSettings(BaseModel):
    volume: int
class BellPlugin(WebSocketPlugin):
    settings_model = BellSettings
"""


def test_discovery_lists_a_wrong_value_as_a_failure(tmp_path: Path) -> None:
    """Validated at discovery; the plugin is failed with field and rule, and the server starts."""
    (tmp_path / "bell.py").write_text(PLUGIN_FILE, encoding="utf-8")
    for value, outcome in (("loud", Outcome.FAILED), ("3", Outcome.REGISTERED)):
        manager = make_manager()
        settings = Settings(plugins_dir=tmp_path, plugin={"bell": {"volume": value}})
        manager.configure(settings)
        (found,) = [each for each in discover(manager, settings) if each.name == "bell"]
        assert found.outcome is outcome
        if outcome is Outcome.FAILED:
            assert "volume (WINDFLOW_PLUGIN__BELL__VOLUME): Input should be a valid integer" in (found.reason or "")
            assert "volume" in manager.failures["bell"]


def test_names_that_no_plugin_takes_are_told_with_the_nearest(tmp_path: Path) -> None:
    """A WINDFLOW_PLUGIN__ name that no plugin takes is warned about at start with the nearest one."""
    (tmp_path / "broken.py").write_text("class BrokenThingPlugin:\n    pass\nraise ValueError\n", encoding="utf-8")

    class Open(BaseModel):
        model_config = ConfigDict(extra="allow")

    manager = make_manager(HookPlugin(), make_plugin("PlainPlugin"), make_plugin("OpenPlugin", settings_model=Open))
    found = discover(manager, Settings(plugins_dir=tmp_path, plugins_allow=["broken", "none"]))
    values = PluginValues(
        {
            "hok": {"url": "u"},
            "hook": {"urll": "u", "port": 1},
            "plain": {"x": 1},
            "open": {"anything": 1},
            "broken_thing": {"x": 1},
            "audit_logger": {"x": 1},
        }
    )
    assert values.unclaimed(manager.plugins, names_without_plugin(found)) == [
        "WINDFLOW_PLUGIN__HOK__…: there is no plugin hok; did you mean hook?",
        "WINDFLOW_PLUGIN__HOOK__URLL: plugin hook has no setting urll; did you mean url?",
        "WINDFLOW_PLUGIN__PLAIN__X: plugin plain has no settings",
    ]
