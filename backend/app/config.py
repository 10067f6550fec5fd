"""Settings: every limit and duration, with its unit and its reason, read once at start.

Sources, first wins: arguments, `WINDFLOW_…` environment variables, `windflow.toml` in the
working folder. The reference page is generated from the descriptions here. Nothing below
the composition root reads the environment.
"""

import difflib
import os
import sys
import tomllib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, SecretStr, field_validator
from pydantic.fields import FieldInfo
from pydantic_settings import (
    BaseSettings,
    NoDecode,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    TomlConfigSettingsSource,
)

PREFIX = "WINDFLOW_"
PLUGIN_PREFIX = f"{PREFIX}PLUGIN__"
CONFIG_FILE = "windflow.toml"
CLIENT_NAMES = ("SERVER_URL", "TOKEN", "CONFIG_DIR", "SPOOL_DIR", "SPOOL_BYTES", "RUNNER_HEARTBEAT_SECONDS")
"""Variables that the command line client reads; known, so not warned about."""
TEST_NAMES = ("FAULT",)
"""Variables that only crash tests set (`kill_points.py`); without WINDFLOW_TEST_FAULTS=1 they do nothing."""

Seconds = Annotated[float, Field(gt=0)]
Count = Annotated[int, Field(gt=0)]
Names = Annotated[list[str], NoDecode]

_UNLIMITED = 65_536
_OWN_DESCRIPTORS = 48
"""What a server opens beside its connections, SQLite and its readers included, with room for plugins."""


def descriptor_limit() -> int:
    """Return how many file descriptors this process may have; a usual number where nothing limits them."""
    if sys.platform == "win32":
        return _UNLIMITED
    import resource

    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return _UNLIMITED if soft == resource.RLIM_INFINITY else soft


