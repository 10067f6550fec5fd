// GENERATED from the event catalogue of the server. Do not edit: change the catalogue, then run
//     windflow contract build
// `windflow contract check` names every difference between this file and the catalogue.

/** The fingerprint of the core catalogue that this file was generated from. */
export const CONTRACT_HASH = 'd5ef552fd38d1192';

/** The fingerprint of each part: the core, and each plugin that has event types of its own. */
export const CONTRACT_HASHES: Readonly<Record<string, string>> = {
  core: 'd5ef552fd38d1192',
};

/** Every event type; name and value are the same. */
export enum WebSocketEventType {
  /** A user logged in, or a socket authenticated. */
  AUTH_LOGIN_SUCCESS = 'AUTH_LOGIN_SUCCESS',
  /** A session was ended by its user. */
  AUTH_LOGOUT = 'AUTH_LOGOUT',
  /** A session got a new access token. The token itself is never in an event. */
  AUTH_TOKEN_REFRESH = 'AUTH_TOKEN_REFRESH',
  /** A session ended: its time ran out, or somebody ended it. An API token is a session of its own, by its id. */
  SESSION_EXPIRED = 'SESSION_EXPIRED',
  /** The access token of a socket runs out soon: send a fresh `auth`. */
  SESSION_AUTH_REQUIRED = 'SESSION_AUTH_REQUIRED',
  /** The rights of a user changed. */
  SESSION_PERMISSION_CHANGED = 'SESSION_PERMISSION_CHANGED',
  /** A user was moved to another organization. */
  SESSION_ORGANIZATION_CHANGED = 'SESSION_ORGANIZATION_CHANGED',
  /** A deployment was created. */
  DEPLOYMENT_CREATED = 'DEPLOYMENT_CREATED',
  /** A deployment went from one status to another. */
  DEPLOYMENT_STATUS_CHANGED = 'DEPLOYMENT_STATUS_CHANGED',
  /** Lines were added to a deployment's log; the first line of a log is number 1. */
  DEPLOYMENT_LOGS_UPDATE = 'DEPLOYMENT_LOGS_UPDATE',
  /** How far a deployment is, in percent. */
  DEPLOYMENT_PROGRESS = 'DEPLOYMENT_PROGRESS',
  /** Somebody wants a deployment to stop; its runner listens to this. */
  DEPLOYMENT_CANCEL_REQUESTED = 'DEPLOYMENT_CANCEL_REQUESTED',
  /** A deployment and its log were deleted. */
  DEPLOYMENT_DELETED = 'DEPLOYMENT_DELETED',
  /** A notification for a user or a whole organization; the id is made if absent. */
  NOTIFICATION_SENT = 'NOTIFICATION_SENT',
  /** A user read notifications, on any of their devices. */
  NOTIFICATION_READ = 'NOTIFICATION_READ',
  /** A message of this connection was refused. */
  WEBSOCKET_ERROR = 'WEBSOCKET_ERROR',
  /** A ping or its pong; whatever the ping carries, the pong carries too. */
  WEBSOCKET_PING = 'WEBSOCKET_PING',
  /** A ping or its pong; whatever the ping carries, the pong carries too. */
  WEBSOCKET_PONG = 'WEBSOCKET_PONG',
  /** Any object: for plugins and integrations that need no type of their own. */
  CUSTOM_EVENT = 'CUSTOM_EVENT',
}

/** A user logged in, or a socket authenticated. */
export interface AuthLoginSuccess {
  userId: string;
  username?: string;
  organizationId?: string;
  sessionId?: string;
  ipAddress?: string;
  [key: string]: unknown;
}

/** A session was ended by its user. */
export interface AuthLogout {
  userId: string;
  sessionId?: string;
  reason?: string;
  [key: string]: unknown;
}

/** A session got a new access token. The token itself is never in an event. */
export interface AuthTokenRefresh {
  userId: string;
  sessionId?: string;
  /** RFC 3339 date and time. */
  expiresAt?: string;
  [key: string]: unknown;
}

/** A session ended: its time ran out, or somebody ended it. An API token is a session of its own, by its id. */
export interface SessionExpired {
  sessionId: string;
  reason?: string;
  /** RFC 3339 date and time. */
  expiredAt?: string;
  [key: string]: unknown;
}

/** The access token of a socket runs out soon: send a fresh `auth`. */
export interface SessionAuthRequired {
  reason: string;
  /** RFC 3339 date and time. */
  expiresAt?: string;
  graceSeconds?: number;
  [key: string]: unknown;
}

