/* The floor of unbatched sending: one `write` per socket and event, the same prepared frame for all.
 *
 * It speaks just enough WebSocket for the load generator: `auth` makes a connection a subscriber,
 * `bench_publish` with n sends n events to every subscriber. Prints its port as JSON, and serves until
 * it is told to end (SIGTERM). It knows no rights, no topics and no slow readers: that is the point. */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "frames.h"
#include "handshake.h"

enum { MOST_DESCRIPTORS = 65536, READ_BYTES = 65536, EVENT_BYTES = 306, HEAD_BYTES = 4096 };

struct client {
    int fd, is_open, is_ending;
    int subscriber; /* place in `subscribers`, or -1 */
    size_t head_length;
    char head[HEAD_BYTES];
    struct frame_parser parser;
};

static struct client *clients[MOST_DESCRIPTORS];
static struct client *subscribers[MOST_DESCRIPTORS];
static int subscriber_count;
static int epoll_fd;

static void fail(const char *what) {
    fprintf(stderr, "floor: %s: %s\n", what, strerror(errno));
    exit(1);
}

static void send_all(int fd, const void *data, size_t length) {
    ssize_t sent = write(fd, data, length);
    if (sent < 0 && (errno == EPIPE || errno == ECONNRESET)) return; /* gone: its end is read soon */
    if (sent != (ssize_t)length) fail("a client does not keep up");
}

static void send_frame(int fd, int opcode, const void *payload, size_t length) {
    uint8_t frame[256 + FRAME_HEAD_BYTES];
    send_all(fd, frame, frames_write(frame, opcode, payload, length, 0));
}

static void drop(struct client *client) {
    if (client->subscriber >= 0) {
        struct client *last = subscribers[--subscriber_count];
        subscribers[client->subscriber] = last;
        last->subscriber = client->subscriber;
    }
    clients[client->fd] = NULL;
    close(client->fd);
    frames_reset(&client->parser);
    free(client);
}

/* Send n events to every subscriber, each stamped when it is made, each with a `write` of its own. */
static void publish(int n) {
    char text[EVENT_BYTES + 1];
    uint8_t frame[EVENT_BYTES + FRAME_HEAD_BYTES];
    for (int i = 0; i < n; i++) {
        struct timespec now;
        clock_gettime(CLOCK_MONOTONIC, &now);
        int length = snprintf(text, sizeof text, "{\"type\":\"CUSTOM_EVENT\",\"data\":{\"sent\":\"%020lld\",\"padding\":\"",
                              now.tv_sec * 1000000000LL + now.tv_nsec);
        memset(text + length, 'x', (size_t)(EVENT_BYTES - length - 3));
        memcpy(text + EVENT_BYTES - 3, "\"}}", 3);
        size_t size = frames_write(frame, FRAME_TEXT, text, EVENT_BYTES, 0);
        for (int k = 0; k < subscriber_count; k++) send_all(subscribers[k]->fd, frame, size);
    }
}

static void on_frame(void *context, int opcode, const uint8_t *payload, size_t length) {
    struct client *client = context;
    static const char welcome[] = "{\"type\":\"AUTH_LOGIN_SUCCESS\",\"data\":{}}";
    if (opcode == FRAME_PING) send_frame(client->fd, FRAME_PONG, payload, length > 125 ? 125 : length);
    if (opcode == FRAME_CLOSE) {
        send_frame(client->fd, FRAME_CLOSE, payload, length > 125 ? 125 : length);
        client->is_ending = 1;
    }
    if (opcode != FRAME_TEXT) return;
    if (memmem(payload, length, "\"bench_publish\"", 15)) {
        const char *n = memmem(payload, length, "\"n\":", 4);
        publish(n ? atoi(n + 4) : 1); /* the frame's end, a brace, ends the number */
    } else if (memmem(payload, length, "\"auth\"", 6) && client->subscriber < 0) {
        client->subscriber = subscriber_count;
        subscribers[subscriber_count++] = client;
        send_frame(client->fd, FRAME_TEXT, welcome, sizeof welcome - 1);
    }
}

/* Collect the request's head; answer it when it is whole. Returns the bytes of `data` that belong to it, or -1. */
static long take_head(struct client *client, const uint8_t *data, size_t length) {
    size_t before = client->head_length;
    if (before + length >= HEAD_BYTES) return -1;
    memcpy(client->head + before, data, length);
    client->head_length += length;
    char *end = memmem(client->head, client->head_length, "\r\n\r\n", 4);
    if (!end) return (long)length;
    if (!memmem(client->head, client->head_length, HANDSHAKE_KEY, strlen(HANDSHAKE_KEY))) return -1;
    send_all(client->fd, HANDSHAKE_RESPONSE, strlen(HANDSHAKE_RESPONSE));
    client->is_open = 1;
    return end + 4 - client->head - (long)before;
}

static void serve(struct client *client) {
    static uint8_t data[READ_BYTES];
    ssize_t length = read(client->fd, data, sizeof data);
    if (length < 0 && errno == EAGAIN) return;
    long head = 0;
    if (length > 0 && !client->is_open) head = take_head(client, data, (size_t)length);
    if (length <= 0 || head < 0) {
        drop(client);
        return;
    }
    if (client->is_open && length > head)
        if (frames_feed(&client->parser, data + head, (size_t)(length - head), on_frame, client)) client->is_ending = 1;
    if (client->is_ending) drop(client);
}

static void take_connections(int listener) {
    for (;;) {
        int fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC), one = 1;
        if (fd < 0 && errno == EAGAIN) return;
        if (fd < 0 || fd >= MOST_DESCRIPTORS) fail("accept");
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
        struct client *client = calloc(1, sizeof *client);
        if (!client) fail("no memory");
        client->fd = fd;
        client->subscriber = -1;
        clients[fd] = client;
        struct epoll_event event = {.events = EPOLLIN, .data.fd = fd};
        if (epoll_ctl(epoll_fd, EPOLL_CTL_ADD, fd, &event)) fail("epoll_ctl");
    }
}

static int listen_anywhere(void) {
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t size = sizeof address;
    int listener = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (listener < 0 || bind(listener, (struct sockaddr *)&address, size) || listen(listener, 4096)) fail("listen");
    if (getsockname(listener, (struct sockaddr *)&address, &size)) fail("getsockname");
    printf("{\"port\": %d}\n", ntohs(address.sin_port));
    fflush(stdout);
    return listener;
}

int main(void) {
    static struct epoll_event ready[1024];
    signal(SIGPIPE, SIG_IGN);
    int listener = listen_anywhere();
    epoll_fd = epoll_create1(EPOLL_CLOEXEC);
    struct epoll_event event = {.events = EPOLLIN, .data.fd = listener};
    if (epoll_fd < 0 || epoll_ctl(epoll_fd, EPOLL_CTL_ADD, listener, &event)) fail("epoll");
    for (;;) {
        int count = epoll_wait(epoll_fd, ready, 1024, -1);
        if (count < 0 && errno != EINTR) fail("epoll_wait");
        for (int i = 0; i < count; i++) {
            if (ready[i].data.fd == listener)
                take_connections(listener);
            else if (clients[ready[i].data.fd])
                serve(clients[ready[i].data.fd]);
        }
    }
}
