/**
 * The events of a server, by callback, on a connection that comes back by itself and goes on exactly where it was.
 *
 * What was pushed while the connection was away follows after `reconnected`: streams from their positions, followed
 * logs from their lines. What cannot be had any more is told as `position_lost`. Free of any framework.
 */

import { Backoff, pause } from './backoff.js';
import { asClosed, duty } from './closeCodes.js';
import { Connection, LIMITS, TOO_SLOW, type ConnectionLimits, type WebSocketConstructor } from './connection.js';
import { ApiError, ClientError, LinesMissing, NotLoggedIn, ServerUnreachable, SocketClosed } from './errors.js';
import { Intake, positionLost } from './intake.js';
import {
  content,
  followedLog,
  isSame,
  subscribeData,
  type Content,
  type Item,
  type Listener,
  type Notices,
  type Subscription,
} from './items.js';
import { Listeners } from './listeners.js';
import type { StreamOptions } from './options.js';
import { LOG_PREFIX, Ledger, type Positions, type StreamPosition } from './positions.js';
import type { TokenSource } from './tokens.js';
import { CONTRACT_HASHES, type WebSocketEventType } from './types.js';

export { Backoff } from './backoff.js';
export type { ConnectionLimits, WebSocketConstructor, WebSocketLike } from './connection.js';
export { ApiError, ClientError, NotLoggedIn, ServerUnreachable, SocketClosed } from './errors.js';
export type { Heard, Listener, Message, NoticeName, Notices, Subscription } from './items.js';
export type { StreamOptions } from './options.js';
export type { Position, Positions } from './positions.js';
export * from './tokens.js';

/** A connection that lived so long starts the back-off anew; one that is closed at once does not. */
const LONG_LIVED_MS = 5_000;

/** Subscriptions that survive their connections. `start` begins, `close` ends it for good. */
export class EventStream {
  private readonly ledger: Ledger;
  private readonly intake: Intake;
  private readonly limits: ConnectionLimits;
  private readonly backoff: Backoff;
  private readonly Socket: WebSocketConstructor;
  private readonly listeners: Listeners;
  private readonly stopped = new AbortController();
  private subscriptions: Subscription[];
  private isResuming: boolean;
  private connection: Connection | undefined;
  private ready: Item[] = [];
  private token: string | undefined;
  private rejected: string | undefined;
  private attempt = 0;
  private connectedAt = 0;
  private isMismatchTold = false;
  private running: Promise<void> | undefined;

  /** Throws a TypeError for positions that are none, and where there is no WebSocket. */
  constructor(
    private readonly serverUrl: string,
    private readonly tokens: TokenSource,
    options: StreamOptions = {},
  ) {
    const Socket = options.WebSocket ?? (globalThis as { WebSocket?: WebSocketConstructor }).WebSocket;
    if (Socket === undefined) throw new TypeError('this platform has no WebSocket: give one as an option');
    this.Socket = Socket;
    this.ledger = new Ledger(options.positions);
    this.intake = new Intake(this.ledger, () => this.connection?.ping());
    this.isResuming = options.positions !== undefined;
    this.limits = { ...LIMITS, ...options.limits };
    this.backoff = options.backoff ?? new Backoff();
    this.listeners = new Listeners(options.onListenerError ?? ((error) => console.error('a listener failed', error)));
    this.subscriptions = [...(options.subscriptions ?? [])];
    for (const log of this.ledger.logs) if (!this.isFollowed(log)) this.ledger.unfollow(log);
    for (const wanted of this.subscriptions) this.followFrom(wanted, wanted.fromLine);
  }

  /** How far everything was told: to be kept after an event was handled. JSON can hold it. */
  get positions(): Positions {
    return this.ledger.positions;
  }

  get isConnected(): boolean {
    return this.connection !== undefined;
  }

  /** The number of the line of a followed log that comes next; undefined where that is not known. */
  nextLine(deploymentId: string): number | undefined {
    return this.ledger.line(deploymentId);
  }

  /**
   * Hear an event type, a notice, any other push by its type, or with `*` every push; returns what undoes it.
   *
   * Listeners are called one event after the other, in order; the next event waits for the promise that one returns.
   */
  on<N extends `${WebSocketEventType}` | keyof Notices | (string & {})>(name: N, listener: Listener<N>): () => void {
    return this.listeners.on(name, listener);
  }

  /** Connect and subscribe once; what fails now rejects at once, without waiting for a server to come. */
  async start(): Promise<void> {
    if (this.running !== undefined) throw new ClientError('the event stream was started already');
    try {
      await this.connect();
    } catch (error) {
      this.judge(error);
      if (this.rejected === undefined) throw error;
      await this.connect().catch((again: unknown) => {
        this.judge(again);
        throw again;
      });
    }
    this.running = this.run();
  }

  /** End it for good, and wait for the listener that is called at the moment; not to be awaited by a listener. */
  async close(): Promise<void> {
    this.stopped.abort();
    this.drop();
    await this.running;
  }

