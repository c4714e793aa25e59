/* The descriptors that one environment owns, and how many owners each has. */
#ifndef PASSFD_HELD_H
#define PASSFD_HELD_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum held_mark { HELD = 1, WATCHED = 2 };

struct held {
	uint32_t *marks; /* by number: the marks, and in the bits above them the number of further owners */
	size_t capacity;
	int count; /* of owners */
	uint32_t identity; /* of the environment, from held_identity() */
};

/* Returns an identity that no other environment of this process has. */
uint32_t held_identity(void);

bool held_has(const struct held *held, int fd, enum held_mark mark);

/* -ENOMEM, or 0 */
int held_set(struct held *held, int fd, enum held_mark mark);
void held_clear(struct held *held, int fd, enum held_mark mark);

/*
 * Takes over a number that has no owner yet. -EEXIST: this environment holds it, or another one of this process that was loaded from the
 * same file. -ENOMEM: nothing has changed.
 */
int held_adopt(struct held *held, int fd);

/* Owns `fd` from here on and returns it: after -ENOMEM it is closed. An error (a number < 0) is passed on. */
int held_take(struct held *held, int fd);

/* Adds an owner. Returns fd, or -EBADF if it isn't held. */
int held_share(struct held *held, int fd);

/* Removes an owner. True: it was the last one, the number is not in the table any more, and the caller closes it. */
bool held_drop(struct held *held, int fd);

/* Gives an owner a number of its own: `fd` if it is the only owner, otherwise a copy (dup(2)). */
int held_separate(struct held *held, int fd);

/* Closes them all and frees the table. */
void held_close_all(struct held *held);

#endif