def _connections_by_default() -> int:
    """Leave a tenth of the descriptors, and never less than files, database and loop need."""
    limit = descriptor_limit()
    return max(1, limit - max(_OWN_DESCRIPTORS, limit // 10))


def _sockets_by_default() -> int:
    return max(1, min(descriptor_limit() * 4 // 5, _connections_by_default()))


class Settings(BaseSettings):
    """All settings of a server process."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX, env_nested_delimiter="__", toml_file=CONFIG_FILE, extra="ignore", hide_input_in_errors=True
    )

    # Where it runs
    host: str = Field("127.0.0.1", description="Address to listen on. Only this machine unless you change it.")
    port: int = Field(8000, ge=0, le=65535, description="Port to listen on; 0 takes any free one.")
    root_path: str = Field("", description="Path under which a proxy serves WindFlow, e.g. `/windflow`.")
    public_url: str | None = Field(None, description="Address that people use, for links; else host and port.")
    allowed_origins: Names = Field(
        default_factory=list, description="Further browser origins, exact, comma-separated; always: the same origin."
    )
    data_dir: Path = Field(Path("data"), description="Folder of database, secret and locks; one server per folder.")
    database_url: str | None = Field(None, description="PostgreSQL or SQLite address; default: SQLite in `DATA_DIR`.")
    migrate: bool = Field(True, description="Bring the database to this version's tables at start.")
    node_name: str = Field("", description="Label of this process in logs; its id is new with every start.")
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = Field("INFO", description="Least level that is logged.")
    log_format: Literal["json", "text"] = Field("json", description="One JSON object per line, or text for people.")

    # Database
    database_pool_size: Count = Field(5, description="PostgreSQL connections kept open; as many again in a rush.")
    database_read_connections: Count = Field(4, description="SQLite connections for reading at the same time.")
    database_timeout_seconds: Seconds = Field(
        10, description="Longest wait for a connection, a lock or PostgreSQL's answer (seconds); then 503."
    )
    database_start_seconds: float = Field(
        600, ge=0, description="A starting server waits so long for a database that is away; 0: it ends at once."
    )
    readiness_seconds: Seconds = Field(2, description="Longest wait of `/readyz` for the database; then 503.")
    database_max_bytes: Count | None = Field(
        None, description="Largest SQLite database; above: 503 until something is deleted. Default: the disk's size."
    )
    group_commit_seconds: Seconds = Field(0.005, description="Longest time a group of SQLite writes collects more.")
    group_commit_units: Count = Field(256, description="Most writes (PostgreSQL: publishes) in one commit.")
    write_queue: Count = Field(10_000, description="Writes waiting for SQLite, publishes for PostgreSQL; above: 503.")
    unit_timeout_seconds: Seconds = Field(5, description="Longest SQL of one write; then it is rolled back.")
    write_session_seconds: Seconds = Field(0.5, description="Longest turn of `db.session(write=True)` on SQLite.")

    housekeeping_seconds: Seconds = Field(600, description="How often what is over is removed from the database.")
    housekeeping_rows: Count = Field(500, le=10_000, description="Most rows removed by one write, for others wait.")

    # Identity
    admin_password: SecretStr | None = Field(None, description="First admin's password; default: a random one.")
    secret_file: Path | None = Field(None, description="File with the signing secret; default: in `DATA_DIR`, 0600.")
    issuer: str = Field("windflow", description="`iss` of access tokens.")
    audience: str = Field("windflow", description="`aud` of access tokens.")
    access_token_seconds: Seconds = Field(900, description="Life of an access token: what a stolen one is worth.")
    refresh_token_seconds: Seconds = Field(2_592_000, description="Life of a session without a refresh.")
    refresh_grace_seconds: float = Field(
        10, ge=0, description="A refresh token may come again for this long: two tabs refreshing at once."
    )
    login_failures: Count = Field(5, description="Wrong logins per account or address before they are slowed down.")
    login_failure_window_seconds: Seconds = Field(300, description="Time over which wrong logins are counted.")
    session_retention_seconds: Seconds = Field(
        604_800, description="How long sessions and API tokens that are over are kept, so that their use is told apart."
    )
    recheck_seconds: Seconds = Field(
        60, description="How often open sockets are compared with the database: what another program changed there."
    )
    ticket_seconds: Seconds = Field(30, description="Life of a one-time ticket for a socket or an event stream.")
    max_tickets: Count = Field(20, description="Tickets of one session or API token that wait to be redeemed.")
    password_min_length: Count = Field(10, description="Fewest characters of a new password.")

    # HTTP
    http_header_timeout_seconds: Seconds = Field(10, description="Time for the head of a request.")
    http_header_bytes: Count = Field(32_768, description="Largest head of a request (bytes); above: 431.")
    http_max_headers: Count = Field(128, le=128, description="Most headers of a request; above: 431.")
    http_body_stall_seconds: Seconds = Field(20, description="Longest pause within a request's body.")
    http_body_timeout_seconds: Seconds = Field(600, description="Time for a whole request body, however it trickles.")
    http_response_stall_seconds: Seconds = Field(120, description="A client that takes no byte of its answer is cut.")
    tcp_user_timeout_seconds: Seconds = Field(
        900, description="The kernel frees the peer of a request that vanished (Linux); for it, a slow reader did, too."
    )
    max_tcp_connections: Count = Field(
        default_factory=_connections_by_default,
        description="Connections of any kind. Default: the file descriptors but a tenth (at least 48) for the rest.",
    )
    accepts_per_turn: Count = Field(16, description="Connections taken in one turn of the event loop.")
    request_bytes: Count = Field(8_388_608, description="Largest request body (bytes).")
    idempotency_seconds: Seconds = Field(86_400, description="How long an Idempotency-Key is remembered.")
    page_limit: Count = Field(200, description="Most items of one list answer.")

    # Sockets
    auth_timeout_seconds: Seconds = Field(10, description="Time for the first message of a socket.")
    reauth_notice_seconds: Seconds = Field(60, description="Notice before a socket's token ends.")
    heartbeat_seconds: Seconds = Field(20, description="Between two pings; below the 60 s at which proxies cut.")
    pong_timeout_seconds: Seconds = Field(10, description="Time for an answer to a ping; anything sent counts.")
    write_stall_seconds: Seconds = Field(
        30, description="A client that confirmed no byte and sent nothing for this long is aborted."
    )
    write_stall_max_seconds: Seconds = Field(
        120, description="A client that confirmed no byte for this long is aborted, whatever it sends."
    )
    close_timeout_seconds: Seconds = Field(5, description="Time for the closing handshake of a socket.")
    max_message_bytes: Count = Field(65_536, description="Largest message of a client (bytes).")
    max_fragments: Count = Field(64, description="Most fragments of one message.")
    max_json_depth: Count = Field(64, description="Deepest nesting of a client's JSON.")
    max_connections: Count = Field(
        default_factory=_sockets_by_default,
        description="Sockets of this process. Default: 80 % of the file descriptors (`ulimit -n`).",
    )
    max_connections_per_user: Count = Field(20, description="Sockets of one user.")
    max_unauthenticated: Count = Field(256, description="Sockets in the authentication phase.")
    max_unauthenticated_per_address: Count = Field(16, description="The same from one address.")
    handshakes_per_turn: Count = Field(
        4,
        description="Handshakes, and first messages, worked on in one turn of the event loop: with more, a crowd that "
        "connects at once keeps requests and messages of others waiting.",
    )
    max_subscriptions: Count = Field(128, description="Subscriptions of one socket.")
    inbound_per_minute: Count = Field(100, description="Messages a client may send per minute, on average.")
    inbound_burst: Count = Field(50, description="Messages a client may send at once.")
    control_frames_per_minute: Count = Field(
        120, description="Pings and pongs a client may send per minute, on average; above: 4029."
    )
    control_frames_burst: Count = Field(60, description="Pings and pongs a client may send at once.")
    outbound_bytes: Count = Field(1_048_576, description="Bytes that may wait for one socket.")
    outbound_messages: Count = Field(4_096, description="Messages that may wait for one socket.")
    catch_up_rows: Count = Field(500, le=10_000, description="Most events or lines read from the log at once.")
    catch_up_bytes: Count = Field(
        262_144, description="Most payload read at once for a socket (bytes; one event may be larger)."
    )
    catch_up_reads: Count = Field(2, description="Reads of the log for sockets at the same time.")
    catch_up_retry_seconds: Seconds = Field(1, description="Pause after a read of the log that failed.")
    event_stream_retry_seconds: Seconds = Field(
        2, description="What an event stream tells its client to wait before it comes again (`retry:`)."
    )
    positions_seconds: Seconds = Field(30, description="How often a quiet socket is told its positions, if they moved.")
    poll_seconds: Seconds = Field(1, description="How often the database is asked for what nobody told this server.")
    socket_send_buffer_bytes: Count = Field(
        65_536, description="`SO_SNDBUF` of a socket: what waits shall wait in our budget, not in the kernel."
    )
    socket_high_water_bytes: Count = Field(
        65_536, description="Above this much in a socket's own write buffer it is given nothing more (bytes)."
    )
    connect_group_seconds: Seconds = Field(0.02, description="Longest wait of a socket's connect record for others.")
    connect_group_rows: Count = Field(500, description="Most connect records in one write.")
    session_read_seconds: Seconds = Field(
        0.005, description="While reads of sessions follow one another, each waits so long for more callers."
    )
    session_read_group: Count = Field(500, description="Most sessions that one read of the database looks up.")

    # The end
    drain_seconds: Seconds = Field(30, description="Longest shutdown of `serve`, whatever clients and plugins do.")
    drain_notice_seconds: float = Field(
        0, ge=0, description="`/readyz` says 503 for so long before sockets close: what a load balancer needs."
    )
    drain_batch: Count = Field(50, description="Sockets that a stopping server closes at once.")
    drain_pause_seconds: Seconds = Field(
        0.1, description="Mean pause between two such batches; never above 25 s in all."
    )
    reconnect_after_seconds: float = Field(1, ge=0, description="Least `retryAfterMs` of a stopping server.")
    reconnect_spacing_seconds: float = Field(
        0.005,
        ge=0,
        description="`retryAfterMs` is spread over this for each socket: what a login costs the next server.",
    )
    reconnect_window_max_seconds: float = Field(20, ge=0, description="Longest time over which it is spread.")

    # Events and deployments
    gap_seconds: Seconds = Field(0.5, description="How long an event may be missing before the log is read for it.")
    event_retention_count: Count = Field(1_000_000, description="Most events kept in one stream; the oldest go.")
    event_retention_seconds: Seconds = Field(604_800, description="How long an event is kept in the log.")
    latest_retention_seconds: Seconds = Field(
        86_400, description="How long the last value of something that is no active deployment is kept."
    )
    retention_seconds: Seconds = Field(30, description="How often events and lines that are too much are removed.")
    log_retention_seconds: Seconds = Field(2_592_000, description="Lines are kept this long after a deployment's end.")
    log_deployment_bytes: Count = Field(
        268_435_456, description="Largest log (bytes, and 64 for each line); above, its first lines go."
    )
    log_total_bytes: Count = Field(
        10_737_418_240, description="All logs together (same); above, lines go of what ended first."
    )
    log_line_bytes: Count = Field(1_048_576, description="Longest log line (bytes of UTF-8); longer ones are cut.")
    log_append_lines: Count = Field(1_000, description="Most lines of one report.")
    log_append_bytes: Count = Field(4_194_304, description="Most text of one report (bytes of UTF-8).")
    late_lines_seconds: Seconds = Field(600, description="Lines are taken for this long after a deployment's end.")
    deployment_lease_seconds: Seconds = Field(60, description="A deployment is held by its runner for this long.")
    lease_sweep_seconds: Seconds = Field(5, description="How often lapsed leases are looked for.")
    runner_return_seconds: Seconds = Field(86_400, description="A lost runner may take its deployment up for so long.")

    # Plugins
    plugins_dir: Path | None = Field(None, description="Folder of plugin files.")
    reload_plugins: bool = Field(False, description="Reload a plugin of that folder when its file changes.")
    plugin_watch_seconds: Seconds = Field(0.5, description="How often it is looked for changed files then.")
    plugins_allow: Names = Field(default_factory=list, description="If set, only these plugins are loaded.")
    plugins_deny: Names = Field(default_factory=list, description="These plugins are not loaded.")
    plugin: dict[str, dict[str, Any]] = Field(
        default_factory=dict,
        description="Settings of the plugins' own: `WINDFLOW_PLUGIN__NAME__FIELD`, or `[plugin.NAME]` in the file.",
    )
    plugin_timeout_seconds: Seconds = Field(5, description="Longest run of one plugin hook.")
    plugin_cancel_grace_seconds: Seconds = Field(1, description="Time a hook gets to end after its time-out.")
    plugin_threads: Count = Field(4, description="Threads for the plain `def` hooks of one plugin.")
    breaker_failures: Count = Field(5, description="Failures of a plugin in a row after which its breaker opens.")
    breaker_open_seconds: Seconds = Field(30, description="How long a plugin whose breaker is open is not called.")
    loop_block_seconds: Seconds = Field(0.1, description="What blocks the event loop for longer is named in the log.")
    loop_block_offences: Count = Field(5, description="Blocks of the event loop by one plugin that open its breaker.")
    loop_block_window_seconds: Seconds = Field(60, description="The time within which they have to come.")
    plugin_queue: Count = Field(
        1_000, description="Events in memory per plugin; above, stream events wait in the log, others are dropped."
    )
    plugin_backlog_events: Count = Field(
        10_000, description="Stream events that may wait for a plugin that cannot be called; above, the oldest go."
    )
    plugin_backlog_seconds: Seconds = Field(3_600, description="How long they may wait for it.")
    plugin_retry_seconds: Seconds = Field(
        1, description="Pause before a plugin that cannot be called is asked again; first pause of `retries`."
    )
    plugin_retry_max_seconds: Seconds = Field(60, description="Longest pause of `retries`: each is twice the last.")
    plugin_cursor_seconds: Seconds = Field(0.2, description="Longest time until it is stored what a plugin handled.")
    plugin_cursor_events: Count = Field(1_000, description="Handled events after which that is stored at once.")
    node_lease_seconds: Seconds = Field(
        15, description="PostgreSQL: a server that is silent for so long is dead, and another takes over what it left."
    )
    max_hops: Count = Field(8, description="How deep events published by plugins may cause further ones.")
    broadcasts_per_call: Count = Field(1_000, description="Broadcasts one plugin call may make.")

    @field_validator("allowed_origins", "plugins_allow", "plugins_deny", mode="before")
    @classmethod
    def _split(cls, value: object) -> object:
        """Take `a,b` from the environment as well as a list from the file."""
        return [part.strip() for part in value.split(",") if part.strip()] if isinstance(value, str) else value

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        return init_settings, _PluginVariables(settings_cls), env_settings, TomlConfigSettingsSource(settings_cls)

    def effective_database_url(self) -> str:
        """Return the database's address with the async driver, SQLite in the data folder by default."""
        url = self.database_url or f"sqlite:///{(self.data_dir / 'windflow.db').absolute()}"
        for plain, driver in (
            ("postgres://", "postgresql+asyncpg://"),
            ("postgresql://", "postgresql+asyncpg://"),
            ("sqlite://", "sqlite+aiosqlite://"),
        ):
            if url.startswith(plain):
                return driver + url.removeprefix(plain)
        return url


class _PluginVariables(PydanticBaseSettingsSource):
    """Reads `WINDFLOW_PLUGIN__NAME__FIELD` as the texts they are: what they mean is for the plugin to say."""

    def get_field_value(self, field: FieldInfo, field_name: str) -> tuple[Any, str, bool]:
        """Return nothing: all variables belong to one field, which `__call__` returns."""
        return None, field_name, False

    def __call__(self) -> dict[str, Any]:
        """Return `{"plugin": {name: {field: text}}}`, with further levels for further `__`."""
        values: dict[str, Any] = {}
        for variable, text in sorted(os.environ.items()):
            if not variable.upper().startswith(PLUGIN_PREFIX):
                continue
            level = values
            *path, last = variable[len(PLUGIN_PREFIX) :].lower().split("__")
            for part in path:
                if not isinstance(level.get(part), dict):
                    level[part] = {}
                level = level[part]
            # A name without a field says nothing; it is warned about.
            level[last] = text if path else {}
        return {"plugin": values} if values else {}


def unknown_names(environment: Mapping[str, str], file_keys: Iterable[str] = ()) -> list[str]:
    """Return one sentence for each `WINDFLOW_…` variable or file key that no setting reads, with the nearest name."""
    known = {f"{PREFIX}{name.upper()}" for name in Settings.model_fields}
    known |= {PREFIX + name for name in (*CLIENT_NAMES, *TEST_NAMES)}
    given = [name for name in environment if name.upper().startswith(PREFIX)]
    given += [PREFIX + key.upper() for key in file_keys]
    sentences = []
    for name in given:
        if name.upper() in known or name.upper().startswith(f"{PREFIX}TEST_"):
            continue
        if name.upper().startswith(PLUGIN_PREFIX):
            if "__" not in name[len(PLUGIN_PREFIX) :].strip("_"):
                sentences.append(f"unknown setting {name}: a plugin's are called {PLUGIN_PREFIX}NAME__FIELD")
            continue
        near = difflib.get_close_matches(name.upper(), sorted(known), 1)
        sentences.append(f"unknown setting {name}" + (f"; did you mean {near[0]}?" if near else ""))
    return sentences


def warnings_at_start() -> list[str]:
    """Return what is odd about the environment and `windflow.toml`, in sentences to log."""
    keys: list[str] = []
    path = Path(CONFIG_FILE)
    if path.is_file():
        content: dict[str, Any] = tomllib.loads(path.read_text(encoding="utf-8"))
        keys = [key for key in content if key != "plugin"]
    return unknown_names(os.environ, keys)
