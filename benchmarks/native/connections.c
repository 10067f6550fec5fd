#define _GNU_SOURCE
#include "connections.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "frames.h"
#include "handshake.h"

enum { READ_BYTES = 1 << 18, HEAD_BYTES = 2048, LINE_BYTES = 1 << 16, MOST_READY = 1024, STALL_SECONDS = 30 };
enum state { FREE, CONNECTING, UPGRADING, GREETING, OPEN, LEAVING, LEFT };

struct connection {
    int fd, index;
    enum state state;
    size_t head_length;
    char head[HEAD_BYTES];
    struct frame_parser parser;
};

struct counts counted;
struct histogram latencies;

static struct connection *all;
static int most_connections, open_count, left_count, server_port, epoll_fd;
static const char *server_path, *greeting;
static uint64_t read_at; /* when the bytes being looked at were read */
static char line[LINE_BYTES];
static size_t line_length, line_used;

void fail(const char *format, ...) {
    char text[512];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(text, sizeof text, format, arguments);
    va_end(arguments);
    for (char *c = text; *c; c++)
        if (*c == '"' || *c == '\\' || (unsigned char)*c < ' ') *c = '\'';
    printf("{\"error\": \"%s\"}\n", text);
    fflush(stdout);
    exit(1);
}

uint64_t now_nanoseconds(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000000ULL + (uint64_t)now.tv_nsec;
}

static void send_frame(struct connection *connection, int opcode, const void *payload, size_t length) {
    static uint8_t frame[LINE_BYTES + FRAME_HEAD_BYTES];
    size_t size = frames_write(frame, opcode, payload, length, 1);
    ssize_t sent = send(connection->fd, frame, size, MSG_NOSIGNAL);
    if (sent != (ssize_t)size && connection->state != LEAVING)
        fail("connection %d: cannot send: %s", connection->index, strerror(errno));
}

