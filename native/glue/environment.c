#include "environment.h"

#include <pthread.h>
#include <sched.h>
#include <stdlib.h>

#include "watcher.h"

/* Shared by an environment and the batches that the closer has for it; the last one frees it. */
struct outbox {
	pthread_mutex_t mutex;
	int owners;
	struct environment *environment; /* NULL when it has ended: then what comes is dropped */
	struct closer_batch *first, **last;
	uv_async_t wakeup; /* touched by helpers only while there is an environment */
};

static void outbox_leave(struct outbox *outbox)
{
	pthread_mutex_lock(&outbox->mutex);
	bool last = --outbox->owners == 0;
	pthread_mutex_unlock(&outbox->mutex);
	if (!last)
		return;
	pthread_mutex_destroy(&outbox->mutex);
	free(outbox);
}

/* On a helper thread. */
static void on_batch_done(struct closer_batch *batch)
{
	struct outbox *outbox = batch->context;
	batch->next = NULL;
	pthread_mutex_lock(&outbox->mutex);
	if (outbox->environment == NULL) {
		free(batch);
	} else {
		*outbox->last = batch;
		outbox->last = &batch->next;
		uv_async_send(&outbox->wakeup);
	}
	pthread_mutex_unlock(&outbox->mutex);
	outbox_leave(outbox);
}

static struct closer_batch *outbox_empty(struct outbox *outbox)
{
	pthread_mutex_lock(&outbox->mutex);
	struct closer_batch *batches = outbox->first;
	outbox->first = NULL;
	outbox->last = &outbox->first;
	pthread_mutex_unlock(&outbox->mutex);
	return batches;
}

static void on_wakeup(uv_async_t *wakeup)
{
	struct environment *environment = wakeup->data;
	for (struct closer_batch *batch = outbox_empty(environment->outbox), *next; batch != NULL; batch = next) {
		int32_t tag = batch->tag;
		next = batch->next;
		if (environment->results != NULL)
			environment->results[RESULT_BYTES] = batch->closed;
		free(batch);
		environment_dispatch(environment, tag, CLOSED);
		environment_over(environment);
	}
}

static bool outbox_create(struct environment *environment)
{
	struct outbox *outbox = calloc(1, sizeof *outbox);
	if (outbox == NULL)
		return false;
	if (pthread_mutex_init(&outbox->mutex, NULL) != 0) {
		free(outbox);
		return false;
	}
	if (uv_async_init(environment->loop, &outbox->wakeup, on_wakeup) != 0) {
		pthread_mutex_destroy(&outbox->mutex);
		free(outbox);
		return false;
	}
	uv_unref((uv_handle_t *) &outbox->wakeup);
	outbox->wakeup.data = environment;
	outbox->owners = 1;
	outbox->last = &outbox->first;
	outbox->environment = environment;
	environment->outbox = outbox;
	environment->open_handles++;
	return true;
}

void environment_close_later(struct environment *environment, struct closer_batch *batch)
{
	struct outbox *outbox = environment->outbox;
	if (batch->tag > 0) {
		batch->done = on_batch_done;
		batch->context = outbox;
		pthread_mutex_lock(&outbox->mutex);
		outbox->owners++;
		pthread_mutex_unlock(&outbox->mutex);
		environment_begin(environment);
	}
	closer_submit(batch);
}

static void on_spin(uv_idle_t *spinning)
{
	struct environment *environment = spinning->data;
	if (uv_hrtime() >= environment->spin_until)
		uv_idle_stop(spinning);
	else
		sched_yield(); /* the one that we wait for may have been put on this core */
}

/* A loop with an idle handle that is active asks epoll without waiting, and serves everybody else in each round (uv_idle_t). */
int environment_spin(struct environment *environment, int microseconds)
{
	uint64_t until = uv_hrtime() + (uint64_t) (microseconds > 0 ? microseconds : 0) * 1000;
	if (until > environment->spin_until)
		environment->spin_until = until;
	return uv_idle_start(&environment->spinning, on_spin);
}

static void on_spinning_closed(uv_handle_t *spinning)
{
	environment_handle_closed(spinning->data);
}

static void spinning_create(struct environment *environment)
{
	uv_idle_init(environment->loop, &environment->spinning);
	uv_unref((uv_handle_t *) &environment->spinning);
	environment->spinning.data = environment;
	environment->open_handles++;
}

static void spinning_end(struct environment *environment)
{
	uv_close((uv_handle_t *) &environment->spinning, on_spinning_closed);
}