  /** Send a command, an event that a client may send, or what a plugin answers; resolves with the reply's `data`. */
  request(type: string, data: Content = {}): Promise<Content> {
    return this.connection?.request(type, data) ?? Promise.reject(new ServerUnreachable('the connection is away'));
  }

  /** Add a subscription, now and after every reconnect. It begins with what is published from now on, or `fromLine`. */
  async subscribe(wanted: Subscription): Promise<Content> {
    const reply = await this.request('subscribe', subscribeData(wanted));
    this.ledger.learn(content(reply['positions']));
    this.subscriptions = [...this.subscriptions.filter((each) => !isSame(each, wanted)), wanted];
    const log = followedLog(wanted);
    if (log !== undefined && wanted.fromLine !== undefined) this.ledger.unfollow(log);
    this.followFrom(wanted, reply['from_line']);
    return reply;
  }

  /** Remove a subscription, for reconnects too. */
  async unsubscribe(unwanted: Subscription): Promise<Content> {
    this.subscriptions = this.subscriptions.filter((each) => !isSame(each, unwanted));
    const log = unwanted.deploymentId;
    if (log !== undefined && !this.isFollowed(log)) this.ledger.unfollow(log);
    const { fromLine: _, ...rest } = unwanted;
    return this.request('unsubscribe', subscribeData(rest));
  }

  /** Give the connection up, so that `reconnected` comes soon: for a program whose reads get no answer. */
  lose(reason: string): void {
    this.connection?.close(1006, reason);
  }

  // ---- telling -----------------------------------------------------------------------------------------------

  private async run(): Promise<void> {
    try {
      while (!this.stopped.signal.aborted) {
        const closed = await this.listen();
        if (!this.stopped.signal.aborted) await this.comeBack(closed);
      }
    } catch (error) {
      this.drop();
      if (this.stopped.signal.aborted) return;
      this.stopped.abort();
      const ended: Notices['ended'] = { error: error instanceof Error ? error : new ClientError(String(error)) };
      await this.listeners.tell(['ended'], ended);
    }
  }

  /** Tell what comes until the connection ends; returns why it did. */
  private async listen(): Promise<SocketClosed> {
    for (;;) {
      for (const item of this.ready.splice(0)) await this.tellItem(item);
      const connection = this.connection;
      if (connection === undefined) return new SocketClosed(1006, 'closed');
      try {
        this.ready = this.intake.take(await connection.next());
      } catch (error) {
        this.drop();
        if (error instanceof SocketClosed) return error;
        // The next connection begins at that very line.
        if (error instanceof LinesMissing) return new SocketClosed(1006, error.message);
        throw error;
      }
    }
  }

  private tellItem(item: Item): void | Promise<void> {
    if (this.stopped.signal.aborted) return;
    if ('notice' in item) return this.listeners.tell([item.notice], item.value);
    return this.listeners.tell([item.event.type, '*'], item.event);
  }

  // ---- connecting --------------------------------------------------------------------------------------------

  private async comeBack(first: SocketClosed): Promise<void> {
    const lostAt = Date.now();
    let closed = first;
    // A program that was too slow has taken everything by now: it need not wait long.
    if (lostAt - this.connectedAt >= LONG_LIVED_MS || closed.reason === TOO_SLOW) this.attempt = 0;
    for (;;) {
      this.judge(closed);
      this.attempt += 1;
      const retryInMs = closed.retryAfterMs ?? this.backoff.delayMs(this.attempt);
      await this.tellItem({ notice: 'connection_lost', value: { reason: closed.message, retryInMs } });
      await pause(retryInMs, this.stopped.signal);
      if (this.stopped.signal.aborted) return;
      try {
        await this.connect();
      } catch (error) {
        closed = asClosed(error);
        continue;
      }
      const seconds = (Date.now() - lostAt) / 1000;
      this.ready.unshift({ notice: 'reconnected', value: { seconds, isResumed: this.intake.isResumed } });
      return;
    }
  }

  /** Throw what ends the stream for good; remember a token that has to be renewed first. */
  private judge(error: unknown): void {
    if (!(error instanceof SocketClosed)) throw error;
    const what = duty(error.code);
    if (what === 'stop') throw error;
    if (what === 'refresh') this.rejected = this.token;
    if (what === 'log_in') {
      // A token that was renewed and is refused again will not get better.
      if (error.reason !== 'Invalid token' || this.rejected !== undefined) throw new NotLoggedIn(error.reason);
      this.rejected = this.token;
    }
  }

