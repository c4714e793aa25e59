/*
 * What the threads of a process share in the waist: the closer's queue, and the pages that say which environment holds a number. Each thread is an environment:
 * it opens descriptors, gives some up to the others, adopts what they gave up, and closes the rest by the closer. Built with the thread sanitizer.
 */
#include <dirent.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "../../native/waist/closer.h"
#include "../../native/waist/held.h"
#include "../../native/waist/os.h"

enum { THREADS = 8, TURNS = 2000, MOST = 8, PLACES = 64 };

/* Numbers that a thread has given up, plus one: whoever takes one out adopts it. */
static atomic_int given_up[PLACES];
static atomic_int failures, done_batches, submitted;

static void check(bool holds, const char *what)
{
	if (holds)
		return;
	atomic_fetch_add(&failures, 1);
	fprintf(stderr, "%s\n", what);
}

static void on_done(struct closer_batch *batch)
{
	check((size_t) batch->closed == batch->count, "the closer has closed all of a batch");
	atomic_fetch_add(&done_batches, 1);
	free(batch);
}

static int open_count(void)
{
	int count = 0;
	DIR *folder = opendir("/proc/self/fd");
	while (readdir(folder) != NULL)
		count++;
	closedir(folder);
	return count;
}

static int open_one(struct held *held)
{
	int fd = open("/dev/null", O_RDONLY | O_CLOEXEC);
	check(fd >= 0 && held_set(held, fd, HELD) == 0, "a new number is held");
	return fd;
}

static void *live(void *unused)
{
	(void) unused;
	struct held held = {.identity = held_identity()};
	unsigned int seed = held.identity;
	for (int turn = 0; turn < TURNS; turn++) {
		atomic_int *place = &given_up[rand_r(&seed) % PLACES];
		int taken = atomic_exchange(place, 0) - 1;
		if (taken >= 0)
			check(held_adopt(&held, taken) == 0, "a number that was given up is adopted");
		struct closer_batch *batch = calloc(1, sizeof *batch + MOST * sizeof *batch->fds);
		int count = rand_r(&seed) % MOST;
		for (int i = 0; i < count; i++)
			batch->fds[batch->count++] = open_one(&held);
		if (taken >= 0 && count < MOST)
			batch->fds[batch->count++] = taken;
		for (size_t i = 0; i < batch->count; i++)
			check(held_drop(&held, batch->fds[i]), "what is closed was held once");
		batch->done = rand_r(&seed) % 2 == 0 ? on_done : NULL;
		if (batch->done != NULL)
			atomic_fetch_add(&submitted, 1);
		closer_submit(batch);
		int given = open_one(&held), nobody = 0;
		check(held_drop(&held, given), "what is given up was held once");
		if (!atomic_compare_exchange_strong(place, &nobody, given + 1))
			close(given);
	}
	check(held.count == 0, "nothing is held at the end");
	held_close_all(&held);
	return NULL;
}

int main(void)
{
	int before = open_count();
	pthread_t threads[THREADS];
	for (int i = 0; i < THREADS; i++)
		check(pthread_create(&threads[i], NULL, live, NULL) == 0, "a thread starts");
	for (int i = 0; i < THREADS; i++)
		pthread_join(threads[i], NULL);
	for (int i = 0; i < PLACES; i++)
		if (given_up[i] != 0)
			close(given_up[i] - 1);
	while (closer_pending() > 0 || atomic_load(&done_batches) < atomic_load(&submitted))
		usleep(100);
	check(open_count() == before, "nothing is left open");
	printf("%d batches came back\n", atomic_load(&done_batches));
	return atomic_load(&failures) == 0 ? 0 : 1;
}
