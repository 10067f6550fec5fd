/**
 * One authenticated WebSocket connection: requests with replies, and a bounded queue of pushes.
 *
 * Made by `EventStream`, which reconnects; ends with `SocketClosed`, never comes back by itself. A browser cannot stop
 * reading: where the queue is full the connection is given up, and the next one resumes when the queue was taken.
 */

import { ApiError, ServerUnreachable, SocketClosed } from './errors.js';
import { content, type Content, type Message } from './items.js';

/** What the library needs of a WebSocket: the global one of browsers and Node 22, or that of the package `ws`. */
export interface WebSocketLike {
  send(text: string): void;
  close(code?: number, reason?: string): void;
  // `any`: the event types of the implementations differ.
  addEventListener(type: 'open' | 'message' | 'close' | 'error', listener: (event: any) => void): void;
}

export type WebSocketConstructor = new (url: string) => WebSocketLike;

/** Times and sizes of one connection. */
export interface ConnectionLimits {
  openMs: number;
  replyMs: number;
  pingMs: number;
  /** Without a single message for so long, although pings are sent, the connection counts as lost. */
  silenceMs: number;
  /** Pushes that wait for the program; above the first of the two bounds the connection is given up. */
  queueMessages: number;
  /** In UTF-16 units of the messages' text. */
  queueCharacters: number;
}

export const LIMITS: Readonly<ConnectionLimits> = {
  openMs: 10_000,
  replyMs: 15_000,
  pingMs: 20_000,
  silenceMs: 45_000,
  queueMessages: 16_384,
  queueCharacters: 8 * 1024 * 1024,
};

interface Waiting {
  resolve: (data: Content) => void;
  reject: (error: Error) => void;
  timer: ReturnType<typeof setTimeout>;
}

/** The reason of a connection that was given up because the program took too little. */
export const TOO_SLOW = 'the program takes events more slowly than they come';

export class Connection {
  /** The `data` of AUTH_LOGIN_SUCCESS. */
  welcome: Content = {};
  /** Called when the server asks for a fresh token. */
  onAuthRequired: () => void = () => undefined;
  /** Whether it asked already. */
  isAuthRequired = false;

  private readonly pushes: { message: Message; size: number }[] = [];
  private taken = 0;
  private queued = 0;
  private readonly waiting = new Map<string, Waiting>();
  private numbers = 0;
  private heardAt = Date.now();
  private ended: SocketClosed | undefined;
  private retryAfterMs: number | undefined;
  private wake: (() => void) | undefined;
  private pinger: ReturnType<typeof setInterval> | undefined;

  private constructor(
    private readonly socket: WebSocketLike,
    private readonly limits: ConnectionLimits,
  ) {}

  /**
   * Connect and authenticate; `data` has further fields of the first message: `positions`, `subscriptions`. Rejects with
   * SocketClosed when there is no connection or the server closed it (1008 for a token it does not take).
   */
  static async open(
    Socket: WebSocketConstructor,
    url: string,
    token: string,
    data: Content,
    limits: ConnectionLimits,
  ): Promise<Connection> {
    const connection = new Connection(new Socket(url), limits);
    try {
      await connection.opened();
      connection.welcome = await connection.request('auth', { ...data, token });
    } catch (error) {
      connection.close();
      throw error;
    }
    if (connection.ended !== undefined) throw connection.ended;
    connection.pinger = setInterval(() => connection.ping(), limits.pingMs);
    return connection;
  }

  /** Send a command; the reply's `data`. Rejects with ApiError, SocketClosed, or ServerUnreachable without a reply. */
  request(type: string, data: Content = {}): Promise<Content> {
    if (this.ended !== undefined) return Promise.reject(this.ended);
    const id = String((this.numbers += 1));
    return new Promise((resolve, reject) => {
      const timer = setTimeout(() => {
        this.waiting.delete(id);
        reject(new ServerUnreachable(`no reply to ${type} in time`));
      }, this.limits.replyMs);
      this.waiting.set(id, { resolve, reject, timer });
      this.send({ type, data, id });
    });
  }

