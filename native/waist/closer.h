/* Helper threads for close(2), which may block: a few for the whole process, started when they are needed. */
#ifndef PASSFD_CLOSER_H
#define PASSFD_CLOSER_H

#include <stddef.h>
#include <stdint.h>

struct closer_batch {
	struct closer_batch *next;
	/* Runs on a helper thread when all are closed, and owns the batch from then on; NULL: it is freed. */
	void (*done)(struct closer_batch *batch);
	void *context;
	int32_t tag;
	int32_t closed; /* how many were, afterwards */
	size_t count;
	int32_t fds[];
};

/* The batch (made by malloc) and its descriptors are the closer's from here on. */
void closer_submit(struct closer_batch *batch);

/* How many descriptors have been submitted in this process and are not closed yet. */
int closer_pending(void);

#endif
