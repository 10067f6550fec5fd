/* RFC 6455 frames, read and written: shared by the load generator and the floor.
 *
 * The parser takes bytes as they come from a socket, split anywhere, and hands on whole frames.
 * It takes no fragmented messages: nothing that is measured here sends any. */
#ifndef WINDFLOW_BENCH_FRAMES_H
#define WINDFLOW_BENCH_FRAMES_H

#include <stddef.h>
#include <stdint.h>

enum { FRAME_TEXT = 1, FRAME_CLOSE = 8, FRAME_PING = 9, FRAME_PONG = 10 };
enum { FRAME_HEAD_BYTES = 14 };

struct frame_parser {
    uint8_t *kept; /* the beginning of a frame whose rest has not come yet */
    size_t length, capacity;
};

typedef void (*frame_handler)(void *context, int opcode, const uint8_t *payload, size_t length);

/* Hand on every frame that is whole now, in order; masked payloads are unmasked, in `data` itself.
 * Returns 0, or -1 for what is no unfragmented frame of at most 1 MiB; then the parser is of no more use. */
int frames_feed(struct frame_parser *parser, uint8_t *data, size_t length, frame_handler handle, void *context);

/* Forget what was kept. */
void frames_reset(struct frame_parser *parser);

/* Write one frame to `out`, which has room for the payload and FRAME_HEAD_BYTES; return its length. */
size_t frames_write(uint8_t *out, int opcode, const void *payload, size_t length, int is_masked);

#endif
