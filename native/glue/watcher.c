#include "watcher.h"

#include <errno.h>
#include <stdlib.h>

#include "../waist/os.h"
#include "inner_epoll.h"

/* What one wake-up may read of large bodies, in bytes and in reads: other handles wait meanwhile. */
enum { LARGE_A_WAKEUP = 1 << 20, READS_A_WAKEUP = 8 };

/* How much is read of what follows a target: mostly another large body, of which only this has to be copied into its own. */
enum { BEHIND_TARGET = 4096 };

struct watcher {
	uv_poll_t poll; /* must be first */
	struct environment *environment;
	int id;
	int fd;
	int inner; /* an epoll that watches `fd`, and is watched in its place; or -1 */
	int interest;
	bool reads;
	bool failed_before; /* the last wake-up was an error too, and reading could not tell which */
	uint8_t *target;
	size_t target_length;
	napi_ref target_reference;
};

/* Stands in the slot of a watcher that was forgotten, until unwatch frees the id. */
static struct watcher forgotten;

static struct watcher **slot_of(struct environment *environment, int id)
{
	struct watchers *watchers = &environment->watchers;
	if (id < 1 || (size_t) id > watchers->capacity || watchers->slots[id - 1] == NULL)
		return NULL;
	return &watchers->slots[id - 1];
}

static struct watcher *find(struct environment *environment, int id)
{
	struct watcher **slot = slot_of(environment, id);
	return slot == NULL || *slot == &forgotten ? NULL : *slot;
}

/* Returns an id whose slot is free, or -ENOMEM. */
static int free_id(struct watchers *watchers)
{
	size_t index = watchers->lowest_free;
	while (index < watchers->capacity && watchers->slots[index] != NULL)
		index++;
	if (index == watchers->capacity) {
		size_t capacity = index == 0 ? 16 : index * 2;
		struct watcher **slots = realloc(watchers->slots, capacity * sizeof *slots);
		if (slots == NULL)
			return -ENOMEM;
		for (size_t i = index; i < capacity; i++)
			slots[i] = NULL;
		watchers->slots = slots;
		watchers->capacity = capacity;
	}
	watchers->lowest_free = index;
	return (int) index + 1;
}

/* The target is filled first, by `most` bytes at most; the area is for what follows it. */
static int receive(struct watcher *watcher, size_t most)
{
	struct environment *environment = watcher->environment;
	int32_t *results = environment->results;
	size_t room = environment->area_length - environment->headroom, aimed = watcher->target_length;
	bool whole = aimed <= most;
	struct iovec chunks[2] = {
		{.iov_base = watcher->target, .iov_len = whole ? aimed : most},
		{.iov_base = environment->area + environment->headroom, .iov_len = room}
	};
	if (aimed > 0 && room > BEHIND_TARGET)
		chunks[1].iov_len = BEHIND_TARGET;
	struct os_rights rights = {
		.fds = results + RESULT_FIRST, .capacity = environment->results_length - RESULT_FIRST
	};
	int bytes = os_receive(watcher->fd, aimed > 0 ? chunks : chunks + 1, aimed > 0 && whole ? 2 : 1, &rights);
	size_t kept = 0;
	for (size_t i = 0; i < rights.count; i++) {
		int fd = held_take(&environment->held, rights.fds[i]);
		if (fd >= 0)
			rights.fds[kept++] = fd;
		else
			rights.truncated = true;
	}
	if (aimed > 0 && bytes > 0) {
		size_t consumed = (size_t) bytes < watcher->target_length ? (size_t) bytes : watcher->target_length;
		watcher->target += consumed;
		watcher->target_length -= consumed;
	}
	results[RESULT_BYTES] = bytes;
	results[RESULT_DESCRIPTORS] = (int32_t) kept;
	results[RESULT_FLAGS] = rights.truncated ? TRUNCATED : 0;
	return bytes;
}

int watcher_receive(struct environment *environment, int id)
{
	struct watcher *watcher = find(environment, id);
	return watcher == NULL ? -EBADF : receive(watcher, LARGE_A_WAKEUP);
}

/* Whether reading has told something. `failed`: there is an error, which reading tells after the last data. */
static bool read_on_wakeup(struct watcher *watcher, bool failed)
{
	if (receive(watcher, LARGE_A_WAKEUP) != -EAGAIN) {
		watcher->failed_before = false;
		return true;
	}
	/* Such as a filled error queue: it would wake us for ever. */
	bool hopeless = failed && watcher->failed_before;
	watcher->failed_before = failed;
	if (hopeless)
		watcher->environment->results[RESULT_BYTES] = -EIO;
	return hopeless;
}

/*
 * Tells what was read, and goes on reading while a large body is not complete: the rest is mostly there by now, or comes during this. To
 * wait for it in epoll takes longer, and may put this core to sleep.
 */
static void tell_and_read_on(struct watcher *watcher, int events)
{
	struct environment *environment = watcher->environment;
	int id = watcher->id, bytes = environment->results[RESULT_BYTES];
	size_t most = LARGE_A_WAKEUP;
	for (int reads = 1;; reads++) {
		environment_dispatch(environment, id, events);
		if (bytes <= 0 || (size_t) bytes >= most || reads == READS_A_WAKEUP)
			return;
		if (find(environment, id) != watcher || watcher->target_length == 0)
			return;
		most -= (size_t) bytes;
		bytes = receive(watcher, most);
		if (bytes == -EAGAIN)
			return;
		events = READABLE;
	}
}

bool watcher_read_now(struct environment *environment, int id)
{
	struct watcher *watcher = find(environment, id);
	if (watcher == NULL || !watcher->reads || watcher->interest != READABLE)
		return false;
	if (receive(watcher, LARGE_A_WAKEUP) == -EAGAIN)
		return false;
	watcher->failed_before = false;
	tell_and_read_on(watcher, READABLE);
	return true;
}

