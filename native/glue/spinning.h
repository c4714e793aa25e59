/* A loop that looks for events again and again instead of sleeping, for a while. */
#ifndef PASSFD_SPINNING_H
#define PASSFD_SPINNING_H

#include "environment.h"

void spinning_create(struct environment *environment);

/* For so long from now on, at least. What comes on the watcher's socket is read without a wake-up, if not too many spin. */
int spinning_prolong(struct spinning *spinning, int id, int microseconds);

void spinning_end(struct spinning *spinning);

#endif
