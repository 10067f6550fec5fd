/**
 * How far a client is in each stream and each followed log: what it resumes with, and what it drops. Pure.
 *
 * A position rises with each event or line that was taken, and with what the server says behind those on the same
 * socket. It falls only where the server says that it is lost. Positions of REST answers never come here.
 */

import { LinesMissing } from './errors.js';

export const LOG_PREFIX = 'log:';

export interface StreamPosition {
  epoch: string;
  offset: number;
}

export interface LinePosition {
  line: number;
}

export type Position = StreamPosition | LinePosition;

/** As they cross the wire: `{"org:…": {"epoch": "…", "offset": 42}, "log:<deployment id>": {"line": 7}}`. */
export type Positions = Record<string, Position>;

/** `epoch` undefined: events came, but nobody said yet of which life of the stream. */
interface Place {
  epoch: string | undefined;
  offset: number;
}

/** The positions of one client; bounded by the streams and logs that are followed. */
export class Ledger {
  private readonly places = new Map<string, Place>();
  /** The next line of each followed log; undefined: whichever comes first. */
  private readonly lines = new Map<string, number | undefined>();

  /** Begins with saved positions; throws a TypeError that names the one that is none. */
  constructor(positions: Readonly<Record<string, unknown>> = {}) {
    for (const [name, position] of Object.entries(positions)) {
      if (name.startsWith(LOG_PREFIX) && isLine(position)) {
        this.lines.set(name.slice(LOG_PREFIX.length), position.line);
      } else if (!name.startsWith(LOG_PREFIX) && isPlace(position)) {
        this.places.set(name, { epoch: position.epoch, offset: position.offset });
      } else {
        throw new TypeError(`positions: ${name}: neither an epoch with an offset nor a line`);
      }
    }
  }

  // ---- what there is -----------------------------------------------------------------------------------------

  /** What to resume the streams with; one whose epoch nobody told is left out. */
  get streams(): Record<string, StreamPosition> {
    const known: Record<string, StreamPosition> = {};
    for (const [stream, { epoch, offset }] of this.places) if (epoch !== undefined) known[stream] = { epoch, offset };
    return known;
  }

  /** The streams and the followed logs together: what to keep, and to begin with another time. */
  get positions(): Positions {
    const all: Positions = { ...this.streams };
    for (const [log, line] of this.lines) if (line !== undefined) all[LOG_PREFIX + log] = { line };
    return all;
  }

  get logs(): string[] {
    return [...this.lines.keys()];
  }

  line(deploymentId: string): number | undefined {
    return this.lines.get(deploymentId);
  }

  knowsEpoch(stream: string): boolean {
    return this.places.get(stream)?.epoch !== undefined;
  }

  // ---- what is followed --------------------------------------------------------------------------------------

  /** Follow a log, from a line on where one is given; one that is followed already stays where it is. */
  follow(deploymentId: string, line: number | undefined): void {
    if (this.lines.get(deploymentId) === undefined) this.lines.set(deploymentId, line);
  }

  unfollow(deploymentId: string): void {
    this.lines.delete(deploymentId);
  }

  /** Take over where streams begin that were not followed before; return their names. */
  learn(positions: Readonly<Record<string, unknown>>): string[] {
    const learnt: string[] = [];
    for (const [name, position] of Object.entries(positions)) {
      if (this.places.has(name) || name.startsWith(LOG_PREFIX) || !isPlace(position)) continue;
      this.places.set(name, { epoch: position.epoch, offset: position.offset });
      learnt.push(name);
    }
    return learnt;
  }

  // ---- what comes --------------------------------------------------------------------------------------------

  /** Take an event; false if it was taken before. */
  take(stream: string, offset: number): boolean {
    const place = this.places.get(stream);
    if (place === undefined) this.places.set(stream, { epoch: undefined, offset });
    else if (offset <= place.offset) return false;
    else place.offset = offset;
    return true;
  }

  /**
   * Take lines; return how many of them, from the first on, were taken before. Those of logs that are not followed
   * are all new. Throws LinesMissing, and takes none, where some before them did not come.
   */
  takeLines(deploymentId: string, first: number, count: number): number {
    const wanted = this.lines.get(deploymentId);
    if (wanted !== undefined && first > wanted) throw new LinesMissing(deploymentId, wanted);
    const known = wanted === undefined ? 0 : Math.min(count, wanted - first);
    if (this.lines.has(deploymentId) && known < count) this.lines.set(deploymentId, first + count);
    return known;
  }

  /**
   * Raise positions to what the server said on this socket: everything up to there was sent before. Another epoch, and
   * a stream that is further already, change nothing. Throws LinesMissing where a log is said to be further than the
   * lines that came.
   */
  told(positions: Readonly<Record<string, unknown>>): void {
    for (const [name, position] of Object.entries(positions)) {
      if (name.startsWith(LOG_PREFIX)) {
        if (isLine(position)) this.toldLine(name.slice(LOG_PREFIX.length), position.line);
      } else if (isPlace(position)) {
        const place = this.places.get(name);
        if (place === undefined) this.places.set(name, { epoch: position.epoch, offset: position.offset });
        else if (place.epoch === undefined || place.epoch === position.epoch) {
          place.epoch = position.epoch;
          place.offset = Math.max(place.offset, position.offset);
        }
      }
    }
  }

  /** Put what the server says in the place of a position that it cannot continue from, and return that. */
  lose(name: string, positions: Readonly<Record<string, unknown>>): Position | undefined {
    const position = positions[name];
    if (name.startsWith(LOG_PREFIX)) {
      const log = name.slice(LOG_PREFIX.length);
      const now = isLine(position) ? { line: position.line } : undefined;
      if (this.lines.has(log)) this.lines.set(log, now?.line);
      return now;
    }
    if (!isPlace(position)) {
      this.places.delete(name);
      return undefined;
    }
    this.places.set(name, { epoch: position.epoch, offset: position.offset });
    return { epoch: position.epoch, offset: position.offset };
  }

  /** Let go of the streams whose epoch nobody told: they cannot be resumed. Return their names. */
  forgetUnnamed(): string[] {
    const unnamed = [...this.places].filter(([, place]) => place.epoch === undefined).map(([stream]) => stream);
    for (const stream of unnamed) this.places.delete(stream);
    return unnamed;
  }

  private toldLine(deploymentId: string, line: number): void {
    if (!this.lines.has(deploymentId)) return;
    const wanted = this.lines.get(deploymentId);
    if (wanted === undefined) this.lines.set(deploymentId, line);
    else if (line > wanted) throw new LinesMissing(deploymentId, wanted);
  }
}

export function isPlace(position: unknown): position is StreamPosition {
  if (typeof position !== 'object' || position === null) return false;
  const { epoch, offset } = position as Partial<StreamPosition>;
  return typeof epoch === 'string' && Number.isSafeInteger(offset) && (offset as number) >= 0;
}

export function isLine(position: unknown): position is LinePosition {
  if (typeof position !== 'object' || position === null) return false;
  const { line } = position as Partial<LinePosition>;
  return Number.isSafeInteger(line) && (line as number) >= 1;
}