/** The rights of a user changed. */
export interface SessionPermissionChanged {
  userId: string;
  role?: string;
  permissions?: string[];
  changedBy?: string;
  [key: string]: unknown;
}

/** A user was moved to another organization. */
export interface SessionOrganizationChanged {
  userId: string;
  oldOrganizationId?: string;
  newOrganizationId?: string;
  [key: string]: unknown;
}

/** A deployment was created. */
export interface DeploymentCreated {
  deploymentId: string;
  deploymentName: string;
  target?: string;
  status?: 'pending' | 'running' | 'success' | 'failed' | 'cancelled';
  createdBy?: string;
  [key: string]: unknown;
}

/** A deployment went from one status to another. */
export interface DeploymentStatusChanged {
  deploymentId: string;
  newStatus: 'pending' | 'running' | 'success' | 'failed' | 'cancelled';
  oldStatus?: 'pending' | 'running' | 'success' | 'failed' | 'cancelled';
  deploymentName?: string;
  reason?: string;
  exitCode?: number;
  [key: string]: unknown;
}

/** Lines were added to a deployment's log; the first line of a log is number 1. */
export interface DeploymentLogsUpdate {
  deploymentId: string;
  logs: string[];
  firstLine?: number;
  times?: (string | null)[];
  streams?: ('out' | 'err')[];
  levels?: (string | null)[];
  [key: string]: unknown;
}

/** How far a deployment is, in percent. */
export interface DeploymentProgress {
  deploymentId: string;
  progress: number;
  step?: string;
  currentStep?: number;
  totalSteps?: number;
  etaSeconds?: number;
  [key: string]: unknown;
}

/** Somebody wants a deployment to stop; its runner listens to this. */
export interface DeploymentCancelRequested {
  deploymentId: string;
  requestedBy?: string;
  reason?: string;
  [key: string]: unknown;
}

/** A deployment and its log were deleted. */
export interface DeploymentDeleted {
  deploymentId: string;
  deletedBy?: string;
  [key: string]: unknown;
}

/** A notification for a user or a whole organization; the id is made if absent. */
export interface NotificationSent {
  title: string;
  message: string;
  level?: 'info' | 'success' | 'warning' | 'error';
  notificationId?: string;
  link?: string;
  deploymentId?: string;
  [key: string]: unknown;
}

/** A user read notifications, on any of their devices. */
export interface NotificationRead {
  notificationIds: string[];
  /** RFC 3339 date and time. */
  readAt?: string;
  [key: string]: unknown;
}

/** A message of this connection was refused. */
export interface WebSocketError {
  code: string;
  message: string;
  details?: unknown;
  [key: string]: unknown;
}

/** A ping or its pong; whatever the ping carries, the pong carries too. */
export interface WebSocketHeartbeat {
  /** RFC 3339 date and time. */
  at?: string;
  [key: string]: unknown;
}

/** Any object: for plugins and integrations that need no type of their own. */
export interface CustomEvent {
  [key: string]: unknown;
}

/** The payload of each event. */
export interface EventPayloads {
  [WebSocketEventType.AUTH_LOGIN_SUCCESS]: AuthLoginSuccess;
  [WebSocketEventType.AUTH_LOGOUT]: AuthLogout;
  [WebSocketEventType.AUTH_TOKEN_REFRESH]: AuthTokenRefresh;
  [WebSocketEventType.SESSION_EXPIRED]: SessionExpired;
  [WebSocketEventType.SESSION_AUTH_REQUIRED]: SessionAuthRequired;
  [WebSocketEventType.SESSION_PERMISSION_CHANGED]: SessionPermissionChanged;
  [WebSocketEventType.SESSION_ORGANIZATION_CHANGED]: SessionOrganizationChanged;
  [WebSocketEventType.DEPLOYMENT_CREATED]: DeploymentCreated;
  [WebSocketEventType.DEPLOYMENT_STATUS_CHANGED]: DeploymentStatusChanged;
  [WebSocketEventType.DEPLOYMENT_LOGS_UPDATE]: DeploymentLogsUpdate;
  [WebSocketEventType.DEPLOYMENT_PROGRESS]: DeploymentProgress;
  [WebSocketEventType.DEPLOYMENT_CANCEL_REQUESTED]: DeploymentCancelRequested;
  [WebSocketEventType.DEPLOYMENT_DELETED]: DeploymentDeleted;
  [WebSocketEventType.NOTIFICATION_SENT]: NotificationSent;
  [WebSocketEventType.NOTIFICATION_READ]: NotificationRead;
  [WebSocketEventType.WEBSOCKET_ERROR]: WebSocketError;
  [WebSocketEventType.WEBSOCKET_PING]: WebSocketHeartbeat;
  [WebSocketEventType.WEBSOCKET_PONG]: WebSocketHeartbeat;
  [WebSocketEventType.CUSTOM_EVENT]: CustomEvent;
}

