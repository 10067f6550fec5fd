"""Plugins on a running server: wrong settings are listed and warned about; what a plugin says of itself is shown."""

from pathlib import Path

from tests.integration.server_process import server_process
from tests.unit.websocket.test_plugin_settings import PLUGIN_FILE


async def test_a_wrong_value_fails_the_plugin_and_a_wrong_name_is_warned_about(
    own_database: dict[str, str], tmp_path: Path
) -> None:
    """A bad value lists the plugin as failed with field and rule; an unknown name is told with the nearest one."""
    plugins = tmp_path / "plugins"
    plugins.mkdir()
    (plugins / "bell.py").write_text(PLUGIN_FILE, encoding="utf-8")
    settings = {"PLUGINS_DIR": str(plugins), "PLUGIN__BELL__VOLUME": "loud", "PLUGIN__BEL__VOLUME": "3"}
    async with (
        server_process(tmp_path, settings | own_database) as server,
        server.client(await server.login()) as client,
    ):
        shown = (await client.get("/plugins/bell")).json()
        assert shown["state"] == "failed"
        assert "volume (WINDFLOW_PLUGIN__BELL__VOLUME): Input should be a valid integer" in shown["reason"]
        assert "loud" not in shown["reason"]
        warnings = [record["message"] for record in server.logged() if record["level"] == "WARNING"]
        assert "WINDFLOW_PLUGIN__BEL__…: there is no plugin bel; did you mean bell?" in warnings


async def test_what_an_instance_listens_to_is_shown(own_database: dict[str, str], tmp_path: Path) -> None:
    """GET /plugins/{name}: `eventTypes` as the plugin declares them, on its class or on the instance."""
    (tmp_path / "plugins").mkdir()
    text = """
from backend.app.websocket.plugin import WebSocketPlugin
class ChosenPlugin(WebSocketPlugin):
    def __init__(self):
        self.event_types = ["AUTH_LOGOUT"]
"""
    (tmp_path / "plugins" / "chosen.py").write_text(text, encoding="utf-8")
    settings = {"PLUGINS_DIR": str(tmp_path / "plugins")}
    async with (
        server_process(tmp_path, settings | own_database) as server,
        server.client(await server.login()) as client,
    ):
        assert (await client.get("/plugins/chosen")).json()["eventTypes"] == ["AUTH_LOGOUT"]
