/* The descriptors that one environment owns: a byte for each number. */
#ifndef PASSFD_HELD_H
#define PASSFD_HELD_H

#include <stdbool.h>
#include <stddef.h>

enum held_mark { HELD = 1, WATCHED = 2 };

struct held {
	unsigned char *marks;
	size_t capacity;
	int count; /* of those marked HELD */
};

bool held_has(const struct held *held, int fd, enum held_mark mark);

/* -ENOMEM, or 0 */
int held_set(struct held *held, int fd, enum held_mark mark);
void held_clear(struct held *held, int fd, enum held_mark mark);

/* Owns `fd` from here on and returns it: after -ENOMEM it is closed. An error (a number < 0) is passed on. */
int held_take(struct held *held, int fd);

/* Closes them all and frees the table. */
void held_close_all(struct held *held);

#endif
