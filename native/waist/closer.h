/* Helper threads for close(2), which may block: a few for the whole process, started when they are needed. */
#ifndef PASSFD_CLOSER_H
#define PASSFD_CLOSER_H

#include <stddef.h>
#include <stdint.h>

struct closer_batch {
	struct closer_batch *next;
	/* Called on a helper thread when all are closed; it then owns the batch. NULL: the batch is freed. */
	void (*done)(struct closer_batch *batch);
	void *context;
	int32_t tag;
	int32_t closed; /* afterwards: how many were open */
	size_t count;
	int32_t fds[];
};

/* The closer then owns the batch (made by malloc) and its descriptors. */
void closer_submit(struct closer_batch *batch);

/* How many descriptors have been submitted in this process and are not closed yet. */
int closer_pending(void);

#endif