void environment_dispatch(struct environment *environment, int id, int events)
{
	napi_env env = environment->env;
	napi_handle_scope scope;
	if (environment->ending || environment->dispatch_reference == NULL || napi_open_handle_scope(env, &scope) != napi_ok)
		return;
	napi_value receiver, dispatch, arguments[2], error;
	if (napi_get_global(env, &receiver) == napi_ok
		&& napi_get_reference_value(env, environment->dispatch_reference, &dispatch) == napi_ok
		&& napi_create_int32(env, id, &arguments[0]) == napi_ok
		&& napi_create_int32(env, events, &arguments[1]) == napi_ok
		&& napi_make_callback(env, environment->context, receiver, dispatch, 2, arguments, NULL) == napi_pending_exception
		&& napi_get_and_clear_last_exception(env, &error) == napi_ok)
		napi_fatal_exception(env, error); /* refused, rightly, when a terminated worker is why the call failed */
	napi_close_handle_scope(env, scope);
}

void environment_begin(struct environment *environment)
{
	if (environment->under_way++ == 0)
		napi_reference_ref(environment->env, environment->binding, NULL);
}

void environment_over(struct environment *environment)
{
	if (--environment->under_way == 0 && !environment->ending)
		napi_reference_unref(environment->env, environment->binding, NULL);
}

static void free_environment(struct environment *environment)
{
	free(environment->watchers.slots);
	free(environment);
}

/* What nobody can close any more. Closing may wait, and here the program goes on: so the helpers do it. */
static void close_abandoned(struct environment *environment)
{
	size_t capacity = environment->held.capacity, count = (size_t) environment->held.count;
	struct closer_batch *batch = count == 0 ? NULL : calloc(1, sizeof *batch + count * sizeof *batch->fds);
	for (size_t fd = 0; batch != NULL && fd < capacity && environment->held.count > 0; fd++) {
		if (!held_has(&environment->held, (int) fd, HELD))
			continue;
		while (!held_drop(&environment->held, (int) fd))
			;
		batch->fds[batch->count++] = (int32_t) fd;
	}
	if (batch != NULL)
		closer_submit(batch);
}

/* The end: asked by Node or the collector, done when libuv has given every handle back. */
static void finish_ending(struct environment *environment)
{
	if (environment->collected)
		close_abandoned(environment);
	held_close_all(&environment->held);
	if (environment->hook != NULL)
		napi_remove_async_cleanup_hook(environment->hook);
	environment->ended = true;
	if (environment->collected)
		free_environment(environment);
}

void environment_handle_closed(struct environment *environment)
{
	if (--environment->open_handles == 0 && environment->ending)
		finish_ending(environment);
}

static void on_wakeup_closed(uv_handle_t *wakeup)
{
	struct environment *environment = wakeup->data;
	outbox_leave(environment->outbox);
	environment_handle_closed(environment);
}

static void outbox_end(struct outbox *outbox)
{
	pthread_mutex_lock(&outbox->mutex);
	outbox->environment = NULL;
	pthread_mutex_unlock(&outbox->mutex);
	for (struct closer_batch *batch = outbox_empty(outbox), *next; batch != NULL; batch = next) {
		next = batch->next;
		free(batch);
	}
	uv_close((uv_handle_t *) &outbox->wakeup, on_wakeup_closed);
}

static void end(struct environment *environment)
{
	environment->ending = true;
	watcher_end_all(environment);
	if (environment->dispatch_reference != NULL)
		napi_delete_reference(environment->env, environment->dispatch_reference);
	if (environment->context != NULL)
		napi_async_destroy(environment->env, environment->context);
	spinning_end(environment);
	outbox_end(environment->outbox);
}

/* The Node environment ends. */
static void on_end(napi_async_cleanup_hook_handle hook, void *data)
{
	struct environment *environment = data;
	(void) hook;
	if (!environment->ending)
		end(environment);
}

/* The binding and its functions are gone: its realm was torn down, or its Node environment has ended. Nothing is under way. */
static void on_collected(napi_env env, void *data, void *hint)
{
	struct environment *environment = data;
	(void) hint;
	environment->collected = true;
	napi_delete_reference(env, environment->binding);
	if (environment->ended)
		free_environment(environment);
	else if (!environment->ending)
		end(environment);
}

struct environment *environment_create(napi_env env, napi_value binding)
{
	struct environment *environment = calloc(1, sizeof *environment);
	if (environment == NULL)
		return NULL;
	environment->env = env;
	environment->held.identity = held_identity();
	if (napi_get_uv_event_loop(env, &environment->loop) != napi_ok || !outbox_create(environment)) {
		free(environment);
		return NULL;
	}
	spinning_create(environment);
	if (napi_add_async_cleanup_hook(env, on_end, environment, &environment->hook) != napi_ok
		|| napi_wrap(env, binding, environment, on_collected, NULL, &environment->binding) != napi_ok) {
		environment->collected = true; /* so that it is freed when its handles are closed */
		end(environment);
		return NULL;
	}
	return environment;
}
