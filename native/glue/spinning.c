#include "spinning.h"

#include <sched.h>

#include "watcher.h"

/* How many reads of the sockets, which find nothing, stand between two rounds of the loop. Other handles wait for them. */
enum { READS_A_ROUND = 16 };

static bool read_any(struct spinning *spinning)
{
	for (size_t i = 0; i < spinning->count; i++)
		if (watcher_read_now(spinning->environment, spinning->of[i].id))
			return true;
	return false;
}

/*
 * Reading takes one system call, and a round of the loop several before it reads. When something has come, the loop has its round next, so that
 * other handles don't wait.
 */
static void on_spin(uv_idle_t *idle)
{
	struct spinning *spinning = idle->data;
	uint64_t now = uv_hrtime();
	size_t kept = 0;
	for (size_t i = 0; i < spinning->count; i++)
		if (spinning->of[i].until > now)
			spinning->of[kept++] = spinning->of[i];
	spinning->count = kept;
	if (now >= spinning->until) {
		uv_idle_stop(idle);
		return;
	}
	sched_yield(); /* the one that we wait for may have been put on this core */
	for (size_t reads = 0; reads < READS_A_ROUND && kept > 0; reads += kept)
		if (read_any(spinning))
			return;
}

/* A loop with an idle handle that is active asks epoll without waiting, and serves everybody else in each round (uv_idle_t). */
int spinning_prolong(struct spinning *spinning, int id, int microseconds)
{
	uint64_t until = uv_hrtime() + (uint64_t) (microseconds > 0 ? microseconds : 0) * 1000;
	size_t at = 0;
	while (at < spinning->count && spinning->of[at].id != id)
		at++;
	if (at < MAX_SPINNING) {
		spinning->of[at] = (struct spinning_watcher) {.id = id, .until = until};
		if (at == spinning->count)
			spinning->count++;
	}
	if (until > spinning->until)
		spinning->until = until;
	return uv_idle_start(&spinning->idle, on_spin);
}

static void on_spinning_closed(uv_handle_t *idle)
{
	environment_handle_closed(((struct spinning *) idle->data)->environment);
}

void spinning_create(struct environment *environment)
{
	struct spinning *spinning = &environment->spinning;
	uv_idle_init(environment->loop, &spinning->idle);
	uv_unref((uv_handle_t *) &spinning->idle);
	spinning->idle.data = spinning;
	spinning->environment = environment;
	environment->open_handles++;
}

void spinning_end(struct spinning *spinning)
{
	uv_close((uv_handle_t *) &spinning->idle, on_spinning_closed);
}
