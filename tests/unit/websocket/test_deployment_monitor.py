"""What the deployment monitor measures."""

from datetime import UTC, datetime, timedelta

import pytest

from backend.app.metrics import REGISTRY
from backend.app.websocket.plugin import EventEnvelope
from backend.app.websocket.plugins.deployment_monitor import DeploymentMonitorPlugin
from tests.plugin_world import make_context

BEGIN = datetime(2026, 1, 1, tzinfo=UTC)


def value(name: str, outcome: str) -> float:
    """The present value of a metric."""
    return REGISTRY.get_sample_value(name, {"outcome": outcome}) or 0.0


async def change(plugin: DeploymentMonitorPlugin, status: str, seconds: float) -> None:
    """Hand the plugin a change of status, so many seconds after the begin."""
    moment = BEGIN + timedelta(seconds=seconds)
    event = EventEnvelope("e", "DEPLOYMENT_STATUS_CHANGED", subject="d-1", created_at=moment)
    data = {"deploymentId": "d-1", "newStatus": status}
    await plugin.handle_event("DEPLOYMENT_STATUS_CHANGED", data, make_context(event=event))


@pytest.mark.parametrize("outcome", ["success", "failed", "cancelled"])
async def test_an_end_is_counted_and_its_duration_is_the_time_between_the_changes(outcome: str) -> None:
    """By the times of the events, not by when they are handled; an end whose begin nobody saw is only counted."""
    plugin = DeploymentMonitorPlugin()
    ends, seconds = (
        value("windflow_deployment_ends_total", outcome),
        value("windflow_deployment_seconds_sum", outcome),
    )
    await change(plugin, "running", 0)
    await change(plugin, outcome, 42)
    await change(plugin, outcome, 50)
    assert value("windflow_deployment_ends_total", outcome) == ends + 2
    assert value("windflow_deployment_seconds_sum", outcome) == seconds + 42