static void start(struct connection *connection) {
    struct sockaddr_in address = {
        .sin_family = AF_INET, .sin_port = htons((uint16_t)server_port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    int one = 1;
    connection->fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (connection->fd < 0) fail("socket: %s", strerror(errno));
    setsockopt(connection->fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    if (connect(connection->fd, (struct sockaddr *)&address, sizeof address) && errno != EINPROGRESS)
        fail("connect: %s", strerror(errno));
    connection->state = CONNECTING;
    connection->head_length = 0;
    struct epoll_event event = {.events = EPOLLOUT, .data.ptr = connection};
    if (epoll_ctl(epoll_fd, EPOLL_CTL_ADD, connection->fd, &event)) fail("epoll_ctl: %s", strerror(errno));
}

static void opened(struct connection *connection) {
    connection->state = OPEN;
    open_count++;
}

static void ask_for_upgrade(struct connection *connection) {
    char request[1024];
    int error = 0;
    socklen_t size = sizeof error;
    getsockopt(connection->fd, SOL_SOCKET, SO_ERROR, &error, &size);
    if (error) fail("connection %d: cannot connect: %s", connection->index, strerror(error));
    int length = snprintf(request, sizeof request, HANDSHAKE_REQUEST, server_path, server_port);
    if (send(connection->fd, request, (size_t)length, MSG_NOSIGNAL) != length)
        fail("connection %d: cannot ask: %s", connection->index, strerror(errno));
    connection->state = UPGRADING;
    struct epoll_event event = {.events = EPOLLIN, .data.ptr = connection};
    if (epoll_ctl(epoll_fd, EPOLL_CTL_MOD, connection->fd, &event)) fail("epoll_ctl: %s", strerror(errno));
}

/* Collect the answer to the upgrade; returns how many bytes of `data` belong to it. */
static size_t take_answer(struct connection *connection, const uint8_t *data, size_t length) {
    size_t before = connection->head_length;
    size_t taken = length < HEAD_BYTES - 1 - before ? length : HEAD_BYTES - 1 - before;
    memcpy(connection->head + before, data, taken);
    connection->head_length += taken;
    connection->head[connection->head_length] = '\0';
    char *end = strstr(connection->head, "\r\n\r\n");
    if (!end && connection->head_length < HEAD_BYTES - 1) return length;
    if (!end || strncmp(connection->head, "HTTP/1.1 101", 12) || !strstr(connection->head, HANDSHAKE_ACCEPT))
        fail("connection %d: no upgrade: %.80s", connection->index, connection->head);
    if (greeting) {
        connection->state = GREETING;
        send_frame(connection, FRAME_TEXT, greeting, strlen(greeting));
    } else {
        opened(connection);
    }
    return (size_t)(end + 4 - connection->head) - before;
}

static void take_text(struct connection *connection, const uint8_t *payload, size_t length) {
    static const char stamp[] = "\"sent\":\"";
    const uint8_t *found = memmem(payload, length, stamp, sizeof stamp - 1);
    if (!found) {
        counted.others++;
        if (memmem(payload, length, "WEBSOCKET_ERROR", 15) || memmem(payload, length, "\"refused\":[{", 12))
            fail("connection %d: the server refused: %.*s", connection->index, (int)(length < 300 ? length : 300), payload);
        if (connection->state == GREETING) opened(connection);
        return;
    }
    uint64_t sent = 0;
    const uint8_t *digit = found + sizeof stamp - 1;
    for (; digit < payload + length && *digit >= '0' && *digit <= '9'; digit++) sent = sent * 10 + (*digit - '0');
    counted.events++;
    counted.event_bytes += length;
    histogram_add(&latencies, read_at > sent ? read_at - sent : 0);
}

static void take_frame(void *context, int opcode, const uint8_t *payload, size_t length) {
    struct connection *connection = context;
    if (opcode == FRAME_TEXT) take_text(connection, payload, length);
    if (opcode == FRAME_PING) send_frame(connection, FRAME_PONG, payload, length);
    if (opcode == FRAME_CLOSE && connection->state != LEAVING)
        fail("connection %d: closed by the server: code %d %.*s", connection->index,
             length >= 2 ? payload[0] << 8 | payload[1] : 0, length > 2 ? (int)length - 2 : 0, payload + 2);
}

static void left(struct connection *connection) {
    close(connection->fd);
    frames_reset(&connection->parser);
    connection->state = LEFT;
    open_count--;
    left_count++;
}

static void read_some(struct connection *connection) {
    static uint8_t data[READ_BYTES];
    ssize_t length = recv(connection->fd, data, sizeof data, 0);
    read_at = now_nanoseconds();
    if (length < 0 && errno == EAGAIN) return;
    if (length <= 0) {
        if (connection->state != LEAVING) fail("connection %d: lost", connection->index);
        left(connection);
        return;
    }
    size_t head = connection->state == UPGRADING ? take_answer(connection, data, (size_t)length) : 0;
    if (frames_feed(&connection->parser, data + head, (size_t)length - head, take_frame, connection))
        fail("connection %d: not a frame", connection->index);
}

static void read_input(void) {
    if (line_used) {
        memmove(line, line + line_used, line_length - line_used);
        line_length -= line_used;
        line_used = 0;
    }
    ssize_t length = read(STDIN_FILENO, line + line_length, sizeof line - 1 - line_length);
    if (length > 0) {
        line_length += (size_t)length;
        return;
    }
    exit(0); /* whoever gave the commands is gone: nothing that runs is of use to anybody */
}

void connections_pump(int milliseconds) {
    static struct epoll_event ready[MOST_READY];
    int count = epoll_wait(epoll_fd, ready, MOST_READY, milliseconds);
    if (count < 0 && errno != EINTR) fail("epoll_wait: %s", strerror(errno));
    for (int i = 0; i < count; i++) {
        struct connection *connection = ready[i].data.ptr;
        if (!connection)
            read_input();
        else if (connection->state == CONNECTING)
            ask_for_upgrade(connection);
        else
            read_some(connection);
    }
}

const char *connections_next_command(void) {
    for (;;) {
        char *end = memchr(line + line_used, '\n', line_length - line_used);
        if (end) {
            const char *command = line + line_used;
            *end = '\0';
            line_used = (size_t)(end + 1 - line);
            return command;
        }
        connections_pump(-1);
    }
}

void connections_prepare(int port, const char *path, int most) {
    server_port = port;
    server_path = path;
    most_connections = most;
    all = calloc((size_t)most, sizeof *all);
    epoll_fd = epoll_create1(EPOLL_CLOEXEC);
    struct epoll_event event = {.events = EPOLLIN, .data.ptr = NULL};
    if (!all || epoll_fd < 0 || epoll_ctl(epoll_fd, EPOLL_CTL_ADD, STDIN_FILENO, &event))
        fail("cannot start: %s", strerror(errno));
}

void connections_greet_with(const char *text) { greeting = text ? strdup(text) : NULL; }

int connections_count(void) { return open_count; }

/* Pump once; fail when `value` has been the same for too long. */
static void wait_for_change(int value, const char *what) {
    static int before;
    static uint64_t changed_at;
    connections_pump(100);
    if (value != before || !changed_at) {
        before = value;
        changed_at = now_nanoseconds();
    } else if (now_nanoseconds() - changed_at > STALL_SECONDS * 1000000000ULL) {
        fail("%s: nothing happened for %d seconds", what, STALL_SECONDS);
    }
}

void connections_open(int count, int at_once) {
    int first = open_count, started = 0;
    if (first + count > most_connections) fail("at most %d connections", most_connections);
    while (open_count < first + count) {
        while (started < count && started - (open_count - first) < at_once) {
            struct connection *connection = &all[first + started++];
            connection->index = (int)(connection - all);
            start(connection);
        }
        wait_for_change(open_count, "opening");
    }
}

static void leave(struct connection *connection) {
    static const uint8_t normal[2] = {0x03, 0xe8};
    connection->state = LEAVING;
    send_frame(connection, FRAME_CLOSE, normal, sizeof normal);
}

void connections_churn(int count, int at_once) {
    int first = open_count, started = 0, before = left_count;
    if (first + at_once > most_connections) fail("at most %d connections", most_connections);
    while (left_count - before < count) {
        for (int i = first; i < first + at_once; i++) {
            struct connection *connection = &all[i];
            connection->index = i;
            if (connection->state == OPEN) leave(connection);
            if ((connection->state == FREE || connection->state == LEFT) && started < count) {
                start(connection);
                started++;
            }
        }
        wait_for_change(left_count, "opening and closing");
    }
    for (int i = first; i < first + at_once; i++) all[i].state = FREE;
}

void connections_close(void) {
    int count = open_count;
    for (int i = 0; i < count; i++) leave(&all[i]);
    while (open_count) wait_for_change(open_count, "closing");
    for (int i = 0; i < count; i++) all[i].state = FREE;
}

void connections_send_first(const char *text) {
    if (!open_count) fail("no connection is open");
    send_frame(&all[0], FRAME_TEXT, text, strlen(text));
}