/** Where an event is kept: in a replayed stream, as numbered log lines, as the latest value, or nowhere. */
export type Delivery = 'stream' | 'log' | 'latest' | 'transient';

/** Whose connections may receive an event. */
export type Audience = 'organization' | 'user' | 'user or organization' | 'session' | 'connection';

/** Who may send an event besides the server itself. */
export type Sender = 'client' | 'api' | 'plugin';

export interface EventMetadata {
  delivery: Delivery;
  audience: Audience;
  senders: readonly Sender[];
}

/** How each event is delivered, to whom, and who may send it. */
export const EventMeta: Readonly<Record<WebSocketEventType, EventMetadata>> = {
  [WebSocketEventType.AUTH_LOGIN_SUCCESS]: { delivery: 'transient', audience: 'user', senders: [] },
  [WebSocketEventType.AUTH_LOGOUT]: { delivery: 'transient', audience: 'user', senders: [] },
  [WebSocketEventType.AUTH_TOKEN_REFRESH]: { delivery: 'transient', audience: 'session', senders: [] },
  [WebSocketEventType.SESSION_EXPIRED]: { delivery: 'transient', audience: 'session', senders: [] },
  [WebSocketEventType.SESSION_AUTH_REQUIRED]: { delivery: 'transient', audience: 'session', senders: [] },
  [WebSocketEventType.SESSION_PERMISSION_CHANGED]: { delivery: 'stream', audience: 'user', senders: [] },
  [WebSocketEventType.SESSION_ORGANIZATION_CHANGED]: { delivery: 'stream', audience: 'user', senders: [] },
  [WebSocketEventType.DEPLOYMENT_CREATED]: { delivery: 'stream', audience: 'organization', senders: ['plugin'] },
  [WebSocketEventType.DEPLOYMENT_STATUS_CHANGED]: { delivery: 'stream', audience: 'organization', senders: ['plugin'] },
  [WebSocketEventType.DEPLOYMENT_LOGS_UPDATE]: { delivery: 'log', audience: 'organization', senders: ['plugin'] },
  [WebSocketEventType.DEPLOYMENT_PROGRESS]: { delivery: 'latest', audience: 'organization', senders: ['plugin'] },
  [WebSocketEventType.DEPLOYMENT_CANCEL_REQUESTED]: { delivery: 'stream', audience: 'organization', senders: ['plugin'] },
  [WebSocketEventType.DEPLOYMENT_DELETED]: { delivery: 'stream', audience: 'organization', senders: ['plugin'] },
  [WebSocketEventType.NOTIFICATION_SENT]: { delivery: 'stream', audience: 'user or organization', senders: ['api', 'plugin'] },
  [WebSocketEventType.NOTIFICATION_READ]: { delivery: 'stream', audience: 'user', senders: ['client'] },
  [WebSocketEventType.WEBSOCKET_ERROR]: { delivery: 'transient', audience: 'connection', senders: [] },
  [WebSocketEventType.WEBSOCKET_PING]: { delivery: 'transient', audience: 'connection', senders: ['client'] },
  [WebSocketEventType.WEBSOCKET_PONG]: { delivery: 'transient', audience: 'connection', senders: ['client'] },
  [WebSocketEventType.CUSTOM_EVENT]: { delivery: 'transient', audience: 'organization', senders: ['api', 'plugin'] },
};

/** What the server sends: an event, a reply or an error. */
export interface ServerMessage<T extends string = string, D = unknown> {
  type: T;
  data: D;
  /** RFC 3339 date and time. */
  timestamp: string;
  /** The event's id. */
  id?: string;
  /** The stream that keeps the event, and its place there; only on events that are kept. */
  stream?: string;
  offset?: number;
  /** The `id` of the message that this one answers. */
  reply_to?: string | number;
}

/** An event of the catalogue: comparing `type` narrows `data` to its payload. */
export type EventMessage<T extends WebSocketEventType = WebSocketEventType> = {
  [K in T]: ServerMessage<K, EventPayloads[K]>;
}[T];

/** What the client sends: a command (lower case) or an event (UPPER_CASE). */
export interface ClientMessage<T extends string = string, D = unknown> {
  type: T;
  data?: D;
  /** Chosen by the client; the answer carries it as `reply_to`. */
  id?: string | number;
}

