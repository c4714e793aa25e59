#include "environment.h"

#include <stdlib.h>

void environment_dispatch(struct environment *environment, int id, int events)
{
	napi_env env = environment->env;
	napi_handle_scope scope;
	if (environment->ending || environment->dispatch_reference == NULL || napi_open_handle_scope(env, &scope) != napi_ok)
		return;
	napi_value dispatch, arguments[2], error;
	if (napi_get_reference_value(env, environment->dispatch_reference, &dispatch) == napi_ok
		&& napi_create_int32(env, id, &arguments[0]) == napi_ok
		&& napi_create_int32(env, events, &arguments[1]) == napi_ok
		&& napi_make_callback(env, environment->context, dispatch, dispatch, 2, arguments, NULL) == napi_pending_exception
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

void environment_free(struct environment *environment)
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
		environment_free(environment);
}

void environment_handle_closed(struct environment *environment)
{
	if (--environment->open_handles == 0 && environment->ending)
		finish_ending(environment);
}
