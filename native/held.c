#include "held.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "os.h"

bool held_has(const struct held *held, int fd, enum held_mark mark)
{
	return fd >= 0 && (size_t) fd < held->capacity && (held->marks[fd] & mark) != 0;
}

static int grow(struct held *held, size_t needed)
{
	size_t capacity = held->capacity == 0 ? 256 : held->capacity;
	while (capacity < needed)
		capacity *= 2;
	unsigned char *marks = realloc(held->marks, capacity);
	if (marks == NULL)
		return -ENOMEM;
	memset(marks + held->capacity, 0, capacity - held->capacity);
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
	held->marks[fd] |= (unsigned char) mark;
	return 0;
}

void held_clear(struct held *held, int fd, enum held_mark mark)
{
	if (!held_has(held, fd, mark))
		return;
	if (mark == HELD)
		held->count--;
	held->marks[fd] &= (unsigned char) ~mark;
}

int held_take(struct held *held, int fd)
{
	if (fd < 0 || held_set(held, fd, HELD) == 0)
		return fd;
	os_close(fd);
	return -ENOMEM;
}

void held_close_all(struct held *held)
{
	for (size_t fd = 0; fd < held->capacity && held->count > 0; fd++) {
		if ((held->marks[fd] & HELD) == 0)
			continue;
		held_clear(held, (int) fd, HELD);
		os_close((int) fd);
	}
	free(held->marks);
	*held = (struct held) {0};
}
