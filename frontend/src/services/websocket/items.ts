/** What is asked of an event stream and what it tells: subscriptions in; events and notices out. Plain values. */

import type { Position } from './positions.js';
import type { EventPayloads, ServerMessage, WebSocketEventType } from './types.js';

export const LOGS_UPDATE = 'DEPLOYMENT_LOGS_UPDATE';

/** A JSON object of the wire. */
export type Content = Record<string, unknown>;

/** A push of the server, with what the envelope has. */
export type Message = ServerMessage<string, Content>;

/** What to listen to. */
export interface Subscription {
  /** Names, `DEPLOYMENT_*` or `*`. */
  eventTypes: readonly string[];
  deploymentId?: string;
  /** The log of that deployment from a line on: 1 or 0 is the whole log, -n its last n lines. */
  fromLine?: number;
  /** For superusers. */
  organizationId?: string;
}

/** What there is to hear besides events. */
export interface Notices {
  /** The connection is away; told before each wait. */
  connection_lost: { reason: string; retryInMs: number };
  /**
   * The connection is back. With `isResumed` everything of that time follows, except for lines of logs that no
   * subscription names and events that nothing keeps; without it, `position_lost` says what is lost.
   */
  reconnected: { seconds: number; isResumed: boolean };
  /**
   * What came after a position cannot be had any more: read the state again over REST. `stream` is a stream's name,
   * or `log:<deployment id>`. `reason`: `expired`, `epoch`, `future`, `unknown` or `unsupported`. `lost` is the
   * position, `now` the one that stands in its place.
   */
  position_lost: { stream: string; reason: string; lost?: Position; now?: Position };
  /** What was missed of a stream or log follows: at most `behind` of it. */
  catching_up: { stream: string; behind: number };
  /** Everything that was missed of a stream or log has come. */
  caught_up: { stream: string };
  /** Types of this client are not the server's: `core`, or names of plugins. Told once, when the stream began. */
  contract_mismatch: { names: string[] };
  /** The stream ended for good, because coming back is pointless. Not told after `close`. */
  ended: { error: Error };
}

export type NoticeName = keyof Notices;

/** What the intake makes of a push: an event, or a notice. */
export type Item =
  | { event: Message }
  | { [N in NoticeName]: { notice: N; value: Notices[N] } }[NoticeName];

type PayloadsByName = { [T in WebSocketEventType as `${T}`]: EventPayloads[T] };

/** What a listener is given: the message of a catalogue event, that of any other push, or a notice's value. */
export type Heard<N extends string> = N extends NoticeName
  ? Notices[N]
  : `${N}` extends keyof PayloadsByName
    ? ServerMessage<`${N}`, PayloadsByName[`${N}`]>
    : Message;

export type Listener<N extends string> = (heard: Heard<N>) => void | Promise<void>;

/** The `data` of the subscribe command; `fromLine` stands for the own one. */
export function subscribeData(wanted: Subscription, fromLine = wanted.fromLine): Content {
  return {
    event_type: [...wanted.eventTypes],
    ...(wanted.deploymentId === undefined ? {} : { deployment_id: wanted.deploymentId }),
    ...(fromLine === undefined ? {} : { from_line: fromLine }),
    ...(wanted.organizationId === undefined ? {} : { organization_id: wanted.organizationId }),
  };
}

/** The deployment whose log this follows by number; undefined where it follows none, or those of all. */
export function followedLog(wanted: Subscription): string | undefined {
  // What a pattern stands for is the server's to know; whether it could stand for lines is enough here.
  const hasLines = wanted.eventTypes.some(
    (name) =>
      name === LOGS_UPDATE ||
      name === 'deployment_logs' ||
      (name.includes('*') && LOGS_UPDATE.startsWith(name.slice(0, name.indexOf('*')))),
  );
  return hasLines ? wanted.deploymentId : undefined;
}

/** Whether two subscriptions differ at most in where they begin. */
export function isSame(one: Subscription, other: Subscription): boolean {
  return JSON.stringify(subscribeData(one, 0)) === JSON.stringify(subscribeData(other, 0));
}

/** A value of the wire as an object; an empty one where it is none. */
export function content(value: unknown): Content {
  return typeof value === 'object' && value !== null && !Array.isArray(value) ? (value as Content) : {};
}
