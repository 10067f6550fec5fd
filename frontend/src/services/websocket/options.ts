/** What an event stream can be given. */

import type { Backoff } from './backoff.js';
import type { ConnectionLimits, WebSocketConstructor } from './connection.js';
import type { Subscription } from './items.js';

export interface StreamOptions {
  subscriptions?: readonly Subscription[];
  /** Those of an earlier stream with these subscriptions: what came since then is told first. */
  positions?: Readonly<Record<string, unknown>>;
  limits?: Partial<ConnectionLimits>;
  backoff?: Backoff;
  /** The global one where there is one (browsers, Node 22); Node 20 needs that of the package `ws`. */
  WebSocket?: WebSocketConstructor;
  /** What a listener threw; the others are called all the same. */
  onListenerError?: (error: unknown) => void;
}