  /** Make a connection that goes on where this stream is; what is lost is ready to be told then. */
  private async connect(): Promise<void> {
    this.token = await this.tokens.token(this.rejected);
    const given = this.isResuming ? this.ledger.streams : undefined;
    const lines = this.subscriptions.map((each) => ({ each, log: followedLog(each), line: this.lineOf(each) }));
    // Where a tail begins, only the reply to a command of its own says.
    const tails = lines.filter(({ each, line }) => line === undefined && (each.fromLine ?? 0) < 0);
    const subscriptions = lines.filter((each) => !tails.includes(each)).map(({ each, line }) => subscribeData(each, line));
    const data: Content = { subscriptions, contract: CONTRACT_HASHES, ...(given === undefined ? {} : { positions: given }) };
    const url = `ws${this.serverUrl.replace(/^http/, '').replace(/\/+$/, '')}/api/v1/ws`;
    const connection = await Connection.open(this.Socket, url, this.token, data, this.limits);
    try {
      const lost: Item[] = [];
      const refused = connection.welcome['refused'];
      for (const each of Array.isArray(refused) ? refused : []) {
        lost.push(await this.takeRefusal(connection, content(each)));
      }
      for (const { each } of tails) {
        const reply = await connection.request('subscribe', subscribeData(each));
        this.followFrom(each, reply['from_line']);
      }
      this.stopped.signal.throwIfAborted();
      const starts = new Map<string, number>();
      for (const { log, line } of lines) if (log !== undefined && line !== undefined) starts.set(log, line);
      this.ready.push(...this.mismatch(connection.welcome), ...lost, ...this.begin(content(connection.welcome['positions']), given, starts));
    } catch (error) {
      connection.close();
      throw error;
    }
    this.connection = connection;
    connection.onAuthRequired = () => void this.authenticate(connection);
    if (connection.isAuthRequired) connection.onAuthRequired();
    this.rejected = undefined;
    this.connectedAt = Date.now();
    this.isResuming = true;
  }

  /** The types that are not the server's, once: a page that is old stays so until it is loaded anew. */
  private mismatch(welcome: Content): Item[] {
    const names = welcome['contractMismatch'];
    if (!Array.isArray(names) || this.isMismatchTold) return [];
    this.isMismatchTold = true;
    return [{ notice: 'contract_mismatch', value: { names: names.map(String) } }];
  }

  /** Take note of where everything begins; what is followed without a position of the time before is lost. */
  private begin(
    welcome: Content,
    given: Record<string, StreamPosition> | undefined,
    starts: ReadonlyMap<string, number>,
  ): Item[] {
    const unnamed = this.ledger.forgetUnnamed();
    const learnt = this.ledger.learn(welcome);
    this.intake.begin(given, starts, welcome);
    if (given === undefined) return [];
    const missed = learnt.filter((name) => unnamed.includes(name) || Number(content(welcome[name])['offset']) > 0);
    const logs = this.ledger.logs.filter((log) => this.ledger.line(log) === undefined).sort();
    return [
      ...missed.map((name) => positionLost(name, 'unknown', undefined, welcome[name] as StreamPosition)),
      ...logs.map((log) => positionLost(LOG_PREFIX + log, 'unknown')),
    ];
  }

  /** Subscribe without the line, or from the first one there is, where only that was refused; else throw it. */
  private async takeRefusal(connection: Connection, refusal: Content): Promise<Item> {
    const { code, from_line: line, deployment_id: log, details } = refusal;
    const first = content(details)['firstAvailable'];
    const isExpired = code === 'lines_expired' && typeof first === 'number';
    if (typeof line !== 'number' || !(isExpired || code === 'unsupported')) {
      throw new ApiError(String(code), String(refusal['message']), details);
    }
    const again: Content = isExpired ? { from_line: first } : {};
    for (const name of ['event_type', 'deployment_id', 'organization_id']) {
      if (name in refusal) again[name] = refusal[name];
    }
    await connection.request('subscribe', again);
    const stream = LOG_PREFIX + String(log);
    const now = this.ledger.lose(stream, { [stream]: { line: first } });
    return positionLost(stream, isExpired ? 'expired' : 'unsupported', { line }, now);
  }

  /** Send a fresh token; where that fails for good, the server's close code decides. */
  private async authenticate(connection: Connection): Promise<void> {
    for (let attempt = 1; connection === this.connection; attempt += 1) {
      try {
        this.token = await this.tokens.token(this.token);
        await connection.request('auth', { token: this.token });
        return;
      } catch (error) {
        if (!(error instanceof ServerUnreachable)) return;
        await pause(this.backoff.delayMs(attempt), this.stopped.signal);
      }
    }
  }

  private lineOf(wanted: Subscription): number | undefined {
    const log = followedLog(wanted);
    return log === undefined ? undefined : this.ledger.line(log);
  }

  private isFollowed(deploymentId: string): boolean {
    return this.subscriptions.some((each) => followedLog(each) === deploymentId);
  }

  private followFrom(wanted: Subscription, line: unknown): void {
    const log = followedLog(wanted);
    if (log !== undefined) this.ledger.follow(log, typeof line === 'number' && line >= 0 ? Math.max(1, line) : undefined);
  }

  private drop(): void {
    this.connection?.close();
    this.connection = undefined;
  }
}
