/** Who hears what: calls listeners in order, and waits for the promises that they return. */

import type { Listener } from './items.js';

type Anybody = (heard: unknown) => void | Promise<void>;

export class Listeners {
  private readonly all = new Map<string, Set<Anybody>>();

  constructor(private readonly onError: (error: unknown) => void) {}

  /** Add a listener; returns what removes it. One that is added twice is called twice. */
  on<N extends string>(name: N, listener: Listener<N>): () => void {
    const heard = this.all.get(name) ?? new Set();
    this.all.set(name, heard);
    const entry: Anybody = (value) => (listener as Anybody)(value);
    heard.add(entry);
    return () => void heard.delete(entry);
  }

  /** Call the listeners of these names. What one throws goes to `onError`; the others are called all the same. */
  tell(names: readonly string[], value: unknown): void | Promise<void> {
    const pending: Promise<void>[] = [];
    for (const listener of names.flatMap((name) => [...(this.all.get(name) ?? [])])) {
      try {
        const called = listener(value);
        if (called instanceof Promise) pending.push(called.catch(this.onError));
      } catch (error) {
        this.onError(error);
      }
    }
    // A promise for each event would cost more than most listeners do.
    return pending.length === 0 ? undefined : Promise.all(pending).then(() => undefined);
  }
}