/** Every error code of WEBSOCKET_ERROR and of the REST API, with its HTTP status. */
export const ERROR_CODES = {
  /** The body or message is not JSON, or holds NaN, a lone surrogate or too deep nesting. */
  invalid_json: 400,
  /** The message is JSON but not an object with a string `type`, or a command's data is wrong. */
  invalid_message: 400,
  /** No command, event or plugin knows this type. */
  unknown_type: 400,
  /** No valid credentials came with the request. */
  not_authenticated: 401,
  /** The token was valid and ran out: refresh it. */
  token_expired: 401,
  /** A refresh token was used again; its whole session was ended. */
  token_reused: 401,
  /** User name and password do not match an active user. */
  invalid_credentials: 401,
  /** You may see it, but your role may not do this. */
  forbidden: 403,
  /** This event type is not for you to send. */
  not_sendable: 403,
  /** A token or user cannot get a role above your own. */
  role_too_high: 403,
  /** It does not exist, or belongs to another organization. */
  not_found: 404,
  /** The path exists, but not with this method. */
  method_not_allowed: 405,
  /** The name is in use. */
  name_taken: 409,
  /** The id is in use with other content. */
  id_taken: 409,
  /** The organization still has users or deployments. */
  not_empty: 409,
  /** The last active superuser cannot be demoted, deactivated or deleted. */
  last_superuser: 409,
  /** A deployment cannot go from its status to this one; details list the allowed ones. */
  invalid_transition: 409,
  /** Lines before `firstLine` are missing; details have `nextLine`. */
  log_gap: 409,
  /** The deployment ended and takes no more reports. */
  deployment_closed: 409,
  /** The deployment has not ended: cancel it first. */
  deployment_active: 409,
  /** Another runner holds the deployment's lease. */
  lease_held: 409,
  /** The Idempotency-Key was used for another request. */
  key_reused: 409,
  /** The plugin's new code cannot work, the old one goes on; details have the `reason`. */
  reload_failed: 409,
  /** Retention removed these lines; details have `firstAvailable`. */
  lines_expired: 410,
  /** The body or message is larger than the limit. */
  message_too_large: 413,
  /** A field breaks a rule; details name both. */
  invalid_payload: 422,
  /** The password is too short or too simple. */
  weak_password: 422,
  /** This connection has as many subscriptions as allowed. */
  too_many_subscriptions: 429,
  /** Too many messages or requests; wait and go on. */
  rate_limited: 429,
  /** The server failed; its log has the request id. */
  internal: 500,
  /** The protocol knows it, this server does not offer it yet. */
  unsupported: 501,
  /** The server is shutting down: reconnect after `retryAfterMs`. */
  server_restarting: 503,
  /** The database does not answer; nothing was changed. */
  storage_unavailable: 503,
} as const;

export type ErrorCode = keyof typeof ERROR_CODES;

/** Every code that the server closes a connection with, and what the client has to do. */
export const CLOSE_CODES = {
  /** A binary message; do not retry: the client is at fault. */
  UNSUPPORTED_DATA: 1003,
  /** Text that is not UTF-8; do not retry: the client is at fault. */
  INVALID_UTF8: 1007,
  /** Authentication failed; the reason says how; log in again, do not retry. */
  AUTHENTICATION_FAILED: 1008,
  /** A message over the limit; do not retry: the client is at fault. */
  MESSAGE_TOO_BIG: 1009,
  /** The server shuts down; reconnect after `retryAfterMs` or with back-off. */
  SERVER_RESTARTING: 1012,
  /** The client took nothing for too long, or did not take its answers; reconnect with back-off. */
  WRITE_STALLED: 4008,
  /** The token ran out; refresh the token or log in, then reconnect. */
  TOKEN_EXPIRED: 4009,
  /** No answer to a ping; reconnect with back-off. */
  NO_PONG: 4012,
  /** Too many messages, or a cap of server or address is reached; reconnect with back-off. */
  RATE_LIMITED: 4029,
  /** Too many malformed messages; do not reconnect. */
  TOO_MANY_BAD_MESSAGES: 4501,
  /** Logged out, or access was revoked; do not reconnect. */
  ACCESS_REVOKED: 4503,
  /** This user has too many connections; do not reconnect. */
  TOO_MANY_CONNECTIONS: 4504,
} as const;

export type CloseCode = (typeof CLOSE_CODES)[keyof typeof CLOSE_CODES];
