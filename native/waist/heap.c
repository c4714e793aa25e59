/* Memory that large bodies are received into. It comes from the C library's malloc(), by way of JavaScript's engine. */
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#include "os.h"

/* malloc() of glibc maps so large a block by itself and never in its heap (M_MMAP_THRESHOLD, mallopt(3)). */
static const size_t OWN_MAPPING = 32 << 20;
static const size_t HUGE_PAGE = 2 << 20;

/* In bytes. Large enough that free() merges it with its neighbours at once. */
enum { PIN = 4096 };

static void use_huge_pages(uintptr_t start, size_t length)
{
	uintptr_t first = (start + HUGE_PAGE - 1) & ~(uintptr_t) (HUGE_PAGE - 1), end = (start + length) & ~(uintptr_t) (HUGE_PAGE - 1);
	madvise((void *) first, end - first, MADV_HUGEPAGE); /* if it fails, the pages stay small */
}

void *os_prepare_heap(void *pin, void *block, size_t length)
{
	uintptr_t start = (uintptr_t) block;
	if (length >= OWN_MAPPING)
		use_huge_pages(start, length);
#ifdef __GLIBC__
	uintptr_t top = (uintptr_t) sbrk(0);
	if (start >= top || start < (uintptr_t) pin)
		return pin;
	/* The heap had no room of this size, or the block would not be above the pin: so the next one is above the block. */
	void *next = malloc(length);
	if (next == NULL || (uintptr_t) next < start || (uintptr_t) next >= (uintptr_t) sbrk(0)) {
		free(next);
		return pin;
	}
	free(pin);
	void *small = realloc(next, PIN);
	if (small == NULL)
		return next;
	return small;
#else
	return pin;
#endif
}

void os_release_heap(void *pin)
{
	free(pin);
}
