#include "frames.h"

#include <stdlib.h>
#include <string.h>

enum { MOST_BYTES = 1 << 20 };
static const uint8_t MASK[4] = {0x37, 0xfa, 0x21, 0x3d}; /* any key will do: no proxy is to be protected here */

/* Return the bytes of the first frame's head, 0 when they are not all there, -1 for what is not taken here. */
static int read_head(const uint8_t *data, size_t length, size_t *payload_length) {
    if (length < 2) return 0;
    if ((data[0] & 0xf0) != 0x80 || (data[0] & 0x0f) == 0) return -1; /* a fragment, or an extension's bit */
    size_t short_length = data[1] & 0x7f;
    size_t extended = short_length == 126 ? 2 : short_length == 127 ? 8 : 0;
    size_t head = 2 + extended + (data[1] & 0x80 ? 4 : 0);
    if (length < head) return 0;
    uint64_t size = extended ? 0 : short_length;
    for (size_t i = 0; i < extended; i++) size = size << 8 | data[2 + i];
    if (size > MOST_BYTES) return -1;
    *payload_length = (size_t)size;
    return (int)head;
}

/* Hand on the whole frames in `data`; return how many bytes they took, or -1. */
static long take_frames(uint8_t *data, size_t length, frame_handler handle, void *context) {
    size_t done = 0;
    for (;;) {
        size_t payload_length = 0;
        int head = read_head(data + done, length - done, &payload_length);
        if (head < 0) return -1;
        if (head == 0 || length - done < (size_t)head + payload_length) return (long)done;
        uint8_t *frame = data + done, *payload = frame + head;
        if (frame[1] & 0x80)
            for (size_t i = 0; i < payload_length; i++) payload[i] ^= payload[-4 + (long)(i % 4)];
        handle(context, frame[0] & 0x0f, payload, payload_length);
        done += (size_t)head + payload_length;
    }
}

static int keep(struct frame_parser *parser, const uint8_t *data, size_t length) {
    if (parser->length + length > parser->capacity) {
        size_t capacity = (parser->length + length) * 2;
        uint8_t *larger = realloc(parser->kept, capacity);
        if (!larger) return -1;
        parser->kept = larger;
        parser->capacity = capacity;
    }
    memcpy(parser->kept + parser->length, data, length);
    parser->length += length;
    return 0;
}

int frames_feed(struct frame_parser *parser, uint8_t *data, size_t length, frame_handler handle, void *context) {
    if (parser->length) {
        if (keep(parser, data, length)) return -1;
        long done = take_frames(parser->kept, parser->length, handle, context);
        if (done < 0) return -1;
        parser->length -= (size_t)done;
        memmove(parser->kept, parser->kept + done, parser->length);
        return 0;
    }
    long done = take_frames(data, length, handle, context);
    if (done < 0) return -1;
    return (size_t)done < length ? keep(parser, data + done, length - (size_t)done) : 0;
}

void frames_reset(struct frame_parser *parser) {
    free(parser->kept);
    memset(parser, 0, sizeof *parser);
}

size_t frames_write(uint8_t *out, int opcode, const void *payload, size_t length, int is_masked) {
    size_t head = 2;
    out[0] = (uint8_t)(0x80 | opcode);
    if (length < 126) {
        out[1] = (uint8_t)length;
    } else {
        size_t extended = length < 65536 ? 2 : 8;
        out[1] = extended == 2 ? 126 : 127;
        for (size_t i = 0; i < extended; i++) out[2 + i] = (uint8_t)((uint64_t)length >> 8 * (extended - 1 - i));
        head += extended;
    }
    if (!is_masked) {
        memcpy(out + head, payload, length);
        return head + length;
    }
    out[1] |= 0x80;
    memcpy(out + head, MASK, 4);
    head += 4;
    for (size_t i = 0; i < length; i++) out[head + i] = ((const uint8_t *)payload)[i] ^ MASK[i % 4];
    return head + length;
}
