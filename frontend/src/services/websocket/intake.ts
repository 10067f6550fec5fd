/**
 * Turns the messages of one connection after another into items: what was taken before is dropped, by number. Pure.
 *
 * The positions move in the same step, so what they say is always what was told.
 */

import { content, LOGS_UPDATE, type Content, type Item, type Message } from './items.js';
import { isLine, isPlace, LOG_PREFIX, type Ledger, type Position, type StreamPosition } from './positions.js';

/** The lists of a line event, each as long as the others. */
const OF_LINES: readonly string[] = ['logs', 'times', 'streams', 'levels'];

/** Judges the pushes of the server against a ledger. */
export class Intake {
  private hasAsked = false;
  /** What this connection was to resume from; undefined: it was to begin anew. */
  private given: Record<string, StreamPosition> | undefined;
  private welcome: Content = {};
  /** The line from which each log was asked for on this connection. */
  private starts = new Map<string, number>();

  constructor(
    private readonly ledger: Ledger,
    /** Called when a stream is met whose epoch only the server can tell; once until it has told something. */
    private readonly askPositions: () => void = () => undefined,
  ) {}

  /** A connection begins: it was given these positions and lines, and was answered with those positions. */
  begin(
    given: Record<string, StreamPosition> | undefined,
    starts: ReadonlyMap<string, number>,
    welcome: Content,
  ): void {
    this.given = given;
    this.starts = new Map(starts);
    this.welcome = welcome;
    this.hasAsked = false;
  }

  /** Whether every stream goes on from where it was; if not, messages follow that say why. */
  get isResumed(): boolean {
    return Object.entries(this.given ?? {}).every(([stream, position]) => {
      const now = content(this.welcome[stream]);
      return now['epoch'] === position.epoch && now['offset'] === position.offset;
    });
  }

  /**
   * What a push means: nothing where it is known already. Throws LinesMissing, with nothing taken, where a followed
   * log has a gap that another connection can close.
   */
  take(message: Message): Item[] {
    const data = content(message.data);
    switch (message.type) {
      case 'pong':
      case 'positions':
        return this.told(data);
      case 'catching_up':
        return [
          {
            notice: 'catching_up',
            value: { stream: String(data['stream']), behind: typeof data['behind'] === 'number' ? data['behind'] : 0 },
          },
        ];
      case 'caught_up':
        return [...this.told(data), { notice: 'caught_up', value: { stream: String(data['stream']) } }];
      case 'position_lost':
        return [this.lost(data)];
      case 'WEBSOCKET_ERROR':
        return this.given !== undefined && isAboutPositions(data) ? this.notResumed() : [{ event: message }];
      default:
        return this.event(message, data);
    }
  }

  // ---- events ------------------------------------------------------------------------------------------------

  private event(message: Message, data: Content): Item[] {
    if (typeof message.stream === 'string' && typeof message.offset === 'number') {
      if (!this.ledger.take(message.stream, message.offset)) return [];
      if (!this.hasAsked && !this.ledger.knowsEpoch(message.stream)) {
        this.hasAsked = true;
        this.askPositions();
      }
      return [{ event: message }];
    }
    return message.type === LOGS_UPDATE ? this.lines(message, data) : [{ event: message }];
  }

  private lines(message: Message, data: Content): Item[] {
    const { deploymentId: log, firstLine: first, logs: texts } = data;
    // Published by something else than a runner: it has no numbers.
    if (typeof log !== 'string' || typeof first !== 'number' || !Array.isArray(texts)) return [{ event: message }];
    const lost = this.bridge(log, first);
    const known = this.ledger.takeLines(log, first, texts.length);
    if (known >= texts.length) return lost;
    return [...lost, { event: known <= 0 ? message : without(message, data, first, known) }];
  }

  /** Give lines up that did not even come to a connection that asked for them; others can still be asked for. */
  private bridge(log: string, line: number): Item[] {
    const wanted = this.ledger.line(log);
    if (wanted === undefined || line <= wanted || this.starts.get(log) !== wanted) return [];
    const stream = LOG_PREFIX + log;
    const now = this.ledger.lose(stream, { [stream]: { line } });
    return [positionLost(stream, 'unknown', { line: wanted }, now)];
  }

  // ---- positions ---------------------------------------------------------------------------------------------

  private told(data: Content): Item[] {
    const positions = content(data['positions']);
    const lost: Item[] = [];
    for (const [name, position] of Object.entries(positions)) {
      if (name.startsWith(LOG_PREFIX) && isLine(position)) {
        lost.push(...this.bridge(name.slice(LOG_PREFIX.length), position.line));
      }
    }
    if ('positions' in data) this.hasAsked = false;
    this.ledger.told(positions);
    return lost;
  }

  private lost(data: Content): Item {
    const name = String(data['stream']);
    const now = this.ledger.lose(name, content(data['positions']));
    if (name.startsWith(LOG_PREFIX)) this.starts.delete(name.slice(LOG_PREFIX.length));
    const lost = data['lost'];
    return positionLost(name, String(data['reason']), isPlace(lost) || isLine(lost) ? lost : undefined, now);
  }

  /** The server does not take positions: everything goes on from where it said that it is. */
  private notResumed(): Item[] {
    const items = Object.entries(this.given ?? {}).map(([stream, position]) =>
      positionLost(stream, 'unsupported', position, this.ledger.lose(stream, this.welcome)),
    );
    this.given = undefined;
    return items;
  }
}

export function positionLost(stream: string, reason: string, lost?: Position, now?: Position): Item {
  return {
    notice: 'position_lost',
    value: { stream, reason, ...(lost === undefined ? {} : { lost }), ...(now === undefined ? {} : { now }) },
  };
}

/** An event of lines without its first ones. */
function without(message: Message, data: Content, first: number, count: number): Message {
  const cut = Object.fromEntries(
    Object.entries(data).map(([name, each]) => [
      name,
      OF_LINES.includes(name) && Array.isArray(each) ? each.slice(count) : each,
    ]),
  );
  return { ...message, data: { ...cut, firstLine: first + count } };
}

/** Whether an error refuses the positions of the auth message. */
function isAboutPositions(data: Content): boolean {
  if (data['code'] !== 'unsupported' && data['code'] !== 'invalid_message') return false;
  const details = Array.isArray(data['details']) ? data['details'] : [];
  const named = [data['message'], ...details.map((each) => content(each)['field'])];
  return named.some((text) => /^positions(?:[:.]|$)/.test(String(text)));
}
