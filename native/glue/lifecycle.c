#include "lifecycle.h"

#include <stdlib.h>

#include "../waist/os.h"
#include "closed_batches.h"
#include "spinning.h"
#include "turns.h"
#include "watcher.h"

static void end(struct environment *environment)
{
	environment->ending = true;
	watcher_end_all(environment);
	if (environment->dispatch_reference != NULL)
		napi_delete_reference(environment->env, environment->dispatch_reference);
	if (environment->context != NULL)
		napi_async_destroy(environment->env, environment->context);
	spinning_end(&environment->spinning);
	turns_end(environment);
	os_release_heap(environment->heap_pin);
	environment->heap_pin = NULL;
	closed_batches_end(environment->closed_batches);
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
		environment_free(environment);
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
	if (napi_get_uv_event_loop(env, &environment->loop) != napi_ok || !closed_batches_create(environment)) {
		free(environment);
		return NULL;
	}
	spinning_create(environment);
	turns_create(environment);
	if (napi_add_async_cleanup_hook(env, on_end, environment, &environment->hook) != napi_ok
		|| napi_wrap(env, binding, environment, on_collected, NULL, &environment->binding) != napi_ok) {
		environment->collected = true; /* so that it is freed when its handles are closed */
		end(environment);
		return NULL;
	}
	return environment;
}
