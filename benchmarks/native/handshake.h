/* The two halves of the WebSocket handshake. The key is the one of RFC 6455, so the answer is known as well. */
#ifndef WINDFLOW_BENCH_HANDSHAKE_H
#define WINDFLOW_BENCH_HANDSHAKE_H

#define HANDSHAKE_KEY "dGhlIHNhbXBsZSBub25jZQ=="
#define HANDSHAKE_ACCEPT "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="

#define HANDSHAKE_REQUEST \
    "GET %s HTTP/1.1\r\nHost: 127.0.0.1:%d\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n" \
    "Sec-WebSocket-Key: " HANDSHAKE_KEY "\r\nSec-WebSocket-Version: 13\r\n\r\n"

#define HANDSHAKE_RESPONSE \
    "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n" \
    "Sec-WebSocket-Accept: " HANDSHAKE_ACCEPT "\r\n\r\n"

#endif