  /** The next push in the order of the wire; rejects with SocketClosed after the last one. One caller at a time. */
  async next(): Promise<Message> {
    while (this.taken >= this.pushes.length) {
      if (this.ended !== undefined) throw this.ended;
      await new Promise<void>((resolve) => (this.wake = resolve));
    }
    const { message, size } = this.pushes[this.taken]!;
    this.taken += 1;
    this.queued -= size;
    // Moving the array with each message would cost its length each time.
    if (this.taken === this.pushes.length || this.taken >= 1024) {
      this.pushes.splice(0, this.taken);
      this.taken = 0;
    }
    return message;
  }

  /** Have a `pong` with positions sent soon: it comes as a push, in its place behind the events before it. */
  ping(): void {
    const silence = Date.now() - this.heardAt;
    if (silence > this.limits.silenceMs) this.end(1006, `nothing came for ${Math.round(silence / 1000)} s`);
    // Without an id: the `pong` has positions, which count in their place among the events.
    else this.send({ type: 'ping' });
  }

  /** Close the connection. What came before is still given by `next`. Safe to call twice. */
  close(code = 1000, reason = 'closed by this client'): void {
    this.end(code, reason);
  }

  private opened(): Promise<void> {
    return new Promise((resolve, reject) => {
      const timer = setTimeout(() => this.end(1006, 'no connection in time'), this.limits.openMs);
      this.waiting.set('open', { resolve: () => resolve(), reject, timer });
      this.socket.addEventListener('open', () => this.settle('open')?.resolve({}));
      this.socket.addEventListener('message', (event: { data: unknown }) => this.read(event.data));
      // What an `error` was about, `close` tells, as far as anybody does.
      this.socket.addEventListener('error', () => undefined);
      this.socket.addEventListener('close', (event: { code: number; reason: string }) =>
        this.end(event.code === 1005 ? 1006 : event.code, event.reason || 'connection lost'),
      );
    });
  }

  private send(message: Content): void {
    if (this.ended === undefined) this.socket.send(JSON.stringify(message));
  }

  private read(text: unknown): void {
    if (this.ended !== undefined) return;
    this.heardAt = Date.now();
    let message: Message;
    try {
      message = JSON.parse(String(text)) as Message;
    } catch {
      this.end(1007, 'the server sent something that is not JSON');
      return;
    }
    if (typeof message !== 'object' || message === null) return;
    if (message.reply_to !== undefined) this.answer(message);
    else this.push(message, String(text).length);
  }

  private answer(message: Message): void {
    const waiting = this.settle(String(message.reply_to));
    const data = content(message.data);
    if (message.type === 'WEBSOCKET_ERROR') {
      waiting?.reject(new ApiError(String(data['code']), String(data['message']), data['details']));
    } else {
      waiting?.resolve(data);
    }
  }

  private push(message: Message, size: number): void {
    const data = content(message.data);
    if (message.type === 'WEBSOCKET_ERROR' && data['code'] === 'server_restarting') {
      const hint = content(data['details'])['retryAfterMs'];
      this.retryAfterMs = typeof hint === 'number' ? hint : undefined;
    } else if (message.type === 'SESSION_AUTH_REQUIRED') {
      this.isAuthRequired = true;
      this.onAuthRequired();
    }
    const waiting = this.pushes.length - this.taken;
    const isFull = waiting >= this.limits.queueMessages || this.queued + size > this.limits.queueCharacters;
    // A single message above the bound is taken: refusing it would refuse it again each time.
    if (isFull && waiting > 0) {
      this.end(1006, TOO_SLOW);
      return;
    }
    this.pushes.push({ message, size });
    this.queued += size;
    this.wake?.();
  }

  private settle(id: string): Waiting | undefined {
    const waiting = this.waiting.get(id);
    if (waiting !== undefined) clearTimeout(waiting.timer);
    this.waiting.delete(id);
    return waiting;
  }

  private end(code: number, reason: string): void {
    if (this.ended !== undefined) return;
    this.ended = new SocketClosed(code, reason, this.retryAfterMs);
    clearInterval(this.pinger);
    for (const id of [...this.waiting.keys()]) this.settle(id)?.reject(this.ended);
    this.socket.close(1000);
    this.wake?.();
  }
}
