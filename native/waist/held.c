#include "held.h"

#include <errno.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include "os.h"

enum { OWNER = 4 }; /* one more owner, in the upper bits of the marks */

/*
 * Which environment of this process holds a number: its identity, or 0. In pages, made when needed and never freed, as any thread may look
 * at them. It only refuses a number that two environments would close; each relies on its own table for all else.
 */
enum { PAGE = 1 << 16, PAGES = 1 << 15 };
static _Atomic(_Atomic uint32_t *) pages[PAGES];

/* NULL: no memory, or no page and it isn't to be made. */
static _Atomic uint32_t *holder_of(int fd, bool make)
{
	_Atomic(_Atomic uint32_t *) *place = &pages[fd / PAGE];
	_Atomic uint32_t *page = atomic_load_explicit(place, memory_order_acquire);
	if (page == NULL) {
		_Atomic uint32_t *made = make ? calloc(PAGE, sizeof *made) : NULL;
		if (made == NULL)
			return NULL;
		if (atomic_compare_exchange_strong(place, &page, made))
			page = made;
		else
			free(made);
	}
	return page + fd % PAGE;
}

uint32_t held_identity(void)
{
	static atomic_uint last;
	uint32_t identity = atomic_fetch_add(&last, 1) + 1;
	return identity == 0 ? held_identity() : identity;
}

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
	if (mark == HELD && !held_has(held, fd, HELD)) {
		_Atomic uint32_t *holder = holder_of(fd, true);
		if (holder == NULL)
			return -ENOMEM;
		atomic_store_explicit(holder, held->identity, memory_order_relaxed);
		held->count++;
	}
	held->marks[fd] |= mark;
	return 0;
}

int held_adopt(struct held *held, int fd)
{
	uint32_t nobody = 0;
	_Atomic uint32_t *holder = holder_of(fd, true);
	if (holder == NULL)
		return -ENOMEM;
	if (held_has(held, fd, HELD) || !atomic_compare_exchange_strong(holder, &nobody, held->identity))
		return -EEXIST;
	if (held_set(held, fd, HELD) == 0)
		return 0;
	atomic_store(holder, 0);
	return -ENOMEM;
}

void held_clear(struct held *held, int fd, enum held_mark mark)
{
	if (!held_has(held, fd, mark))
		return;
	if (mark == HELD) {
		uint32_t own = held->identity;
		_Atomic uint32_t *holder = holder_of(fd, false);
		if (holder != NULL)
			atomic_compare_exchange_strong(holder, &own, 0);
		held->count--;
	}
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
	*held = (struct held) {.identity = held->identity};
}
