/* What belongs to one Node environment (the main thread, or one worker), from its loading of the addon to its end. */
#ifndef PASSFD_ENVIRONMENT_H
#define PASSFD_ENVIRONMENT_H

#include <node_api.h>
#include <stdbool.h>
#include <uv.h>

#include "closer.h"
#include "held.h"

/* As in src/native.ts. */
enum { READABLE = 1, WRITABLE = 2, FAILED = 8, CLOSED = 16 };
enum { RESULT_BYTES, RESULT_DESCRIPTORS, RESULT_FLAGS, RESULT_FIRST };
enum { TRUNCATED = 1 };

struct environment {
	napi_env env;
	uv_loop_t *loop;
	napi_async_cleanup_hook_handle hook;
	bool ending;         /* no call into JavaScript any more, no new handle */
	size_t open_handles; /* of libuv: those whose close callback has not run yet */
	struct held held;
	struct watchers {
		struct watcher **slots; /* by id - 1; NULL if free */
		size_t capacity;
		size_t lowest_free; /* no free slot is below it */
	} watchers;
	struct outbox *outbox; /* where closed batches come back */
	uv_idle_t spinning;    /* active: the loop doesn't sleep */
	uint64_t spin_until;   /* in ns of uv_hrtime() */

	/* Since setup(): JavaScript's memory, kept by the references. */
	uint8_t *area;
	size_t area_length;
	size_t headroom;
	int32_t *results;
	size_t results_length;
	napi_ref area_reference, results_reference, dispatch_reference;
	napi_async_context context;
};

/* NULL if it fails. It ends with the Node environment. */
struct environment *environment_create(napi_env env);

/* To be called by the close callback of each libuv handle. */
void environment_handle_closed(struct environment *environment);

/* Calls JavaScript: afterwards any watcher may be gone. */
void environment_dispatch(struct environment *environment, int id, int events);

/* For so long the loop looks for events again and again instead of sleeping. */
int environment_spin(struct environment *environment, int microseconds);

/* The batch and its descriptors are the closer's from here on; with a tag > 0 dispatch follows. */
void environment_close_later(struct environment *environment, struct closer_batch *batch);

#endif
