"""Every metric, declared once. Base units, prefix `windflow_`, never an id as a label.

`REGISTRY` holds only these and the process's own; `/metrics` prints it.
"""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, PlatformCollector, ProcessCollector

REGISTRY = CollectorRegistry()
ProcessCollector(registry=REGISTRY)
PlatformCollector(registry=REGISTRY)

CONNECTIONS = Gauge("windflow_connections", "Authenticated sockets.", registry=REGISTRY)
UNAUTHENTICATED = Gauge("windflow_connections_unauthenticated", "Sockets in their auth phase.", registry=REGISTRY)
CONNECTIONS_CLOSED = Counter(
    "windflow_connections_closed", "Sockets that the server closed, by close code.", ["code"], registry=REGISTRY
)
CONNECTIONS_REFUSED = Counter(
    "windflow_connections_refused", "Sockets that were not accepted, by reason.", ["reason"], registry=REGISTRY
)
QUEUED_BYTES = Gauge(
    "windflow_connection_queued_bytes", "Most bytes that wait for one socket at present.", registry=REGISTRY
)
SUBSCRIPTIONS = Gauge("windflow_subscriptions", "Subscriptions of all sockets.", registry=REGISTRY)
MESSAGES_RECEIVED = Counter("windflow_messages_received", "Messages of clients.", registry=REGISTRY)
MESSAGES_REFUSED = Counter(
    "windflow_messages_refused", "Messages of clients that got an error, by code.", ["code"], registry=REGISTRY
)
EVENTS_COMMITTED = Counter(
    "windflow_events_committed",
    "Events handed on, by type and delivery class.",
    ["type", "delivery"],
    registry=REGISTRY,
)
EVENTS_DELIVERED = Counter("windflow_events_delivered", "Events queued for a socket.", registry=REGISTRY)
EVENTS_DROPPED = Counter(
    "windflow_events_dropped", "Events that a full queue did not take, by place.", ["place"], registry=REGISTRY
)
EVENTS_REREAD = Counter("windflow_events_reread", "Events read from the log to close a gap.", registry=REGISTRY)
EVENTS_REPLAYED = Counter(
    "windflow_events_replayed", "Events and pages of lines read from the log for a socket.", registry=REGISTRY
)
LATEST_REPLACED = Counter(
    "windflow_latest_replaced", "Latest values that a newer one replaced before a slow socket took them.",
    registry=REGISTRY,
)  # fmt: skip
CONNECTIONS_BEHIND = Gauge(
    "windflow_connections_catching_up", "Sockets that read the log at the moment.", registry=REGISTRY
)
FALLS_BEHIND = Counter(
    "windflow_connections_fell_behind", "Times that a socket went over its budget, or its rights changed while"
    " something waited, and fell back to the log.", registry=REGISTRY,
)  # fmt: skip
POSITIONS_LOST = Counter(
    "windflow_positions_lost", "Positions that could not be continued from, by reason.", ["reason"], registry=REGISTRY
)
CATCH_UP_FAILURES = Counter(
    "windflow_catch_up_failures", "Reads of the log for a socket that failed; they are tried again.", registry=REGISTRY
)
PLUGIN_CALLS = Counter(
    "windflow_plugin_calls", "Calls of plugin hooks, by plugin, hook and outcome.", ["plugin", "hook", "outcome"],
    registry=REGISTRY,
)  # fmt: skip
PLUGIN_SECONDS = Histogram("windflow_plugin_call_seconds", "Duration of plugin hooks.", ["plugin"], registry=REGISTRY)
PLUGIN_BREAKER = Gauge(
    "windflow_plugin_breaker", "Breaker of a plugin: 0 closed, 1 half open, 2 open.", ["plugin"], registry=REGISTRY
)
PLUGIN_BREAKER_OPENED = Counter(
    "windflow_plugin_breaker_opened", "How often a plugin's breaker opened.", ["plugin"], registry=REGISTRY
)
PLUGIN_TASK_FAILURES = Counter(
    "windflow_plugin_task_failures", "Tasks made by a plugin that failed.", ["plugin"], registry=REGISTRY
)
PLUGIN_LOOP_BLOCKS = Counter(
    "windflow_plugin_loop_blocks", "Times that a plugin blocked the event loop.", ["plugin"], registry=REGISTRY
)
LOOP_BLOCKS = Counter(
    "windflow_loop_blocks", "Times that the event loop was blocked, by plugins or by the server itself.",
    registry=REGISTRY,
)  # fmt: skip
LOOP_BLOCKED_SECONDS = Counter(
    "windflow_loop_blocked_seconds", "How long the event loop was blocked in all of them.", registry=REGISTRY
)
PLUGIN_QUEUE = Gauge("windflow_plugin_queue", "Events that wait for a plugin.", ["plugin"], registry=REGISTRY)
PLUGIN_LAG = Gauge(
    "windflow_plugin_lag", "Events of the log that a plugin has not handled yet.", ["plugin"], registry=REGISTRY
)
PLUGIN_SKIPPED = Counter(
    "windflow_plugin_skipped", "Events of the log that a plugin is not given any more, by reason.",
    ["plugin", "reason"], registry=REGISTRY,
)  # fmt: skip
DEPLOYMENT_ENDS = Counter(
    "windflow_deployment_ends", "Ends of deployments that the monitor saw, by outcome.", ["outcome"], registry=REGISTRY
)
DEPLOYMENT_SECONDS = Histogram(
    "windflow_deployment_seconds", "Time from running to the end, where the monitor saw both.", ["outcome"],
    buckets=(1, 5, 15, 60, 300, 900, 3_600, 14_400, 86_400), registry=REGISTRY,
)  # fmt: skip
WEBHOOK_DELIVERIES = Counter(
    "windflow_webhook_deliveries", "Attempts to deliver an event to a webhook receiver, by outcome.", ["outcome"],
    registry=REGISTRY,
)  # fmt: skip
PLUGIN_RELOADS = Counter(
    "windflow_plugin_reloads", "Reloads of a plugin, by outcome: ok or failed.", ["plugin", "outcome"],
    registry=REGISTRY,
)  # fmt: skip
NODES_TAKEN_OVER = Counter(
    "windflow_nodes_taken_over", "Dead servers whose unhandled events this one took over.", registry=REGISTRY
)
NODE_LOST = Counter(
    "windflow_node_lost", "Times this server was taken for dead and went on as a new node.", registry=REGISTRY
)
REQUESTS = Counter(
    "windflow_http_requests", "HTTP requests, by route, method and status.", ["route", "method", "status"],
    registry=REGISTRY,
)  # fmt: skip
HTTP_CUT = Counter(
    "windflow_http_connections_cut", "HTTP connections that were refused or cut, by reason.", ["reason"],
    registry=REGISTRY,
)  # fmt: skip
REQUEST_SECONDS = Histogram("windflow_http_request_seconds", "Duration of HTTP requests.", ["route"], registry=REGISTRY)
TASKS = Gauge("windflow_asyncio_tasks", "Tasks of the event loop.", registry=REGISTRY)
DATABASE_CONNECTIONS = Gauge(
    "windflow_database_connections", "Pooled database connections that are in use.", registry=REGISTRY
)
STORAGE_FAILURES = Counter(
    "windflow_storage_failures", "Reads and writes that the database could not serve.", registry=REGISTRY
)
LOGINS = Counter("windflow_logins", "Logins, by outcome.", ["outcome"], registry=REGISTRY)
ACCESS_CORRECTED = Counter(
    "windflow_access_corrected", "Sockets whose rights a comparison with the database changed.", registry=REGISTRY
)
PERIODIC_FAILURES = Counter(
    "windflow_periodic_failures", "Rounds of periodic work that failed, by work.", ["work"], registry=REGISTRY
)
ROWS_REMOVED = Counter(
    "windflow_rows_removed", "Rows that housekeeping removed, by table.", ["table"], registry=REGISTRY
)
LEASES_LAPSED = Counter("windflow_leases_lapsed", "Deployments whose runner was lost.", registry=REGISTRY)
