#include "closed_batches.h"

#include <pthread.h>
#include <stdlib.h>

/* Shared by an environment and the batches that the closer has for it; the last one frees it. */
struct closed_batches {
	pthread_mutex_t mutex;
	int owners;
	struct environment *environment; /* NULL when it has ended: then what comes is dropped */
	struct closer_batch *first, **last;
	uv_async_t wakeup; /* touched by helpers only while there is an environment */
};

static void leave(struct closed_batches *queue)
{
	pthread_mutex_lock(&queue->mutex);
	bool last = --queue->owners == 0;
	pthread_mutex_unlock(&queue->mutex);
	if (!last)
		return;
	pthread_mutex_destroy(&queue->mutex);
	free(queue);
}

/* On a helper thread. */
static void on_batch_done(struct closer_batch *batch)
{
	struct closed_batches *queue = batch->context;
	batch->next = NULL;
	pthread_mutex_lock(&queue->mutex);
	if (queue->environment == NULL) {
		free(batch);
	} else {
		*queue->last = batch;
		queue->last = &batch->next;
		uv_async_send(&queue->wakeup);
	}
	pthread_mutex_unlock(&queue->mutex);
	leave(queue);
}

static struct closer_batch *take_all(struct closed_batches *queue)
{
	pthread_mutex_lock(&queue->mutex);
	struct closer_batch *batches = queue->first;
	queue->first = NULL;
	queue->last = &queue->first;
	pthread_mutex_unlock(&queue->mutex);
	return batches;
}

static void on_wakeup(uv_async_t *wakeup)
{
	struct environment *environment = wakeup->data;
	for (struct closer_batch *batch = take_all(environment->closed_batches), *next; batch != NULL; batch = next) {
		int32_t tag = batch->tag;
		next = batch->next;
		if (environment->results != NULL)
			environment->results[RESULT_BYTES] = batch->closed;
		free(batch);
		environment_dispatch(environment, tag, CLOSED);
		environment_over(environment);
	}
}

bool closed_batches_create(struct environment *environment)
{
	struct closed_batches *queue = calloc(1, sizeof *queue);
	if (queue == NULL)
		return false;
	if (pthread_mutex_init(&queue->mutex, NULL) != 0) {
		free(queue);
		return false;
	}
	if (uv_async_init(environment->loop, &queue->wakeup, on_wakeup) != 0) {
		pthread_mutex_destroy(&queue->mutex);
		free(queue);
		return false;
	}
	uv_unref((uv_handle_t *) &queue->wakeup);
	queue->wakeup.data = environment;
	queue->owners = 1;
	queue->last = &queue->first;
	queue->environment = environment;
	environment->closed_batches = queue;
	environment->open_handles++;
	return true;
}

void closed_batches_submit(struct environment *environment, struct closer_batch *batch)
{
	struct closed_batches *queue = environment->closed_batches;
	if (batch->tag > 0) {
		batch->done = on_batch_done;
		batch->context = queue;
		pthread_mutex_lock(&queue->mutex);
		queue->owners++;
		pthread_mutex_unlock(&queue->mutex);
		environment_begin(environment);
	}
	closer_submit(batch);
}

static void on_wakeup_closed(uv_handle_t *wakeup)
{
	struct environment *environment = wakeup->data;
	leave(environment->closed_batches);
	environment_handle_closed(environment);
}

void closed_batches_end(struct closed_batches *queue)
{
	pthread_mutex_lock(&queue->mutex);
	queue->environment = NULL;
	pthread_mutex_unlock(&queue->mutex);
	for (struct closer_batch *batch = take_all(queue), *next; batch != NULL; batch = next) {
		next = batch->next;
		free(batch);
	}
	uv_close((uv_handle_t *) &queue->wakeup, on_wakeup_closed);
}
