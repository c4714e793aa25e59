#include "closer.h"

#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdlib.h>

#include "os.h"

enum { MAX_THREADS = 16, STACK_SIZE = 128 * 1024 };

static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t submitted = PTHREAD_COND_INITIALIZER;
static struct closer_batch *first, **last = &first;
static int queued, idle, threads; /* all under the mutex */
static atomic_int pending;

static void close_batch(struct closer_batch *batch)
{
	const int32_t *fds = batch->fds;
	for (size_t i = 0, length; i < batch->count; i += length) {
		/* What came in one message mostly has numbers in sequence: one call for all of them. */
		for (length = 1; i + length < batch->count && fds[i + length] == fds[i] + (int32_t) length; length++)
			;
		batch->closed += os_close_range(fds[i], length);
		atomic_fetch_sub(&pending, (int) length);
	}
	if (batch->done != NULL)
		batch->done(batch);
	else
		free(batch);
}

static void *run(void *unused)
{
	(void) unused;
	pthread_mutex_lock(&mutex);
	for (;;) {
		idle++;
		while (first == NULL)
			pthread_cond_wait(&submitted, &mutex);
		idle--;
		queued--;
		struct closer_batch *batch = first;
		first = batch->next;
		if (first == NULL)
			last = &first;
		pthread_mutex_unlock(&mutex);
		close_batch(batch);
		pthread_mutex_lock(&mutex);
	}
	return NULL;
}

/* Signals are Node's business: none may be delivered to a helper. */
static bool start_thread(void)
{
	pthread_t thread;
	pthread_attr_t attributes;
	sigset_t all, before;
	if (pthread_attr_init(&attributes) != 0)
		return false;
	pthread_attr_setdetachstate(&attributes, PTHREAD_CREATE_DETACHED);
	pthread_attr_setstacksize(&attributes, STACK_SIZE);
	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &before);
	bool started = pthread_create(&thread, &attributes, run, NULL) == 0;
	pthread_sigmask(SIG_SETMASK, &before, NULL);
	pthread_attr_destroy(&attributes);
	return started;
}

void closer_submit(struct closer_batch *batch)
{
	atomic_fetch_add(&pending, (int) batch->count);
	batch->next = NULL;
	pthread_mutex_lock(&mutex);
	if (queued >= idle && threads < MAX_THREADS && start_thread())
		threads++;
	bool helped = threads > 0;
	if (helped) {
		*last = batch;
		last = &batch->next;
		queued++;
	}
	pthread_mutex_unlock(&mutex);
	/* Only now: a helper that wakes up before would wait once more, for the mutex. */
	if (helped)
		pthread_cond_signal(&submitted);
	else /* no thread can be had: better to wait here than to leak */
		close_batch(batch);
}

int closer_pending(void)
{
	return atomic_load(&pending);
}
