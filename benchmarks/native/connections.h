/* The load generator's WebSocket connections to one server: opened, authenticated, read and counted.
 *
 * One pool for the process. Every failure of a connection is fatal: it is printed as {"error": …} and the
 * process ends with 1, because a figure with lost connections is no figure. */
#ifndef WINDFLOW_BENCH_CONNECTIONS_H
#define WINDFLOW_BENCH_CONNECTIONS_H

#include <stddef.h>
#include <stdint.h>

#include "histogram.h"

struct counts {
    uint64_t events;      /* messages with a "sent" stamp */
    uint64_t event_bytes; /* their text */
    uint64_t others;      /* any other message: replies, notices */
};

extern struct counts counted;
extern struct histogram latencies;

/* Get ready for a server on 127.0.0.1 and at most `most` connections. */
void connections_prepare(int port, const char *path, int most);

/* Send this text first on every new connection and wait for one message in return; NULL: neither. */
void connections_greet_with(const char *text);

/* Open `count` further connections, at most `at_once` of them between connecting and open. */
void connections_open(int count, int at_once);

/* Open, greet and close `count` connections, at most `at_once` at the same time; those that are open stay. */
void connections_churn(int count, int at_once);

/* Close all connections, each with a close frame that the server answers. */
void connections_close(void);

int connections_count(void);

/* Send a text message on the first connection. */
void connections_send_first(const char *text);

/* Wait up to `milliseconds` (-1: for ever) for something to read, and read it. */
void connections_pump(int milliseconds);

/* Return the next line of standard input, without its end; answers pings meanwhile. At the end of
 * the input the process ends. */
const char *connections_next_command(void);

/* Print {"error": …} and end with 1. */
__attribute__((format(printf, 1, 2), noreturn)) void fail(const char *format, ...);

uint64_t now_nanoseconds(void);

#endif
