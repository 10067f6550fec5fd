/* Counts latencies in buckets that are at most 1.6 % wide: 64 for each power of two of nanoseconds. */
#ifndef WINDFLOW_BENCH_HISTOGRAM_H
#define WINDFLOW_BENCH_HISTOGRAM_H

#include <stdint.h>

enum { HISTOGRAM_STEPS = 64, HISTOGRAM_BUCKETS = 60 * HISTOGRAM_STEPS };

struct histogram {
    uint64_t count;
    uint32_t buckets[HISTOGRAM_BUCKETS];
};

static inline void histogram_add(struct histogram *histogram, uint64_t nanoseconds) {
    int shift = 0;
    while (nanoseconds >> shift >= 2 * HISTOGRAM_STEPS) shift++;
    uint64_t step = nanoseconds >> shift; /* below 128; from 64 on where it was shifted */
    histogram->buckets[shift * HISTOGRAM_STEPS + (int)step]++;
    histogram->count++;
}

/* Return the lower edge of the bucket that holds the quantile, in nanoseconds; 0 when nothing was counted. */
static inline uint64_t histogram_at(const struct histogram *histogram, double quantile) {
    uint64_t wanted = (uint64_t)(quantile * (double)histogram->count), seen = 0;
    for (int i = 0; i < HISTOGRAM_BUCKETS; i++) {
        seen += histogram->buckets[i];
        if (seen > wanted) {
            int shift = i < 2 * HISTOGRAM_STEPS ? 0 : i / HISTOGRAM_STEPS - 1;
            return (uint64_t)(i - shift * HISTOGRAM_STEPS) << shift;
        }
    }
    return 0;
}

#endif
