/*
 * What belongs to one evaluation of passfd: there may be several in a Node environment (the main thread, or one worker). It begins with
 * create() and ends with the Node environment, or when the collector finds that nothing of that evaluation is in use any more.
 */
#ifndef PASSFD_ENVIRONMENT_H
#define PASSFD_ENVIRONMENT_H

#include <node_api.h>
#include <stdbool.h>
#include <uv.h>

#include "../waist/closer.h"
#include "../waist/held.h"

/* As in src/os/native.ts. */
enum { READABLE = 1, WRITABLE = 2, FAILED = 8, CLOSED = 16 };
enum { RESULT_BYTES, RESULT_DESCRIPTORS, RESULT_FLAGS, RESULT_FIRST };
enum { TRUNCATED = 1 };

/* Of how many sockets a spinning loop reads directly. With more of them epoll is cheaper. */
enum { MAX_SPINNING = 4 };

struct environment {
	napi_env env;
	uv_loop_t *loop;
	napi_async_cleanup_hook_handle hook;
	bool ending;         /* no call into JavaScript any more, no new handle */
	bool ended;          /* every handle is closed */
	bool collected;      /* nobody can call its functions any more */
	size_t open_handles; /* of libuv: those whose close callback has not run yet */
	struct held held;
	struct watchers {
		struct watcher **slots; /* by id - 1; NULL if free */
		size_t capacity;
		size_t lowest_free; /* no free slot is below it */
	} watchers;
	napi_ref binding;      /* the object with the functions, which keep it; weak while nothing is under way */
	size_t under_way;      /* watchers, and batches that dispatch will report */
	struct closed_batches *closed_batches; /* where they come back */
	struct spinning {
		uv_idle_t idle; /* active: the loop doesn't sleep */
		struct environment *environment;
		uint64_t until; /* in ns of uv_hrtime() */
		struct spinning_watcher { int id; uint64_t until; } of[MAX_SPINNING];
		size_t count;
	} spinning;
	uv_prepare_t turns;    /* active: turns of the loop are measured */
	uint64_t turn_since;   /* when this turn began, in ns of uv_hrtime() */
	uint64_t turn_idle;    /* how long the loop had slept until then, in ns */
	uint64_t longest_turn; /* since it was asked for, in ns */
	void *heap_pin;        /* of os_prepare_heap(), or NULL */

	/* Since setup(): JavaScript's memory, kept by the binding. */
	uint8_t *area;
	size_t area_length;
	size_t headroom;
	int32_t *results;
	size_t results_length;
	napi_ref dispatch_reference; /* weak: the binding keeps the function */
	napi_async_context context;
};

/* Something that will call into JavaScript: until it is over, the collector leaves the binding and what it keeps alone. */
void environment_begin(struct environment *environment);
void environment_over(struct environment *environment);

/* To be called by the close callback of each libuv handle. */
void environment_handle_closed(struct environment *environment);

/* Calls JavaScript: afterwards any watcher may be gone. */
void environment_dispatch(struct environment *environment, int id, int events);

/* Its memory: every handle is closed, and nobody can call its functions any more. */
void environment_free(struct environment *environment);

#endif
