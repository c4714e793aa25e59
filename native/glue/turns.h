/* How long the turns of a loop take. */
#ifndef PASSFD_TURNS_H
#define PASSFD_TURNS_H

#include "environment.h"

void turns_create(struct environment *environment);

/*
 * The longest turn of the loop since the last call, in µs, the present one included: for so long nobody's events were looked for. The first call
 * begins to measure, and returns 0. -ENOTSUP: this loop does not measure its sleep (UV_METRICS_IDLE_TIME).
 */
int turns_longest(struct environment *environment);

void turns_end(struct environment *environment);

#endif
