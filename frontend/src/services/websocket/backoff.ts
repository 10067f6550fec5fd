/** How long to wait before trying again. Pure. */

/** Exponential back-off with jitter: `firstMs` doubles up to `longestMs`; the wait is between half and all of that. */
export class Backoff {
  constructor(
    readonly firstMs = 500,
    readonly longestMs = 30_000,
    private readonly draw: () => number = Math.random,
  ) {}

  /** The wait in milliseconds after failed attempt number `attempt`, from 1. */
  delayMs(attempt: number): number {
    const step = Math.min(this.longestMs, this.firstMs * 2 ** Math.min(attempt - 1, 32));
    return step * (0.5 + this.draw() / 2);
  }
}

/** Wait; ends early when the signal is given. */
export function pause(ms: number, signal: AbortSignal): Promise<void> {
  return new Promise((resolve) => {
    const done = (): void => {
      clearTimeout(timer);
      signal.removeEventListener('abort', done);
      resolve();
    };
    const timer = setTimeout(done, ms);
    signal.addEventListener('abort', done);
    if (signal.aborted) done();
  });
}
