/* The way back of batches that helper threads have closed: to the environment that has submitted them. */
#ifndef PASSFD_CLOSED_BATCHES_H
#define PASSFD_CLOSED_BATCHES_H

#include "environment.h"

/* Gives the environment its way back. False if it fails. */
bool closed_batches_create(struct environment *environment);

/* The batch and its descriptors are the closer's from here on; with a tag > 0 dispatch follows. */
void closed_batches_submit(struct environment *environment, struct closer_batch *batch);

/* The environment ends: what comes back later is dropped. */
void closed_batches_end(struct closed_batches *queue);

#endif
