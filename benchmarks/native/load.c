/* The load generator: holds WebSocket connections to one server and does what standard input says, line by line.
 *
 *   greet TEXT             every new connection sends TEXT first and waits for one message
 *   open COUNT AT_ONCE     open so many further connections
 *   burst N SECONDS        let N events be published, again as soon as every connection has them all
 *   paced RATE SECONDS     let one event be published RATE times a second
 *   churn COUNT AT_ONCE    open, greet and close so many connections
 *   close                  close all
 *
 * Each command but `greet` is answered by one line of JSON; an error by {"error": …} and the end. The CPU time
 * in it is that of the server's process, read at the beginning and the end of the interval. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "connections.h"

enum { STALL_SECONDS = 30 };
#define SECOND 1000000000ULL

struct cpu {
    double user, system;
};

static int server_pid;

static struct cpu cpu_of_server(void) {
    char path[64], text[1024];
    unsigned long long user = 0, system = 0;
    snprintf(path, sizeof path, "/proc/%d/stat", server_pid);
    FILE *file = fopen(path, "r");
    if (!file) fail("the server is gone");
    size_t length = fread(text, 1, sizeof text - 1, file);
    fclose(file);
    text[length] = '\0';
    char *after_name = strrchr(text, ')'); /* the name may hold anything */
    if (!after_name || sscanf(after_name + 2, "%*c %*d %*d %*d %*d %*d %*u %*u %*u %*u %*u %llu %llu", &user, &system) != 2)
        fail("%s cannot be read", path);
    double ticks = (double)sysconf(_SC_CLK_TCK);
    return (struct cpu){(double)user / ticks, (double)system / ticks};
}

/* Print the answer to a command; `rounds` is how often something was published. */
static void answer(struct cpu before, uint64_t began, long rounds) {
    double seconds = (double)(now_nanoseconds() - began) / 1e9;
    struct cpu after = cpu_of_server();
    printf("{\"connections\": %d, \"seconds\": %.6f, \"user_seconds\": %.2f, \"system_seconds\": %.2f, \"rounds\": %ld, "
           "\"events\": %llu, \"event_bytes\": %llu, \"other_messages\": %llu, \"p50_ms\": %.4f, \"p99_ms\": %.4f}\n",
           connections_count(), seconds, after.user - before.user, after.system - before.system, rounds,
           (unsigned long long)counted.events, (unsigned long long)counted.event_bytes,
           (unsigned long long)counted.others, (double)histogram_at(&latencies, 0.5) / 1e6,
           (double)histogram_at(&latencies, 0.99) / 1e6);
    fflush(stdout);
}

static void publish(int events) {
    char text[96];
    snprintf(text, sizeof text, "{\"type\":\"bench_publish\",\"data\":{\"n\":%d}}", events);
    connections_send_first(text);
}

/* Read until so many events were counted; fail when none comes for a long time, or more than were sent. */
static void wait_for_events(uint64_t wanted) {
    uint64_t before = counted.events, deadline = now_nanoseconds() + STALL_SECONDS * SECOND;
    while (counted.events < wanted) {
        connections_pump(100);
        if (counted.events != before) {
            before = counted.events;
            deadline = now_nanoseconds() + STALL_SECONDS * SECOND;
        } else if (now_nanoseconds() > deadline) {
            fail("%llu of %llu events came", (unsigned long long)counted.events, (unsigned long long)wanted);
        }
    }
    if (counted.events > wanted) fail("more events came than were published");
}

static long burst(int events, double seconds) {
    uint64_t end = now_nanoseconds() + (uint64_t)(seconds * 1e9);
    long rounds = 0;
    do {
        publish(events);
        rounds++;
        wait_for_events((uint64_t)rounds * (uint64_t)events * (uint64_t)connections_count());
    } while (now_nanoseconds() < end);
    return rounds;
}

static long paced(double rate, double seconds) {
    uint64_t began = now_nanoseconds();
    long rounds = 0, wanted = (long)(rate * seconds) > 0 ? (long)(rate * seconds) : 1;
    while (rounds < wanted) {
        uint64_t due = began + (uint64_t)((double)rounds / rate * 1e9), now = now_nanoseconds();
        if (now < due) {
            connections_pump((int)((due - now) / 1000000));
            continue;
        }
        publish(1);
        rounds++;
    }
    wait_for_events((uint64_t)rounds * (uint64_t)connections_count());
    return rounds;
}

static void obey(const char *command) {
    int count = 0, at_once = 0;
    double number = 0, seconds = 0;
    long rounds = 0;
    memset(&counted, 0, sizeof counted);
    memset(&latencies, 0, sizeof latencies);
    if (!strncmp(command, "greet ", 6)) {
        connections_greet_with(command + 6);
        return;
    }
    struct cpu before = cpu_of_server();
    uint64_t began = now_nanoseconds();
    if (sscanf(command, "open %d %d", &count, &at_once) == 2)
        connections_open(count, at_once);
    else if (sscanf(command, "churn %d %d", &count, &at_once) == 2)
        connections_churn(count, at_once);
    else if (sscanf(command, "burst %lf %lf", &number, &seconds) == 2)
        rounds = burst((int)number, seconds);
    else if (sscanf(command, "paced %lf %lf", &number, &seconds) == 2)
        rounds = paced(number, seconds);
    else if (!strcmp(command, "close"))
        connections_close();
    else
        fail("unknown command: %s", command);
    answer(before, began, rounds);
}

int main(int argc, char **argv) {
    if (argc != 5) {
        fprintf(stderr, "usage: load PORT PATH SERVER_PID MOST_CONNECTIONS; commands come on standard input\n");
        return 2;
    }
    server_pid = atoi(argv[3]);
    connections_prepare(atoi(argv[1]), argv[2], atoi(argv[4]));
    for (;;) obey(connections_next_command());
}
