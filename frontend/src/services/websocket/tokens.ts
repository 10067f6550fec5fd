/**
 * Where a client's access token comes from: given once (an API token), or a login that renews itself.
 *
 * Asked before every socket authentication. One refresh at a time, in this page and across the tabs of a browser: a
 * refresh token works once.
 */

import { ApiError, NotLoggedIn, ServerUnreachable } from './errors.js';
import { content } from './items.js';

/** Gives access tokens for one server. */
export interface TokenSource {
  /** A token that is good for a while and is not `rejected`; rejects with NotLoggedIn if there is none. */
  token(rejected?: string): Promise<string>;
}

/** A token that cannot be renewed here. */
export class StaticToken implements TokenSource {
  constructor(private readonly given: string) {}

  async token(rejected?: string): Promise<string> {
    if (rejected === this.given) throw new NotLoggedIn('the server does not take the given token (expired or revoked)');
    return this.given;
  }
}

/** What one login left. Times are milliseconds since 1970. */
export interface Credentials {
  accessToken: string;
  refreshToken: string;
  expiresAt: number;
  lifetimeMs: number;
}

/** Where the login of one server is kept. All tabs see the same. */
export interface CredentialStore {
  read(): Credentials | undefined;
  write(credentials: Credentials): void;
  remove(): void;
}

/** Keeps a login in a `Storage`: `localStorage` survives the browser's end and is shared by its tabs. */
export class StoredCredentials implements CredentialStore {
  constructor(
    private readonly storage: Pick<Storage, 'getItem' | 'setItem' | 'removeItem'>,
    private readonly key = 'windflow.login',
  ) {}

  read(): Credentials | undefined {
    const text = this.storage.getItem(this.key);
    if (text === null) return undefined;
    let kept: unknown;
    try {
      kept = JSON.parse(text);
    } catch {
      return undefined; // Somebody else's, or cut off: the same as no login.
    }
    const { accessToken, refreshToken, expiresAt, lifetimeMs } = content(kept);
    return typeof accessToken === 'string' &&
      typeof refreshToken === 'string' &&
      typeof expiresAt === 'number' &&
      typeof lifetimeMs === 'number'
      ? { accessToken, refreshToken, expiresAt, lifetimeMs }
      : undefined;
  }

  write(credentials: Credentials): void {
    this.storage.setItem(this.key, JSON.stringify(credentials));
  }

  remove(): void {
    this.storage.removeItem(this.key);
  }
}

/** The part of the Web Locks API that is used. */
export interface Locks {
  request<T>(name: string, options: { signal: AbortSignal }, callback: () => Promise<T>): Promise<T>;
}

export interface LoginOptions {
  /** `navigator.locks` where there is one; without it the turn is kept within this page or process. */
  locks?: Locks;
  fetch?: typeof fetch;
  /** Longest wait for an answer. */
  requestMs?: number;
  /** Longest wait for another tab that refreshes. */
  lockMs?: number;
}

/** The login kept in a store, renewed shortly before its end or when the server rejects it. */
export class StoredLogin implements TokenSource {
  private readonly locks: Locks;
  private readonly fetch: typeof fetch;
  private readonly requestMs: number;
  private readonly lockMs: number;

  constructor(
    private readonly serverUrl: string,
    private readonly store: CredentialStore,
    options: LoginOptions = {},
  ) {
    const { navigator } = globalThis as { navigator?: { locks?: Locks } };
    this.locks = options.locks ?? navigator?.locks ?? TURNS;
    this.fetch = options.fetch ?? globalThis.fetch.bind(globalThis);
    this.requestMs = options.requestMs ?? 10_000;
    this.lockMs = options.lockMs ?? 30_000;
  }

  /** Log in and keep it. Rejects with ApiError `invalid_credentials`, or ServerUnreachable. */
  async login(username: string, password: string): Promise<void> {
    this.store.write(await this.ask('login', new URLSearchParams({ username, password })));
  }

  /** Rejects with NotLoggedIn when there is no login or its session ended, ServerUnreachable without an answer. */
  async token(rejected?: string): Promise<string> {
    const current = this.read();
    if (isGood(current, rejected)) return current.accessToken;
    const signal = AbortSignal.timeout(this.lockMs);
    try {
      return await this.locks.request(`windflow.login ${this.serverUrl}`, { signal }, () => this.renew(rejected));
    } catch (error) {
      if (error !== signal.reason && !(signal.aborted && error instanceof DOMException)) throw error;
      throw new ServerUnreachable('another tab holds the login for too long', { cause: error });
    }
  }

  private read(): Credentials {
    const current = this.store.read();
    if (current === undefined) throw new NotLoggedIn(`you are not logged in to ${this.serverUrl}`);
    return current;
  }

  /** Renew under the lock, unless another tab did while this one waited for it. */
  private async renew(rejected?: string): Promise<string> {
    const current = this.read();
    if (isGood(current, rejected)) return current.accessToken;
    try {
      const renewed = await this.ask('refresh', JSON.stringify({ refreshToken: current.refreshToken }));
      this.store.write(renewed);
      return renewed.accessToken;
    } catch (error) {
      if (!(error instanceof ApiError) || error.status !== 401) throw error;
      this.store.remove();
      throw new NotLoggedIn('your session ended', { cause: error });
    }
  }

  private async ask(what: 'login' | 'refresh', body: string | URLSearchParams): Promise<Credentials> {
    const headers: Record<string, string> = typeof body === 'string' ? { 'Content-Type': 'application/json' } : {};
    const signal = AbortSignal.timeout(this.requestMs);
    let status: number;
    let answer: unknown;
    try {
      const response = await this.fetch(`${this.serverUrl}/api/v1/auth/${what}`, {
        method: 'POST',
        body,
        headers,
        signal,
      });
      status = response.status;
      answer = await response.json();
    } catch (error) {
      throw new ServerUnreachable(`${this.serverUrl} does not answer`, { cause: error });
    }
    const data = content(answer);
    if (status !== 200) throw new ApiError(String(data['code']), String(data['message']), data['details'], status);
    const lifetimeMs = Number(data['expires_in']) * 1000;
    return {
      accessToken: String(data['access_token']),
      refreshToken: String(data['refresh_token']),
      expiresAt: Date.now() + lifetimeMs,
      lifetimeMs,
    };
  }
}

/** Not rejected, and not in the last tenth of its life or its last 30 s. */
function isGood(current: Credentials, rejected?: string): boolean {
  return (
    current.accessToken !== rejected && Date.now() < current.expiresAt - Math.min(30_000, current.lifetimeMs / 10)
  );
}

/** Turns within this page or process, where the platform has no locks. */
class Turns implements Locks {
  private readonly last = new Map<string, Promise<unknown>>();

  async request<T>(name: string, { signal }: { signal: AbortSignal }, callback: () => Promise<T>): Promise<T> {
    const before = this.last.get(name) ?? Promise.resolve();
    const mine = before.then(() => {
      signal.throwIfAborted();
      return callback();
    });
    const settled = mine.catch(() => undefined);
    this.last.set(name, settled);
    try {
      return await mine;
    } finally {
      if (this.last.get(name) === settled) this.last.delete(name);
    }
  }
}

const TURNS = new Turns();
