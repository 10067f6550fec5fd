/** What a close code asks of a client: the table of docs/protocol.md as one function. Pure. */

import { ApiError, ServerUnreachable, SocketClosed } from './errors.js';
import { CLOSE_CODES } from './types.js';

/** What to do after the socket closed. */
export type Duty = 'reconnect' | 'refresh' | 'log_in' | 'stop';

/** Besides the server's own codes, those of the codec: the same message would break the next connection as well. */
const STOP: ReadonlySet<number> = new Set([
  1002,
  1010,
  CLOSE_CODES.UNSUPPORTED_DATA,
  CLOSE_CODES.INVALID_UTF8,
  CLOSE_CODES.MESSAGE_TOO_BIG,
]);

/** What a client does after `code`; 1006, and everything unknown, is a lost connection. */
export function duty(code: number): Duty {
  if (code === CLOSE_CODES.AUTHENTICATION_FAILED) return 'log_in';
  if (code === CLOSE_CODES.TOKEN_EXPIRED) return 'refresh';
  if (STOP.has(code) || (code >= 4500 && code <= 4999)) return 'stop';
  return 'reconnect';
}

/** Codes of refusals that say nothing about the request: it is made again. */
const LATER: ReadonlySet<string> = new Set(['storage_unavailable', 'rate_limited', 'internal']);

/** What a failed attempt means to the back-off; throws what ends the stream for good. */
export function asClosed(error: unknown): SocketClosed {
  if (error instanceof SocketClosed) return error;
  if (error instanceof ServerUnreachable || (error instanceof ApiError && LATER.has(error.code))) {
    return new SocketClosed(1006, error.message);
  }
  throw error;
}