static void on_ready(uv_poll_t *poll, int status, int ready)
{
	struct watcher *watcher = (struct watcher *) poll;
	struct environment *environment = watcher->environment;
	int id = watcher->id, events = ready & WRITABLE;
	if (status == 0 && watcher->inner >= 0) {
		ready = inner_epoll_events(watcher->inner, watcher->interest);
		if (ready < 0) {
			status = ready;
			uv_poll_stop(poll);
		}
		events = ready & WRITABLE;
	}
	bool failed = status < 0; /* libuv has stopped the handle */
	if (failed && !watcher->reads) {
		watcher->interest = 0;
		environment_dispatch(environment, id, FAILED);
		return;
	}
	if (failed) {
		ready = watcher->interest;
		events = ready & WRITABLE;
	}
	if ((ready & READABLE) != 0 && (!watcher->reads || read_on_wakeup(watcher, failed)))
		events |= READABLE;
	if ((events & READABLE) != 0 && watcher->reads)
		tell_and_read_on(watcher, events);
	else if (events != 0)
		environment_dispatch(environment, id, events);
	if (failed && find(environment, id) == watcher && watcher->interest != 0)
		uv_poll_start(&watcher->poll, watcher->interest, on_ready);
}

int watcher_watch(struct environment *environment, int fd, bool reads)
{
	int id = environment->results == NULL ? -EINVAL : free_id(&environment->watchers); /* setup() comes first */
	if (id < 0)
		return id;
	/* libuv accepts a second handle for a number when the first is stopped, and then confuses them. */
	if (fd < 0 || held_has(&environment->held, fd, WATCHED))
		return fd < 0 ? -EBADF : -EEXIST;
	int inner, error = inner_epoll_create(fd, reads, &inner);
	if (error < 0)
		return error;
	struct watcher *watcher = calloc(1, sizeof *watcher);
	error = watcher == NULL ? -ENOMEM : uv_poll_init(environment->loop, &watcher->poll, inner < 0 ? fd : inner);
	if (error < 0) {
		if (inner >= 0)
			os_close(inner);
		free(watcher);
		return error;
	}
	watcher->inner = inner;
	environment->open_handles++;
	environment_begin(environment);
	environment->watchers.slots[id - 1] = watcher;
	watcher->environment = environment;
	watcher->id = id;
	watcher->fd = fd;
	watcher->reads = reads;
	error = held_set(&environment->held, fd, WATCHED);
	if (error == 0)
		error = watcher_interest(environment, id, READABLE);
	if (error < 0)
		watcher_unwatch(environment, id);
	return error < 0 ? error : id;
}

int watcher_interest(struct environment *environment, int id, int events)
{
	struct watcher *watcher = find(environment, id);
	if (watcher == NULL)
		return -EBADF;
	watcher->interest = events & (READABLE | WRITABLE);
	if (watcher->interest == 0)
		return uv_poll_stop(&watcher->poll);
	if (watcher->inner < 0)
		return uv_poll_start(&watcher->poll, watcher->interest, on_ready);
	int error = inner_epoll_interest(watcher->inner, watcher->fd, watcher->interest);
	return error < 0 ? error : uv_poll_start(&watcher->poll, UV_READABLE, on_ready);
}

int watcher_keep_alive(struct environment *environment, int id, bool on)
{
	struct watcher *watcher = find(environment, id);
	if (watcher == NULL)
		return -EBADF;
	(on ? uv_ref : uv_unref)((uv_handle_t *) &watcher->poll);
	return 0;
}

int watcher_target(struct environment *environment, int id, napi_ref reference, uint8_t *bytes, size_t length)
{
	struct watcher *watcher = find(environment, id);
	if (watcher == NULL)
		return -EBADF;
	if (watcher->target_reference != NULL)
		napi_delete_reference(environment->env, watcher->target_reference);
	watcher->target_reference = reference;
	watcher->target = bytes;
	watcher->target_length = reference == NULL ? 0 : length;
	return 0;
}

static void on_closed(uv_handle_t *handle)
{
	struct environment *environment = ((struct watcher *) handle)->environment;
	free(handle);
	environment_handle_closed(environment);
}

static void end(struct watcher *watcher)
{
	struct environment *environment = watcher->environment;
	watcher_target(environment, watcher->id, NULL, NULL, 0);
	held_clear(&environment->held, watcher->fd, WATCHED);
	uv_close((uv_handle_t *) &watcher->poll, on_closed); /* takes it out of epoll at once */
	if (watcher->inner >= 0)
		os_close(watcher->inner);
	environment_over(environment);
}

int watcher_unwatch(struct environment *environment, int id)
{
	struct watcher **slot = slot_of(environment, id);
	if (slot == NULL)
		return -EBADF;
	if (*slot != &forgotten)
		end(*slot);
	*slot = NULL;
	if ((size_t) id - 1 < environment->watchers.lowest_free)
		environment->watchers.lowest_free = (size_t) id - 1;
	return 0;
}

void watcher_forget(struct environment *environment, int fd)
{
	struct watchers *watchers = &environment->watchers;
	for (size_t i = 0; i < watchers->capacity; i++) {
		struct watcher *watcher = find(environment, (int) i + 1);
		if (watcher == NULL || watcher->fd != fd)
			continue;
		end(watcher);
		watchers->slots[i] = &forgotten;
	}
}

void watcher_end_all(struct environment *environment)
{
	for (size_t i = 0; i < environment->watchers.capacity; i++)
		watcher_unwatch(environment, (int) i + 1);
}
