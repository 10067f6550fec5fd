/** What goes wrong between a client and a server; everything thrown by the library is one of these. */

export class ClientError extends Error {
  override readonly name: string = 'ClientError';
}

/** No answer from the server, or none in time. */
export class ServerUnreachable extends ClientError {
  override readonly name = 'ServerUnreachable';
}

/** There is no login, or the server does not take it any more: somebody has to log in. */
export class NotLoggedIn extends ClientError {
  override readonly name = 'NotLoggedIn';
}

/** The connection ended; `code` is what `duty` judges (1006: it was lost). */
export class SocketClosed extends ClientError {
  override readonly name = 'SocketClosed';

  constructor(
    readonly code: number,
    readonly reason: string,
    /** When the server said how long to wait. */
    readonly retryAfterMs?: number,
  ) {
    super(`${code} ${reason}`.trim());
  }
}

/** The server refused a request in words. `details` names each broken rule by field. */
export class ApiError extends ClientError {
  override readonly name = 'ApiError';

  constructor(
    readonly code: string,
    message: string,
    readonly details: unknown = null,
    /** The HTTP status, where it was a REST request. */
    readonly status?: number,
  ) {
    super(`${message} (${code})`);
  }
}

/** Lines of a log were left out; `line` is the first of them. Internal: the next connection begins there. */
export class LinesMissing extends Error {
  override readonly name = 'LinesMissing';

  constructor(
    readonly deploymentId: string,
    readonly line: number,
  ) {
    super(`lines of ${deploymentId} are missing from ${line} on`);
  }
}
