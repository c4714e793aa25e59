#include "held.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "os.h"

enum { OWNER = 4 }; /* one more owner, in the upper bits of the marks */

bool held_has(const struct held *held, int fd, enum held_mark mark)
{
	return fd >= 0 && (size_t) fd < held->capacity && (held->marks[fd] & mark) != 0;
}

static int grow(struct held *held, size_t needed)
{
	size_t capacity = held->capacity == 0 ? 256 : held->capacity;
	while (capacity < needed)
		capacity *= 2;
	uint32_t *marks = realloc(held->marks, capacity * sizeof *marks);
	if (marks == NULL)
		return -ENOMEM;
	memset(marks + held->capacity, 0, (capacity - held->capacity) * sizeof *marks);
	held->marks = marks;
	held->capacity = capacity;
	return 0;
}

int held_set(struct held *held, int fd, enum held_mark mark)
{
	if ((size_t) fd >= held->capacity && grow(held, (size_t) fd + 1) < 0)
		return -ENOMEM;
	if (mark == HELD && !held_has(held, fd, HELD))
		held->count++;
	held->marks[fd] |= mark;
	return 0;
}

void held_clear(struct held *held, int fd, enum held_mark mark)
{
	if (!held_has(held, fd, mark))
		return;
	if (mark == HELD)
		held->count--;
	held->marks[fd] &= ~(uint32_t) mark;
}

int held_take(struct held *held, int fd)
{
	if (fd < 0 || held_set(held, fd, HELD) == 0)
		return fd;
	os_close(fd);
	return -ENOMEM;
}

int held_share(struct held *held, int fd)
{
	if (!held_has(held, fd, HELD))
		return -EBADF;
	if (held->marks[fd] > UINT32_MAX - OWNER)
		return -EMFILE;
	held->marks[fd] += OWNER;
	held->count++;
	return fd;
}

bool held_drop(struct held *held, int fd)
{
	if (held->marks[fd] < OWNER) {
		held_clear(held, fd, HELD);
		return true;
	}
	held->marks[fd] -= OWNER;
	held->count--;
	return false;
}

int held_separate(struct held *held, int fd)
{
	if (!held_has(held, fd, HELD))
		return -EBADF;
	if (held->marks[fd] < OWNER)
		return fd;
	int copy = held_take(held, os_dup(fd));
	if (copy >= 0)
		held_drop(held, fd);
	return copy;
}

void held_close_all(struct held *held)
{
	for (size_t fd = 0; fd < held->capacity && held->count > 0; fd++) {
		if ((held->marks[fd] & HELD) == 0)
			continue;
		while (!held_drop(held, (int) fd))
			;
		os_close((int) fd);
	}
	free(held->marks);
	*held = (struct held) {0};
}
